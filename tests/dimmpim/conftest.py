"""Fixtures of the command-line tests: the command line in this process, which starts faster than another one."""

from __future__ import annotations

import pytest

from dimmpim.cli import main


@pytest.fixture
def in_process(capsys):
    """``in_process(*arguments)``: exit status, and the text printed to stdout and stderr."""

    def run(*arguments):
        status = 0
        try:
            main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
