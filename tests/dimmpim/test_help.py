"""Help texts: every command and option has one, and every example in them is a command line that is accepted."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from dimmpim.cli import cli
from pimhost.models import shape_named
from pimhost.systems.registry import SYSTEMS
from pimspec.params.presets import PRESETS


def _walk(command, path, parent):
    context = click.Context(command, info_name=path[-1] if path else "dimmpim", parent=parent)
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _walk(command.get_command(context, name), (*path, name), context)


ALL = {" ".join(path): (command, context) for path, command, context in _walk(cli, (), None)}


def _examples(command):
    """Command lines in the help, continued lines joined."""
    _, _, text = (command.help or "").partition("Examples:")
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("dimmpim")]


EXAMPLES = [(name, example) for name, (command, _) in ALL.items() for example in _examples(command)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with what examples name as if it were there."""
    for name in ("gpu_profiles", "host/pimhost/gpu", "host/pimhost/systems"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_has_a_help_text(name):
    command, context = ALL[name]
    first = (command.help or "").strip().splitlines()[0]
    assert first[0].isupper()
    assert first.endswith((".", ":"))
    assert "Examples:" in command.help
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, f"{name} {param.opts}"
            assert param.help[0].isupper() or re.match(r"[a-z0-9, _]+: [a-z]", param.help), param.help
            assert param.help.endswith((".", "]")), param.help
            assert not re.match(r"(Of|That|To|So|Whose|Here|In|At|On) ", param.help), param.help
    assert "Options:" in command.get_help(context)


def test_there_are_examples_of_each_command():
    assert len(EXAMPLES) >= 60
    assert {name for name, _ in EXAMPLES} == set(ALL)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_examples_are_accepted(name, example, folder):
    words = shlex.split(example)[1:]
    command, context, path = cli, click.Context(cli, info_name="dimmpim"), []
    while isinstance(command, click.Group):
        path.append(words.pop(0))
        command = command.get_command(context, path[-1])
        assert command is not None, example
    given = command.make_context(path[-1], words, parent=context).params
    assert given.get("preset_name") is None or given["preset_name"] in PRESETS
    for system in (*_several(given.get("system")), *(given.get("systems") or "").split(",")):
        assert not system or system in SYSTEMS or re.fullmatch(r"[a-z_]+\.py:[A-Za-z]+", system), system
    for model in _several(given.get("model")):
        shape_named(model)


def _several(value):
    return value if isinstance(value, tuple) else () if value is None else (value,)


CHEAP = {"presets", "compile", "isa", "workload"}
SHAPE = ("--preset", "tiny", "--kv-heads", "2", "--head-dim", "16")
SERVING = ("--model", "Llama-3.1-8B", "--lengths", "OpenR1", "--requests", "2")


@pytest.mark.parametrize(
    "example",
    [example for _, example in EXAMPLES if example.split()[1] in CHEAP and "--trace" not in example]
    + ["dimmpim formal --list", "dimmpim attention --preset tiny --shape 4,2,16,300"],
)
def test_cheap_examples_work(example, in_process, folder):
    status, out, err = in_process(*shlex.split(example)[1:])
    assert (status, err) == (0, "")
    assert out or any(folder.glob("*.*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("presets", "--json", "-"),
        ("presets", "--json"),
        ("capacity", "--trials", "1", "--json", "-"),
        ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--json", "-"),
        ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--backend", "timing", "--json", "-"),
        ("scheduling", *SHAPE, "--tokens", "64", "--backend", "timing", "--json", "-"),
        ("serve", "--system", "GPU", *SERVING, "--json", "-"),
        ("compare", "--systems", "GPU", *SERVING, "--json", "-", "--jobs", "1"),
        ("pim-energy", "--out", "-"),
    ],
)
def test_a_dash_is_standard_output_and_nothing_else_goes_there(arguments, in_process, folder):
    before = sorted(folder.rglob("*"))
    status, out, err = in_process(*arguments)
    assert status == 0
    assert json.loads(out)
    assert bool(err) == (arguments[0] != "presets")
    assert sorted(folder.rglob("*")) == before


def test_options_with_json_all_take_a_dash():
    for name, (command, _) in ALL.items():
        for param in command.params:
            if "--json" in param.opts:
                assert getattr(param.type, "dash", False), name


def test_presets_go_into_a_file(in_process, folder):
    assert in_process("presets", "--json", "presets.json") == (0, "", "")
    assert [preset["name"] for preset in json.loads(Path("presets.json").read_text())] == list(PRESETS)
    shutil.rmtree(folder / "gpu_profiles")
