"""Proofs: each is found, and each deliberate fault of the hardware loses one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from pimhw.formal.proofs import PROOFS, proof_rtlil
from pimsim.formal import Answer, prove, smt2_of

_path = Path(__file__).parents[1] / "mutation" / "test_mutants.py"
_spec = importlib.util.spec_from_file_location("mutation_tools", _path)
mutation_tools = importlib.util.module_from_spec(_spec)
sys.modules["mutation_tools"] = mutation_tools
_spec.loader.exec_module(mutation_tools)
Mutant = mutation_tools.mutants.Mutant

ACCESSES = "pimhw/host_side/access_queue.py"
TRANSLATION, INTERPRETER = "pimhw/dpa/translation.py", "pimhw/dpa/interpreter.py"
ALLOWED = "owner.valid & (owner.slot == out.slot) & owner.readable"
FAULTS = {
    "access_order": (
        "pimhw/host_side/order_gate.py",
        ("gate always open", "!= passed)", "!= passed + 3)"),
        ("gate does not look at accesses", "Mux(self.waiting, self.mark, self.count)", "self.count"),
        ("an item counted twice when accepted", "self.count + self.accepted", "self.count + 2 * self.accepted"),
        ("released items not counted", "passed.eq(passed + self.released)", "passed.eq(passed)"),
        ("mark of the newest access", "get_marks.addr.eq(oldest)", "get_marks.addr.eq(newest)", ACCESSES),
        ("access leaves before its command", "retire.eq((self.level != 0) & done[oldest])",
         "retire.eq((self.level != 0) & (done[oldest] | (waiting == 0)))", ACCESSES),
        ("done when the command issues", "m.d.sync += done[places[-1]].eq(1)",
         "m.d.sync += done[places[0]].eq(1)", ACCESSES),
        ("two tasks of a bank at once", "blocked[b].eq(here & held)", "blocked[b].eq(0)", ACCESSES),
    ),
    "micro_op_arbiter": (
        "pimhw/sequencer/micro_op_arbiter.py",
        ("descriptors never yield", "(ours.payload.kind == MicroKind.MERGE)", "0"),
        ("programs never yield", "with m.If(theirs.payload.kind == MicroKind.END):", "with m.If(0):"),
        ("a program is broken into", "~Mux(turn, within, self.begun)", "~Mux(turn, 0, self.begun)"),
        ("a descriptor is broken into", "~Mux(turn, within, self.begun)", "~Mux(turn, within, 0)"),
        ("turn taken from a descriptor under way", "theirs.valid & ~self.begun & ~ours.valid",
         "theirs.valid & ~ours.valid"),
        ("who yields keeps the turn", "(~within & ~theirs.valid) | yields", "~within & ~theirs.valid"),
        ("both sides are served at once", "theirs.ready.eq(turn & self.o.ready & ~yields)",
         "theirs.ready.eq(self.o.ready & ~yields)"),
    ),
    "translation": (
        TRANSLATION,
        ("owner not compared", ALLOWED, "owner.valid & owner.readable"),
        ("owner not valid", ALLOWED, "(owner.slot == out.slot) & owner.readable"),
        ("chunk not readable", ALLOWED, "owner.valid & (owner.slot == out.slot)"),
        ("owner compared with the next request's slot", "owner.slot == out.slot", "owner.slot == at_owner.slot"),
        ("directory of a neighbour", "((self.slot << (p", "((self.slot >> 1 << (p"),
        ("rows beyond the last wrap", "at_leaf.unmapped.eq(self.vrow[p.vrow_bits :].any())", "at_leaf.unmapped.eq(0)"),
        ("invalid directory entry followed", "at_leaf.unmapped | ~directory.valid", "at_leaf.unmapped"),
        ("tables read on while the pipeline stands", ".en.eq(self.advance)", ".en.eq(1)"),
        ("row of the next request", "self.row.eq((chunk <<", "self.row.eq((leaf.chunk <<"),
    ),
    "dispatcher": (
        "pimhw/dpa/dispatcher.py",
        ("owners of before the reset stay", "[table.leaf.eq(1), table.owner.eq(1)]", "[table.leaf.eq(1)]"),
        ("start of a slot that is not ready", "(not_ready, ConfigRefusal.NOT_READY),", ""),
        ("slot of the next operation", "core.slot.eq(self._slot)", "core.slot.eq(self.config.payload.slot)"),
        ("program beyond its memory", "(request.program + request.length >", "(request.length >"),
        ("request written while a start waits", "SET_REQUEST: [*idle, ", "SET_REQUEST: ["),
        ("a slot served that has no start", "self.enable & waiting.any() & ~releasing", "self.enable & ~releasing"),
        ("owner of a chunk taken from under a program", "touches.eq(was | (owner.valid & (owner.slot == self._slot)))",
         "touches.eq(owner.valid & (owner.slot == self._slot))"),
        ("chunk granted under a program", "touches.eq(was | (owner.valid & (owner.slot == self._slot)))",
         "touches.eq(was)"),
        ("leaf entry written under a program", "touches.eq(self._used.data)", "touches.eq(0)"),
        ("program word written under a program", "(index >= request.program) &", "(index > request.program) &"),
        ("operation done before it is looked up", "do.eq(self._looked & ~touches)", "do.eq(~touches)"),
        ("leaf forgotten that a directory names", "self._use.en.eq(entry.valid)", "self._use.en.eq(0)"),
        ("operations go before a program for ever", "(passed == p.host_queue)", "0"),
        ("owner not compared", ALLOWED, "owner.valid & owner.readable", TRANSLATION),
        ("permission fault overlooked", "(translation.fault != Fault.NONE)",
         "(translation.fault == Fault.UNMAPPED)", INTERPRETER),
        ("row of an instruction not translated", "m.d.comb += self._translated.eq(1)", "pass", INTERPRETER),
        ("runs on past its end", "(self._pc >= self.request.length,",
         "(self._pc > self.request.length,", INTERPRETER),
    ),
    "issuer": (
        "pimhw/sequencer/issuer.py",
        ("softmax taken without space for V", 'space["k"] & space["v"]', 'space["k"]'),
        ("queue pushed before the micro-op is taken", "self.i.valid & self.i.ready", "self.i.valid"),
        ("row taken without space", "self.i.ready.eq(space[name])", "self.i.ready.eq(1)"),
        ("K and V swapped", '(MicroKind.MAC_K, "k_row"), (MicroKind.MAC_V, "v_row")',
         '(MicroKind.MAC_V, "k_row"), (MicroKind.MAC_K, "v_row")'),
        ("queue one short", "depth=depth)", "depth=depth - 1)"),
        ("queries noted without a micro-op", "with m.If(self.i.valid):", "with m.If(1):"),
        ("barrier passes at once", "self.i.ready.eq(self.idle)", "self.i.ready.eq(1)"),
        ("maximum of a segment as of the first", "item.first.eq(op.first)", "item.first.eq(op.final)"),
    ),
    "refresh": (
        "pimhw/dram/refresh_schedule.py",
        ("refresh a clock late", "left.eq(clocks - 1)", "left.eq(clocks)"),
        ("twice the rate ignored", "with m.If(self.twice):", "with m.If(0):"),
        ("commands stop a clock late", "(left > self.margins[command])", "(left >= self.margins[command])"),
        ("rows closed a clock late", "self.margins[Command.PREab] + 1", "self.margins[Command.PREab]"),
        ("an access too many fits", "fit.eq(whole + 1)", "fit.eq(whole + 2)"),
        ("owed refresh while a burst runs", "refresh_in(self._soon)", "refresh_in(self._soon // 2)"),
        ("owed refreshes wait", "(owed > 0) & (left", "(owed > 1) & (left"),
        ("request beside a REFab lost", "self.REFab & ~self.request &", "self.REFab &"),
        ("nine owed", "(owed != MOST_OWED)", "(owed != MOST_OWED + 1)"),
    ),
    "loop_stack": (
        "pimhw/dpa/loop_stack.py",
        ("one pop too few", "level + push - sum(pops)", "level + push - pops[0]"),
        ("a loop too deep", "(level == depth)", "(level > depth)"),
        ("pop a pass too early", "pop.eq(here & (left[k] == 0))", "pop.eq(here & (left[k] <= 1))"),
        ("body reaches out of the one around it", "(after > enclosing)", "(after > self.program_length)"),
        ("a pass too many", "left[k].eq(wanted - 1)", "left[k].eq(wanted)"),
        ("last segment not full", "self.final.eq(tokens_left <= ", "self.final.eq(tokens_left < "),
        ("segments loop in a segments loop", "((self.kind == LoopKind.SEGMENTS) & self.in_segments)", "0"),
        ("outer loops popped unasked", "chain.eq(below & ((level <= k) | pop))", "chain.eq(below)"),
    ),
}  # fmt: skip
EVERY_DAY = 2
REFUTED_WITHIN = {"dispatcher": 14, "refresh": 3}
"""Depths of proofs whose counterexamples are too deep for a test: then the step alone must fail."""


def cases():
    for proof, (file, *faults) in FAULTS.items():
        for n, (what, old, new, *other) in enumerate(faults):
            mutant = Mutant(what=what, file=other[0] if other else file, old=old, new=new)
            yield pytest.param(
                proof, mutant, id=f"{proof}: {what}", marks=[pytest.mark.slow] if n >= EVERY_DAY else []
            )  # fmt: skip


def mutated_smt2(proof, mutant, folder):
    tree = mutation_tools.mutated_tree(mutant, folder)
    done = mutation_tools.run_python(tree, "-m", "pimhw.formal", proof)
    assert done.returncode == 0, done.stderr
    assert str(tree) in done.stdout, "not the hardware with the fault"
    return smt2_of(done.stdout)


@pytest.mark.parametrize("name", [name for name in PROOFS if name != "dispatcher"])
def test_every_property_is_proved(name):
    proof = prove(smt2_of(proof_rtlil(name)), depth=PROOFS[name].depth, induction=PROOFS[name].induction)
    assert proof.answer is Answer.PROVED, proof


def test_end_to_end_isolation_is_proved():
    proof = prove(smt2_of(proof_rtlil("dispatcher")), depth=1, induction=PROOFS["dispatcher"].induction, reach=False)
    assert proof.answer is Answer.PROVED, proof


@pytest.mark.slow
def test_end_to_end_isolation_grants_and_denies_rows():
    spec = PROOFS["dispatcher"]
    proof = prove(smt2_of(proof_rtlil("dispatcher")), depth=spec.depth, induction=spec.induction)
    assert proof.answer is Answer.PROVED, proof


@pytest.mark.parametrize(("proof", "mutant"), [*cases()])
def test_a_fault_loses_the_proof(proof, mutant, tmp_path):
    depth = REFUTED_WITHIN.get(proof, PROOFS[proof].depth)
    answer = prove(mutated_smt2(proof, mutant, tmp_path), depth=depth, induction=1, reach=False)
    assert answer.failing
    allowed = (Answer.REFUTED, Answer.UNDECIDED) if proof in REFUTED_WITHIN else (Answer.REFUTED,)
    assert answer.answer in allowed, answer


def test_a_proof_with_excessive_assumptions_is_empty(tmp_path):
    mutant = Mutant(
        what="no request ever", file="pimhw/formal/translation.py",
        old="Assume(~ResetSignal())", new="Assume(~ResetSignal() & ~asked.live)",
    )  # fmt: skip
    proof = prove(mutated_smt2("translation", mutant, tmp_path), depth=9, induction=1)
    assert proof.answer is Answer.EMPTY
    assert all(place.startswith("translation.py:") for place in proof.failing)
