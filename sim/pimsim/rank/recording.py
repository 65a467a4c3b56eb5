"""Recording of a simulated rank's host, as a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RankRecording"]


@dataclass
class RankRecording:
    """Actions of a host on a rank from reset on, and the lines that it saw: for a repeat in another simulator.

    Assign an empty one to :attr:`pimsim.rank.library.LibraryRank.recording` to fill it.
    """

    ops: list[Any] = field(default_factory=list)
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    pokes: list[tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.uint8]]] = field(default_factory=list)

    def document(self, issued: Sequence[int], clocks: int, access_bytes: int) -> dict[str, Any]:
        """JSON document: commands and lines with their clocks, and the cells, each access a number."""
        ops = [
            (clock, op.code, op.bank, op.row, op.column, op.phase, bytes(op.data).hex(), bytes(op.mask).hex())
            for clock, op in zip(issued, self.ops, strict=True)
        ]
        cells = [
            (chip, int(bank[n]), int(row[n]), int(access[n]), int.from_bytes(data[n, chip].tobytes(), "little"))
            for (bank, row, access), chips, data in self.pokes
            for n in range(len(data))
            for chip in range(data.shape[1])
            if int(chips[n]) >> chip & 1
        ]
        lines = [(clock, data.hex()) for clock, data in self.lines]
        return {"ops": ops, "cells": cells, "lines": lines, "clocks": clocks, "access_bytes": access_bytes}
