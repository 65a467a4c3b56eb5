"""Published and measured figures of other projects, for comparison: units, and the parts of a PIM chip."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANCHORS", "DRAM_FACTORS", "PUBLISHED_PARTS", "REFERENCE_DIE", "Anchor", "PublishedPart"]


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Figure of another project's unit; `area_um2` and `path_ns` (if known) are as published, in that technology."""

    kind: str
    what: str
    technology: str
    area_um2: float
    path_ns: float | None = None
    stages: int | None = None


_AMARANTH_FP = "amaranth-fp (fe425e5), flushes subnormals"

ANCHORS: tuple[Anchor, ...] = (
    Anchor(kind="fp_mul", what=f"FP16 multiply, {_AMARANTH_FP}", technology="NanGate45", area_um2=1932, path_ns=1.38, stages=7),
    Anchor(kind="fp_add", what=f"FP32 add, {_AMARANTH_FP}", technology="NanGate45", area_um2=4258, path_ns=2.23, stages=9),
    Anchor(kind="dot", what=f"4 FP16 multipliers + 4 FP32 adders, {_AMARANTH_FP}", technology="NanGate45", area_um2=24760),
    Anchor(kind="dot", what="16-lane FP16 GEMV unit, FP16 sums, attacc-rtl (6ac44d7)", technology="ASAP7", area_um2=9106, path_ns=1.313),
    Anchor(kind="dot", what="bank PU, CHIME (ISCA'26)", technology="TSMC 28", area_um2=3200),
    Anchor(kind="exp2", what="2^-f core, 32 segments, 14-bit output, combinational", technology="NanGate45", area_um2=552, path_ns=1.48),
)  # fmt: skip


DRAM_FACTORS = {"CHIME": 2, "AttAcc": 10}
"""Area in a DRAM process over that in the logic process of the publication, as each of them assumes it."""

REFERENCE_DIE = ("SK hynix 16 Gb DDR5, 1y", 76.22)
"""DRAM die and its mm2, to set areas beside published shares of a die."""


@dataclass(frozen=True, kw_only=True)
class PublishedPart:
    """Published area of a part of a PIM chip.

    Parameters
    ----------
    part : str
        Which of this project's it is beside: ``"bank_pu"``, ``"operand_buffers"`` of a chip, or ``"chip"``.
    what : str
    node_nm : float or None
        Logic process of the figure.
    logic_mm2 : float or None
        Area in that process.
    share_of_die : float or None
        Share of the DRAM die, where that is what was published.
    """

    part: str
    what: str
    node_nm: float | None = None
    logic_mm2: float | None = None
    share_of_die: float | None = None


PUBLISHED_PARTS: tuple[PublishedPart, ...] = (
    PublishedPart(part="bank_pu", what="bank PU, CHIME (ISCA'26), TSMC 28", node_nm=28, logic_mm2=0.0032),
    PublishedPart(part="bank_pu", what="GEMV unit of a bank, 16 lanes, AttAcc (ASPLOS'24), 7 nm", node_nm=7, logic_mm2=0.0094),
    PublishedPart(part="operand_buffers", what="shared buffer of a chip, CHIME, TSMC 28", node_nm=28, logic_mm2=0.051),
    PublishedPart(part="chip", what="PUs of a DDR die, PAM", share_of_die=0.0504),
)  # fmt: skip
