"""Published and measured figures of other projects' units, for comparison."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANCHORS", "Anchor"]


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
