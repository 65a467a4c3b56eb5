"""Lines of a rank's window: encoding of the host's writes as bytes, and decoding of its reads as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pimspec.fields import FieldTable
from pimspec.hostif.window import DPA_STATE, ControlOp
from pimspec.params.dpa import ConfigOperation
from pimspec.params.pim_rank import PimRankParams

__all__ = ["Descriptor", "RankStatus", "WindowLines"]


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Attention of the queries of one kv_head; fields as in :attr:`pimspec.hostif.window.Window.descriptor`."""

    k_row: int
    v_row: int
    tokens: int
    last_query: int
    query: int
    output: int
    scale: int
    normalise: int = 1
    static_order: int = 0


@dataclass(frozen=True, kw_only=True)
class RankStatus:
    """Status line; fields as in :attr:`pimspec.hostif.window.Window.status`."""

    owner: int
    busy: int
    done: int
    queued: int
    refused: int
    refusal: int
    chip: int
    refresh_2x: int = 0


class WindowLines:
    """Encoder and decoder of window lines.

    Parameters
    ----------
    rank : PimRankParams
    """

    def __init__(self, rank: PimRankParams) -> None:
        self._rank, self.window, self._bytes = rank, rank.window, rank.line_bytes

    def packed(self, table: FieldTable, values: Mapping[str, int]) -> bytes:
        """The line that holds a table; fields of several elements as one number, fields left out are 0."""
        number = table.pack_int(**values)
        return number.to_bytes(max(self._bytes, -(-table.width // 8)), "little")[: self._bytes]

    def unpacked(self, table: FieldTable, line: bytes) -> dict[str, int]:
        """The inverse of :meth:`packed`."""
        return table.unpack_int(int.from_bytes(line, "little"))

    def control(self, op: ControlOp, **fields: int) -> bytes:
        """Line of a control word."""
        return self.packed(self.window.control, {"op": int(op), **fields})

    def config(self, operation: ConfigOperation) -> bytes:
        """Line of a configuration operation."""
        o = operation
        values = {"op": int(o.op), "slot": o.slot, "index": o.index, "value": o.value}
        return self.packed(self._rank.require_dpa().config, values)

    def status(self, line: bytes) -> RankStatus:
        return RankStatus(**self.unpacked(self.window.status, line))

    def modes(self, line: bytes) -> dict[str, int]:
        """Mode registers: see :attr:`pimspec.hostif.window.Window.modes`."""
        return self.unpacked(self.window.modes, line)

    def dpa_state(self, line: bytes) -> dict[str, int]:
        """State of the DPA controller: see :attr:`pimspec.hostif.window.DPA_STATE`."""
        return self.unpacked(DPA_STATE, line)

    def slot(self, line: bytes) -> dict[str, int]:
        """Status of a slot: see :attr:`pimspec.params.dpa.DpaParams.status`."""
        return self.unpacked(self._rank.require_dpa().status, line)
