"""The command `dimmpim` in a process of its own, with an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture
def dimmpim(tmp_path):
    """``dimmpim(*arguments, **environment)``: the finished process; a variable that is None is taken away."""

    def run(*arguments, **environment):
        variables = {**os.environ, **environment}
        return subprocess.run(
            [sys.executable, "-c", "from dimmpim.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={name: value for name, value in variables.items() if value is not None},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def refused(dimmpim):
    """``refused(status, *arguments, **environment)``: the one line of error, with nothing on standard output."""

    def run(status, *arguments, **environment):
        done = dimmpim(*arguments, **environment)
        assert (done.returncode, done.stdout.strip()) == (status, ""), done.stderr
        assert done.stderr.startswith("dimmpim: error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("dimmpim: error: ").rstrip()

    return run
