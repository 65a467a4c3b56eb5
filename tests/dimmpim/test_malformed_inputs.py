"""Whatever is given to the command line: exit status 2, one line, no traceback, and no file that was not there."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dimmpim.cli import main


def _sibling(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


malformed, malformed_files = _sibling("malformed"), _sibling("malformed_files")

CASES = malformed.malformed()
GROUPS = sorted({next(iter(case), "") for case in CASES})
KINDS = ("kv", "commands", "requests", "program", "words", "config", "model", "prompts", "table")
READERS = {
    "npz": "attention --preset tiny --layer 0 --step 0 --kv",
    "csv": "export ramulator2 --preset tiny --form commands --out new --trace",
    "requests": "workload --trace",
    "s": "asm",
    "bin": "disasm",
    "json": "serve --system GPU --lengths OpenR1 --requests 1 --until 1e-3 --model",
    "gguf": "generate --prompt a --preset tiny --tokens 1 --model",
    "txt": "batch --model gone.gguf --prompts",
}
"""A command that reads each format; the name of the file comes last."""

relaxed = partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with right and damaged files, which is the working folder."""
    path, before = tmp_path_factory.mktemp("malformed"), Path.cwd()
    malformed_files.fill(path)
    path.joinpath("cases").write_text("\0".join("\n".join(case) for case in malformed_files.damaged(path)))
    os.chdir(path)
    yield path
    os.chdir(before)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fault_of(in_process, arguments, folder):
    """What is wrong with how the command line ends; None if nothing is."""
    before = sorted(os.listdir(folder))
    status, out, err = in_process(*arguments)
    one_line = err.startswith("dimmpim: error: ") and err.endswith("\n") and err.count("\n") == 1
    if (status, out) == (2, "") and one_line and sorted(os.listdir(folder)) == before:
        return None
    return (
        [part[:60] for part in arguments],
        status,
        out[:200],
        err[-800:],
        sorted(set(os.listdir(folder)) - set(before)),
    )


def test_there_are_at_least_600_different_inputs(folder):
    damaged = (folder / "cases").read_text().split("\0")
    assert len(set(CASES)) >= 2000
    assert len(set(damaged)) == len(damaged) >= 300
    assert {case.split("_")[0].split("\n")[-1] for case in damaged} & set(KINDS)


def test_every_option_of_every_command_has_malformed_inputs():
    tried = {case for case in CASES if case}
    for name, command in malformed.commands():
        of_command = [case for case in tried if case[: len(name.split())] == tuple(name.split())]
        for param in command.params:
            for spelling in param.opts if param.param_type_name == "option" else ():
                assert any(spelling in case or f"{spelling}=1" in case for case in of_command), (name, spelling)


@pytest.mark.parametrize("group", GROUPS)
def test_command_lines(group, in_process, folder):
    before = contents(folder)
    faults = [fault_of(in_process, case, folder) for case in CASES if next(iter(case), "") == group]
    assert [fault for fault in faults if fault] == []
    assert contents(folder) == before


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, in_process, folder):
    before = contents(folder)
    cases = [tuple(case.split("\n")) for case in (folder / "cases").read_text().split("\0")]
    chosen = [case for case in cases if any(part.startswith(f"{kind}_") for part in case)]
    assert len(chosen) >= 3
    assert [fault for case in chosen if (fault := fault_of(in_process, case, folder))] == []
    assert contents(folder) == before


