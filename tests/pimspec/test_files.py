"""Atomic file writes, and special files that stay what they are."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Thread

import pytest

from pimspec.errors import ParameterError
from pimspec.files import read_bytes, read_text, require_regular, require_writable, write_atomically


def test_a_file_keeps_its_mode_and_a_link_stays_one(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.json", "real.json"]


def test_a_pipe_is_written_to(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, "text")
    reader.join()
    assert got == ["text"]
    assert pipe.is_fifo()


def test_the_old_file_stays_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_reads_are_bounded_and_tell_what_is_wrong(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbftext")
    assert read_bytes(path, most=7) == b"\xef\xbb\xbftext"
    assert read_text(path, most=7) == "text"
    with pytest.raises(ParameterError, match="a has more than 6 bytes"):
        read_bytes(path, most=6)
    with pytest.raises(ParameterError, match="/dev/zero has more than 1,000 bytes"):
        read_bytes(Path("/dev/zero"), most=1000)
    path.write_bytes(b"ab\xff")
    with pytest.raises(ParameterError, match="a is not a text file: byte 2 is not UTF-8"):
        read_text(path, most=7)


def test_only_regular_files_are_regular(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileNotFoundError, match="a"):
        require_regular(path, "--kv")
    path.write_text("x")
    require_regular(path, "--kv")
    with pytest.raises(ParameterError, match="--kv must be a regular file, not a directory"):
        require_regular(tmp_path, "--kv")
    with pytest.raises(ParameterError, match="not a device or a pipe: '/dev/null'"):
        require_regular(Path("/dev/null"), "--kv")


def test_a_trial_write_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a"
    require_writable(path)
    assert os.listdir(tmp_path) == []
    path.write_text("old")
    require_writable(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
    require_writable(Path("/dev/null"))


@pytest.mark.parametrize("work", [require_writable, lambda path: write_atomically(path, "text")])
def test_every_failure_names_the_file(work, tmp_path, monkeypatch):
    missing = tmp_path / "gone" / "a"
    with pytest.raises(FileNotFoundError) as failed:
        work(missing)
    assert failed.value.filename == str(missing)
    with pytest.raises(IsADirectoryError) as failed:
        work(tmp_path)
    assert failed.value.filename == str(tmp_path)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fdopen", lambda *given: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left") as failed:
        work(tmp_path / "a")
    assert failed.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == []
