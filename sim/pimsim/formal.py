"""Prover over clocks: Yosys turns RTLIL with assertions into SMT-LIB, and z3 looks for a violation.

A proof has two questions. *Base*: can an assertion fail within k clocks of reset? *Step*: can it fail in a clock, after
k clocks from any state in which all assertions held? If neither can, they hold for ever (k-induction).

Reset is one clock of `rst` in any state. Registers without reset, and memories, keep any content, so their initial
values are dropped before anything is optimised. `Assume` restricts inputs. `Cover` is a situation that must be
reachable, so that no assumption makes a proof empty.
"""

from __future__ import annotations

import contextlib
import enum
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pimspec.errors import ToolError

from .tools import run_tool

__all__ = ["Answer", "Proof", "prove", "smt2_of", "solver"]

_SCRIPT = """
read_rtlil design.il
setattr -unset init w:*
delete t:$meminit_v2
prep -flatten -top top
async2sync
chformal -lower
memory_map
opt -noff -keepdc
dffunmap
write_smt2 -stbv design.smt2
"""
_RUNNER = "import sys; from pyosys import libyosys as ys; ys.run_pass('script ' + sys.argv[1], ys.Design())"


class _OutOfTimeError(ToolError):
    """No answer of z3 in the time given."""


class Answer(enum.Enum):
    """Answer of a proof."""

    PROVED = "proved"
    REFUTED = "refuted"
    """There is a counterexample from reset."""
    UNDECIDED = "undecided"
    """The step fails, and no counterexample from reset is known."""
    EMPTY = "empty"
    """A cover cannot be reached."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Outcome of a proof.

    Parameters
    ----------
    answer : Answer
    method : str
        ``induction k`` or ``BMC depth``.
    base : int
        Clocks from reset in which no assertion can fail.
    seconds : float
    failing : tuple of str
        Failures, as file and line: assertions in the first bad clock, or covers that are not reached.
    clock : int or None
        First bad clock.
    """

    answer: Answer
    method: str
    base: int
    seconds: float
    failing: tuple[str, ...] = ()
    clock: int | None = None


def solver() -> str | None:
    """z3 executable beside the Python interpreter, else on the path; None if there is none."""
    beside = Path(sys.executable).parent / "z3"
    return str(beside) if beside.is_file() else shutil.which("z3")


def smt2_of(rtlil: str) -> str:
    """Transition relation of module `top`, as SMT-LIB."""
    with tempfile.TemporaryDirectory(prefix="dimmpim-formal-") as name:
        folder = Path(name)
        (folder / "design.il").write_text(rtlil)
        (folder / "run.ys").write_text(_SCRIPT)
        run_tool([sys.executable, "-c", _RUNNER, "run.ys"], cwd=folder)
        return (folder / "design.smt2").read_text()


def prove(smt2: str, *, depth: int, induction: int | None, reach: bool = True, timeout_s: float = 900.0) -> Proof:
    """Outcome of proving all assertions of `smt2` and reaching all its covers.

    Parameters
    ----------
    smt2 : str
        Text from :func:`smt2_of`.
    depth : int
        Clocks from reset in which covers must be reached. If the step fails, a counterexample is looked for in them
        too.
    induction : int or None
        k, at most `depth`; None for a bounded proof of `depth` clocks.
    reach : bool
        True to ask for the covers. Without them an empty proof is not noticed.
    timeout_s : float
        Time for one question.

    Raises
    ------
    ToolError
        If z3 is missing, fails, or runs out of time on base, step or covers.
    """
    began = time.perf_counter()
    asserts, covers = (_places(smt2, kind) for kind in ("assert", "cover"))
    if not asserts:
        raise ToolError("nothing to prove: the design has no assertion")
    base = depth if induction is None else induction
    method = f"BMC {depth}" if induction is None else f"induction {induction}"

    def result(answer: Answer, failing: tuple[str, ...] = (), clock: int | None = None) -> Proof:
        seconds = time.perf_counter() - began
        return Proof(answer=answer, method=method, base=base, seconds=seconds, failing=failing, clock=clock)

    for clock in range(base):
        if failing := _violated(smt2, asserts, clock, timeout_s):
            return result(Answer.REFUTED, failing, clock)
    if induction is not None and (loose := _step(smt2, asserts, induction, timeout_s)):
        with contextlib.suppress(_OutOfTimeError):
            for clock in range(base, depth):
                if failing := _violated(smt2, asserts, clock, timeout_s):
                    return result(Answer.REFUTED, failing, clock)
        return result(Answer.UNDECIDED, loose)
    missed = _missed(smt2, covers, depth, timeout_s) if reach else ()
    return result(Answer.EMPTY if missed else Answer.PROVED, missed)


def _places(smt2: str, kind: str) -> list[str]:
    """File and line of each assertion or cover."""
    return re.findall(rf"^; yosys-smt2-{kind} \d+ .*?([^/\s]+)$", smt2, re.M)


def _from_reset(smt2: str, clocks: int) -> list[str]:
    """States ``s0`` (reset) to ``s{clocks}``, all but the first under the assumptions."""
    return [smt2, *_states(clocks + 1), "(assert (|top_n rst| s0))", *_assumed(range(1, clocks + 1))]


def _violated(smt2: str, asserts: list[str], clock: int, timeout_s: float) -> tuple[str, ...]:
    """Assertions that can fail in that clock after reset, in one run."""
    last = clock + 1
    lines = [*_from_reset(smt2, last), f"(assert (not (|top_a| s{last})))"]
    return _false(lines, asserts, last, timeout_s)


def _step(smt2: str, asserts: list[str], k: int, timeout_s: float) -> tuple[str, ...]:
    """Assertions that can fail after k clocks in which all hold."""
    lines = [smt2, *_states(k + 1), *_assumed(range(k + 1)), *(f"(assert (|top_a| s{n}))" for n in range(k))]
    return _false([*lines, f"(assert (not (|top_a| s{k})))"], asserts, k, timeout_s)


def _missed(smt2: str, covers: list[str], depth: int, timeout_s: float) -> tuple[str, ...]:
    """Covers that no run of `depth` clocks from reset reaches; without any cover, such a run is looked for."""
    if not covers:
        return () if _ask(_from_reset(smt2, depth), [], timeout_s) is not None else ("the assumptions",)
    left = set(range(len(covers)))
    # Short runs are far cheaper, and a run often reaches more covers than the one asked for.
    for last in sorted({-(-depth * 3 // 5), depth}):
        run = _from_reset(smt2, last)
        for n in range(len(covers)):
            if n in left:
                reached = {c: [f"(|top_c {c}| s{k})" for k in range(1, last + 1)] for c in sorted(left)}
                values = [value for of in reached.values() for value in of]
                model = _ask([*run, f"(assert (or {' '.join(reached[n])} false))"], values, timeout_s)
                if model is not None:
                    left -= {c for c, of in reached.items() if any(model[value] for value in of)}
    return tuple(covers[n] for n in sorted(left))


def _false(lines: list[str], asserts: list[str], state: int, timeout_s: float) -> tuple[str, ...]:
    """Assertions that fail in that state, if all `lines` can hold."""
    names = [f"(|top_a {n}| s{state})" for n in range(len(asserts))]
    model = _ask(lines, names, timeout_s)
    return () if model is None else tuple(place for place, n in zip(asserts, names, strict=True) if not model[n])


def _assumed(states: range) -> list[str]:
    return [f"(assert (and (|top_u| s{n}) (|top_h| s{n})))" for n in states]


def _states(count: int) -> list[str]:
    """Declarations of states in successive clocks."""
    lines = [f"(declare-const s{k} |top_s|)" for k in range(count)]
    return lines + [f"(assert (|top_t| s{k} s{k + 1}))" for k in range(count - 1)]


def _ask(lines: list[str], values: list[str], timeout_s: float) -> dict[str, bool] | None:
    """Truth of each of `values` if all of `lines` can hold, else None."""
    executable = solver()
    if executable is None:
        raise ToolError("z3 is not installed: pip install 'z3-solver>=4.13'")
    ends = ["(check-sat)", *(["(get-value (" + " ".join(values) + "))"] if values else [])]
    done = subprocess.run(
        [executable, "-in", f"-T:{max(1, int(timeout_s))}"],
        input="\n".join(["(set-option :produce-models true)", "(set-logic QF_BV)", *lines, *ends]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    verdict, _, rest = done.stdout.partition("\n")
    if verdict == "unsat":
        return None
    if verdict == "timeout":
        raise _OutOfTimeError(f"z3 found no answer within {timeout_s:g} s")
    if verdict != "sat":
        raise ToolError(f"z3 said {verdict or done.stderr!r} instead of sat or unsat")
    return {name: value == "true" for name, value in re.findall(r"\((\(\|[^|]*\| s\d+\)) (true|false)\)", rest)}