def ends_well(in_process, arguments):
    """The command line works, or refuses with one line."""
    status, out, err = in_process(*arguments)
    Path("new").unlink(missing_ok=True)
    assert status in (0, 2), err
    assert "Traceback" not in err
    if status == 2:
        assert out == ""
        assert err.startswith("dimmpim: error: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize("form", READERS)
def test_random_bytes_as_a_file(form, in_process, folder):
    good = Path(f"good.{form}")
    magic = good.read_bytes()[:30] if good.exists() else b""

    @relaxed(max_examples=40)
    @given(st.sampled_from((0, 4, 8, 30)), st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
    def check(kept, noise):
        Path(f"random.{form}").write_bytes(magic[:kept] + noise)
        ends_well(in_process, (*READERS[form].split(), f"random.{form}"))

    check()


@pytest.mark.parametrize("form", [form for form in READERS if form not in ("json", "txt", "requests")])
def test_flipped_bytes_and_cut_off_files(form, in_process, folder):
    good = Path(f"good.{form}").read_bytes()
    place = st.integers(0, min(len(good), 4000) - 1)

    @relaxed(max_examples=40)
    @given(st.lists(st.tuples(place, st.integers(1, 255)), max_size=3), st.none() | st.integers(0, len(good)))
    def check(flips, end):
        content = bytearray(good)
        for at, by in flips:
            content[at] ^= by
        Path(f"changed.{form}").write_bytes(content[:end])
        ends_well(in_process, (*READERS[form].split(), f"changed.{form}"))

    check()


TEXTS = st.text("0123456789,:x.- e+²", max_size=30) | st.text(max_size=30).filter(lambda text: "\0" not in text)


@relaxed(max_examples=150)
@given(
    st.sampled_from(
        (
            ("attention", "--preset", "ddr4-3200-x8-8gb-bf16", "--shape"),
            ("ablation", "--preset", "nope", "--tokens"),
            ("scheduling", "--preset", "nope", "--tokens"),
            ("generate", "--prompt", "a" * 9000, "--model", "good.gguf", "--preset", "tiny", "--layers-on-pim"),
            ("export", "llmservingsim", "--preset", "ddr4-3200-x8-8gb", "--ranks", "64", "--out", "n.ini", "--heads"),
            ("sweep", "attention", "--preset", "tiny", "--shape", "4,2,16", "--out", "half.csv", "--tokens"),
            ("sweep", "serve", "--system", "GPU", *malformed.SERVING, "--out", "half.csv", "--rate"),
            ("sweep", "serve", "--system", "GPU", *malformed.SERVING, "--out", "half.csv", "--channels"),
            ("serve", *malformed.SERVING, "--system"),
            ("serve", "--system", "GPU", "--lengths", "OpenR1", "--model"),
            ("compare", *malformed.SERVING, "--systems"),
            ("verilog", "--preset", "tiny", "--out", "new", "--unit"),
            ("simulate", "--preset", "tiny", "--unit", "nope", "--vectors"),
            ("formal",),
        )
    ),
    TEXTS,
)
@example(("attention", "--preset", "ddr4-3200-x8-8gb-bf16", "--shape"), "8,2,128,64")
@example(("sweep", "attention", "--preset", "tiny", "--shape", "4,2,16", "--out", "half.csv", "--tokens"), "1:9:2")
def test_random_text_as_a_value(in_process, folder, start, text):
    """Even right text is refused here, for another reason."""
    text = text or "x"
    arguments = (*start[:-1], f"{start[-1]}={text}") if len(start) > 1 else (*start, "--", text)
    assert fault_of(in_process, arguments, folder) is None


def process(*arguments, **kind):
    command = [sys.executable, "-c", "from dimmpim.cli import main; main()", *arguments]
    return subprocess.run(command, check=False, **{"capture_output": True, **kind})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("asm", "/dev/zero"), b"/dev/zero has more than 1,048,576 bytes"),
        (("attention", "--preset", "tiny", "--kv", "/dev/zero", "--layer", "0", "--step", "0"), b"a regular file"),
        (("generate", "--prompt", b"\xff", "--preset", "tiny"), b"is not UTF-8"),
        (("serve", "--system", "exits.py:X", *malformed.SERVING), b"exits.py: SystemExit: 0"),
        (("isa", "--out", "/dev/full"), b"No space left on device: /dev/full"),
        (("sweep", "serve", "--system", "GPU", "--model", "deep.json", "--out", "new.csv"), b"not JSON"),
    ],
)
def test_a_real_process_ends_likewise(arguments, text, folder):
    done = process(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert done.stderr.startswith(b"dimmpim: error: ")
    assert text in done.stderr


def test_a_disk_without_room_is_told_before_the_work(folder):
    full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    done = process("pim-energy", "--preset", "ddr4-3200-x8-8gb", "--out", "new.json.d", preexec_fn=full, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"dimmpim: error: File too large: new.json.d\n"
    assert not (folder / "new.json.d").exists()


def test_full_standard_output_is_one_line(folder):
    with open("/dev/full", "w") as full:
        done = process("isa", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert (done.returncode, done.stderr) == (2, b"dimmpim: error: No space left on device: standard output\n")


def test_a_reader_that_goes_away_is_no_fault(folder):
    command = f"{sys.executable} -c 'from dimmpim.cli import main; main()' presets --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"[", b"")


@pytest.mark.parametrize("arguments", [(), ("sweep",), ("export",)])
def test_without_a_command_the_help_is_shown(arguments, in_process):
    status, out, err = in_process(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"Usage: {' '.join(('dimmpim', *arguments))} [OPTIONS] COMMAND")


SYSTEM = """
import sys
from pimhost.systems.gpu_only import GpuOnly

class Leaves(GpuOnly):
    name = "leaves"
    def __init__(self, *arguments):
        sys.exit(0)
"""


def test_a_system_that_ends_the_process_is_a_failure(in_process, folder):
    Path("leaves.py").write_text(SYSTEM)
    status, out, err = in_process("serve", "--system", "leaves.py:Leaves", *malformed.SERVING, "--json", "new")
    assert (status, out, err) == (1, "", "dimmpim: error: leaves: SystemExit: 0\n")
    status, out, err = in_process("compare", "--systems", "leaves.py:Leaves", *malformed.SERVING, "--jobs", "1")
    assert (status, err) == (1, "")
    assert "leaves: SystemExit: 0" in out
    Path("leaves.py").unlink()
    assert not Path("new").exists()


def test_an_exit_from_anywhere_is_no_success(capsys, monkeypatch):
    monkeypatch.setattr("dimmpim.cli.cli.main", lambda **kind: sys.exit(0))
    with pytest.raises(SystemExit) as ended:
        main(["presets"])
    assert ended.value.code == 1
    assert "ended by sys.exit()" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (MemoryError(), 2, "not enough memory; smaller sizes need less"),
        (RecursionError("deep"), 2, "the input is nested too deeply"),
        (OSError(28, "No space left on device"), 2, "No space left on device: standard output"),
        (KeyError("a\nb"), 70, "internal error: KeyError: 'a\\nb' (set DIMMPIM_TRACEBACK=1 to see where)"),
    ],
)
def test_other_ends(error, status, text, capsys, monkeypatch):
    def fail(**kind):
        raise error

    monkeypatch.setattr("dimmpim.cli.cli.main", fail)
    with pytest.raises(SystemExit) as ended:
        main(["presets"])
    assert ended.value.code == status
    printed = capsys.readouterr().err
    assert text in printed
    assert printed.count("\n") == 1


def test_an_interrupt_while_verilog_is_made_is_one_line(folder):
    code = """
import pimhw.pim_rank
from amaranth.hdl import Elaboratable
from dimmpim.cli import main

def interrupted(rank):
    half_built = Elaboratable()
    raise KeyboardInterrupt

pimhw.pim_rank.rank_verilog = interrupted
main(["verilog", "--preset", "tiny", "--rank", "--out", "new"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"dimmpim: interrupted\n")
