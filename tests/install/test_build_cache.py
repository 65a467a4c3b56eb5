"""The build cache: what is broken is built again, what two ask for is built once, what cannot be is one line."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pimsim import build_cache
from pimsim.build_cache import build_in, build_root, cached_text
from pimsim.tools import run_tool

ATTENTION = ("attention", "--preset", "tiny", "--shape", "2,1,16,40", "--backend", "timing")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIMMPIM_BUILD_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def another_process(monkeypatch):
    """From here on nothing counts as verified, as in a process that has just begun."""
    monkeypatch.setattr(build_cache, "_verified", set())


def seven(into: Path) -> None:
    (into / "seven.c").write_text("int seven(void) { return 7; }\n")
    run_tool(["g++", "-x", "c", "-shared", "-fPIC", "seven.c", "-o", "seven.so"], cwd=into)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def one_bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def without_manifest(path: Path) -> None:
    (path.parent / "manifest.json").unlink()


def with_a_cut_manifest(path: Path) -> None:
    cut_short(path.parent / "manifest.json")


def with_a_foreign_manifest(path: Path) -> None:
    (path.parent / "manifest.json").write_text("[1, 2]")


def without_artefact(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [cut_short, one_bit_flipped, without_manifest, with_a_cut_manifest, with_a_foreign_manifest, without_artefact],
)
def test_a_broken_artefact_is_built_again(cache, monkeypatch, damage):
    library = build_in(build_root() / "seven", "seven.so", seven)
    whole = library.read_bytes()
    damage(library)
    another_process(monkeypatch)
    library = build_in(build_root() / "seven", "seven.so", seven)
    assert library.read_bytes() == whole
    assert ctypes.CDLL(str(library)).seven() == 7


def test_a_broken_file_beside_the_artefact_counts(cache, monkeypatch):
    library = build_in(build_root() / "seven", "seven.so", seven)
    cut_short(library.with_name("seven.c"))
    another_process(monkeypatch)
    build_in(build_root() / "seven", "seven.so", seven)
    assert "return 7" in library.with_name("seven.c").read_text()


def test_a_whole_artefact_is_hashed_once_and_never_built_again(cache, monkeypatch):
    def never(into):
        raise AssertionError("built again")

    folder = build_root() / "seven"
    build_in(folder, "seven.so", seven)
    another_process(monkeypatch)
    hashed, digest = [], build_cache._size_and_digest
    monkeypatch.setattr(build_cache, "_size_and_digest", lambda path: hashed.append(path) or digest(path))
    for _ in range(3):
        build_in(folder, "seven.so", never)
    assert sorted(path.name for path in hashed) == ["seven.c", "seven.so"]


def test_a_build_that_fails_leaves_nothing(cache):
    def half(into):
        (into / "half.so").write_bytes(b"1234")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_in(build_root() / "half", "half.so", half)
    assert [path.name for path in build_root().iterdir()] == ["half.lock"]


def test_text_is_made_once_and_again_when_broken(cache, monkeypatch):
    made = []

    def make():
        made.append("µ")
        return "2 µs"

    assert [cached_text("texts", "k", make) for _ in range(2)] == ["2 µs", "2 µs"]
    (cache / "texts" / "k" / "text").write_text("")
    another_process(monkeypatch)
    assert cached_text("texts", "k", make) == "2 µs"
    assert len(made) == 2


def test_of_processes_that_ask_at_once_one_builds(cache):
    code = """
import os, time
from pimsim.build_cache import build_in, build_root
def make(into):
    with open(build_root() / "log", "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(1.0)
    (into / "result").write_text("done")
print(build_in(build_root() / "slow", "result", make).read_text())
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in started] == ["done\n"] * 4
    assert len((cache / "log").read_text().splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is of Linux")
def test_the_cache_is_where_the_user_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.delenv("DIMMPIM_BUILD_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    assert build_root() == tmp_path / "xdg" / "dimmpim"
    assert not (tmp_path / "build").exists()


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, refused):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    error = refused(2, *ATTENTION, DIMMPIM_BUILD_DIR=str(folder))
    assert error.startswith(f"the build cache '{folder}' cannot be used: Not a directory; DIMMPIM_BUILD_DIR must name")


FULL = """
mount -t tmpfs -o size=200k none "$1" || exit 77
cd "$1"; shift
DIMMPIM_BUILD_DIR=$PWD/cache "$@"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux) is not on the PATH")
def test_a_full_disk_is_one_line(tmp_path):
    """A disk of 200 kB of its own: the sources of the timing model fit, its library does not."""
    python = [sys.executable, "-c", "from dimmpim.cli import main; main()", *ATTENTION]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL, "sh", str(tmp_path), *python], capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"this user may not mount a disk: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    assert done.stdout.strip() == ""
    assert done.stderr.count("\n") == 1
    assert "cannot be used: No space left on device; DIMMPIM_BUILD_DIR must name a folder" in done.stderr
