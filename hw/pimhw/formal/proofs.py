"""Register of all proofs: the component, the property, and the depth for the solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable

from .access_order import AccessOrderProof
from .dispatcher import DispatcherProof
from .issuer import IssuerProof
from .loop_stack import LoopStackProof
from .micro_op_arbiter import MicroOpArbiterProof
from .refresh import RefreshParams, RefreshProof
from .sizes import DPA, LOOPS, ORDER, PROGRAMS, RANK
from .translation import TranslationProof

__all__ = ["PROOFS", "ProofSpec", "proof_rtlil"]


@dataclass(frozen=True, kw_only=True)
class ProofSpec:
    """Specification of a proof.

    Parameters
    ----------
    what : str
        Property in words.
    top : callable
        Constructor of the component with its assertions.
    depth : int
        Clocks from reset within which its covers are reached.
    induction : int or None
        k of the induction; None for a bounded proof.
    """

    what: str
    top: Callable[[], Elaboratable]
    depth: int
    induction: int | None = 1


PROOFS = {
    "access_order": ProofSpec(
        what="no descriptor or configuration operation overtakes a data write that was accepted before it",
        top=lambda: AccessOrderProof(ORDER),
        depth=16,
    ),
    "micro_op_arbiter": ProofSpec(
        what="descriptors and programs are not mixed; each waits for one item of the other besides the one under way",
        top=lambda: MicroOpArbiterProof(RANK),
        depth=9,
    ),
    "translation": ProofSpec(
        what="no row without the owner's grant; fault and row are what the tables say",
        top=lambda: TranslationProof(DPA),
        depth=9,
    ),
    "dispatcher": ProofSpec(
        what="no micro-op with a row but those the host's operations granted to its slot; nothing changes under a pass",
        top=lambda: DispatcherProof(PROGRAMS),
        depth=24,
    ),
    "issuer": ProofSpec(
        what="each micro-op reaches its queues once, in order; no push without space",
        top=lambda: IssuerProof(RANK),
        depth=9,
    ),
    "refresh": ProofSpec(
        what="REFab comes within the interval in force; refreshes of the host are counted, and those owed come soon",
        top=lambda: RefreshProof(RefreshParams(bank_groups=2, banks_per_group=2, columns=16, ck_per_clock=8)),
        depth=100,
    ),
    "loop_stack": ProofSpec(
        what="level within the depth, program counter within the bodies; passes and segments are counted right",
        top=lambda: LoopStackProof(LOOPS),
        depth=9,
    ),
}


def proof_rtlil(name: str) -> str:
    """RTLIL of a proof's module `top`."""
    return rtlil.convert(PROOFS[name].top(), name="top", ports=[], emit_src=True)
