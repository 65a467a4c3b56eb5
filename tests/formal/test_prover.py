"""The prover on designs with known answers."""

from __future__ import annotations

import pytest
from amaranth.asserts import AnyConst, AnySeq
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, ResetSignal, Signal

from pimsim import formal
from pimsim.formal import Answer, prove, smt2_of
from pimspec.errors import ToolError


class Design(Elaboratable):
    """A module filled by a function."""

    def __init__(self, fill):
        self.fill = fill

    def elaborate(self, platform):
        m = Module()
        m.d.comb += Assume(~ResetSignal())
        self.fill(m)
        return m


def answer(fill, *, depth=8, induction=1, **options):
    smt2 = smt2_of(rtlil.convert(Design(fill), name="top", ports=[], emit_src=True))
    return prove(smt2, depth=depth, induction=induction, **options)


def counter(m, limit):
    count = Signal(4)
    m.d.sync += count.eq(count + 1)
    with m.If(count == limit):
        m.d.sync += count.eq(0)
    return count


def test_a_bound_that_holds_is_proved():
    def fill(m):
        count = counter(m, 5)
        m.d.comb += [Assert(count <= 5), Cover(count == 5)]

    proof = answer(fill)
    assert (proof.answer, proof.failing, proof.clock) == (Answer.PROVED, (), None)
    assert (proof.method, proof.base) == ("induction 1", 1)


def test_a_bound_that_does_not_hold_is_refuted():
    def fill(m):
        count = counter(m, 5)
        m.d.comb += [Assert(count <= 4), Assert(count <= 7)]

    proof = answer(fill)
    assert (proof.answer, proof.clock) == (Answer.REFUTED, 5)
    assert len(proof.failing) == 1
    assert proof.failing[0].startswith("test_prover.py:")


@pytest.mark.parametrize("k", [9, 10])
def test_longer_induction_proves_what_shorter_cannot(k):
    """From 6, which the assertion does not exclude, the counter goes on to 15 in 9 clocks."""

    def fill(m):
        m.d.comb += Assert(counter(m, 5) != 15)

    assert answer(fill, induction=k, depth=10).answer is (Answer.UNDECIDED if k < 10 else Answer.PROVED)


def test_a_proof_without_induction_is_bounded():
    def fill(m):
        m.d.comb += Assert(counter(m, 12) != 10)

    assert answer(fill, induction=None, depth=10).answer is Answer.PROVED
    assert answer(fill, induction=None, depth=10).method == "BMC 10"
    assert answer(fill, induction=None, depth=11).answer is Answer.REFUTED


def test_reset_leaves_registers_without_reset_and_memories_as_they_are():
    def fill(m, **options):
        register = Signal(4, **options)
        m.d.sync += register.eq(register)
        with m.If(AnySeq(1)):
            m.d.sync += register.eq(0)
        m.d.comb += Assert(register == 0)

    assert answer(fill).answer is Answer.PROVED
    assert answer(lambda m: fill(m, reset_less=True)).answer is Answer.REFUTED


def test_any_constant_stays_and_any_sequence_does_not():
    def fill(m, kind):
        now, before, begun = Signal(4), Signal(4), Signal()
        m.d.comb += now.eq(kind(4))
        m.d.sync += [before.eq(now), begun.eq(1)]
        m.d.comb += Assert(~begun | (now == before))

    assert answer(lambda m: fill(m, AnyConst), induction=2).answer is Answer.PROVED
    assert answer(lambda m: fill(m, AnySeq)).answer is Answer.REFUTED


@pytest.mark.parametrize("with_cover", [True, False])
def test_contradictory_assumptions_prove_nothing(with_cover):
    def fill(m):
        never = AnySeq(1)
        m.d.comb += [Assume(never), Assume(~never), Assert(counter(m, 5) == 3), *([Cover(1)] if with_cover else [])]

    proof = answer(fill)
    assert (proof.answer, len(proof.failing)) == (Answer.EMPTY, 1)


def test_a_cover_beyond_the_depth_is_missed():
    def fill(m):
        count = counter(m, 5)
        m.d.comb += [Assert(count <= 5), Cover(count == 3), Cover(count == 5)]

    assert answer(fill, depth=6).answer is Answer.PROVED
    proof = answer(fill, depth=5)
    assert (proof.answer, len(proof.failing)) == (Answer.EMPTY, 1)
    assert answer(fill, depth=5, reach=False).answer is Answer.PROVED


def test_a_proof_needs_an_assertion_and_z3(monkeypatch):
    with pytest.raises(ToolError, match="no assertion"):
        answer(lambda m: counter(m, 5))
    monkeypatch.setattr(formal, "solver", lambda: None)
    with pytest.raises(ToolError, match="z3 is not installed"):
        answer(lambda m: m.d.comb.__iadd__(Assert(AnySeq(1))))
