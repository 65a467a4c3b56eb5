"""The command line in this process, and what it writes as JSON."""

from __future__ import annotations

import json

import pytest

from dimmpim.cli import main


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """``command(*arguments)``: exit status, what was printed to stdout and stderr; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        status = 0
        try:
            main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def command_json(command, tmp_path):
    """``command_json(*arguments)``: what the command writes with --json, without wall-clock times."""

    def run(*arguments):
        status, _, errors = command(*arguments, "--json", "out.json")
        assert status in (0, 1), errors
        return timeless(json.loads((tmp_path / "out.json").read_text()))

    return run


def timeless(document):
    """Without what is another time of this machine in every run; as JSON has it."""
    document = json.loads(json.dumps(document))
    return {key: value for key, value in document.items() if key not in ("wall_seconds", "simulated_cycles_per_second")}
