"""PIM chip under Verilator with its cell arrays: a script of commands in, lines and status out, clock by clock."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pimspec.dram.commands import Command
from pimspec.fields import FieldTable
from pimspec.params.pim_chip import PimChipParams

from .build_cache import build_in, build_root, content_key
from .rank.build import chip_models
from .tools import cxx, run_tool
from .verilated import cxx_flags, include_flags, runtime_objects

__all__ = ["ChipRun", "ChipScript", "VerilatedChip"]

HARNESS = Path(__file__).with_name("chip_harness.cpp")
PORTS = HARNESS.with_name("verilated_ports.h")


def build_chip(modules: Mapping[str, str], params: PimChipParams) -> Path:
    """Shared library of a chip with its harness, compiled and cached by content."""
    p = params
    harness = (
        f"#define CELLS(X) {' '.join(f'X({b})' for b in range(p.num_banks))}\n"
        f"#define NUM_BANKS {p.num_banks}\n#define COLUMN_ACCESSES {p.column_accesses}\n"
        f"#define ACCESS_WORDS {p.access_bytes // 4}\n#define COMMAND_WORDS {p.command.num_words}\n"
        f"#define LATE(X) {' '.join(f'X({k})' for k in range(p.slots - 1))}\n"
        f"#define NUM_LATE {p.slots - 1}\n#define LATE_WORDS {p.late.num_words}\n"
        f"#define BUS_WORDS {p.bus.num_words}\n{HARNESS.read_text()}"
    )
    models, ports = chip_models(modules), PORTS.read_text()
    key = content_key(*(model.parent.name for model in models), harness, ports)

    def make(into: Path) -> None:
        (into / PORTS.name).write_text(ports)
        (into / "chip.cpp").write_text(harness)
        objects = [*runtime_objects(), *models]
        headers = f"-I{models[0].parent / 'obj'}"
        run_tool(
            [*cxx(), *cxx_flags(), *include_flags(), headers, "-shared", "chip.cpp", *map(str, objects), "-pthread",
             "-o", "chip.so"],
            cwd=into,
        )  # fmt: skip

    return build_in(build_root() / "verilated" / f"chip-{key}", "chip.so", make)


@dataclass
class ChipScript:
    """Inputs of the chip, by clock; at most one command in a CK, one bus access and one line in a clock."""

    params: PimChipParams
    given: dict[int, dict[str, dict[str, object]]] = field(default_factory=dict)

    def _give(self, clock: int, what: str, fields: dict[str, object]) -> None:
        here = self.given.setdefault(clock, {})
        assert what not in here, f"two inputs {what!r} in clock {clock}"
        here[what] = fields

    def command(self, clock: int, code: Command, bank: int = 0, *, phase: int = 0, **fields: object) -> None:
        """Give a command in a CK of a clock; `bank` is the number of the bank in the chip."""
        group, index = divmod(bank, self.params.banks_per_group)
        slot = f"late{phase - 1}" if phase else "command"
        self._give(clock, slot, {"code": code, "bank_group": group, "bank": index} | fields)

    def line(self, clock: int, data: ArrayLike, mask: int = 0) -> None:
        """Give a line on dq_in in this very clock."""
        self._give(clock, "line", {"data": np.asarray(data), "mask": mask})

    def write(self, clock: int, bank: int, column: int, data: ArrayLike, mask: int = 0, *, phase: int = 0) -> None:
        """Give a WR with its line."""
        self.command(clock, Command.WR, bank, column=column, phase=phase)
        self.line(clock + self.params.write_clocks, data, mask)

    def operand(self, clock: int, address: int, row: int, elements: ArrayLike, keep: int | None = None) -> None:
        """Give a PIM_WR_SB with its line; `keep` has a bit for each element that exists (all by default)."""
        lanes = self.params.bank_pu.lanes
        absent = 0 if keep is None else ~keep
        mask = sum(3 << (2 * j) for j in range(lanes) if absent >> j & 1)
        self._give(clock, "bus", {"address": address, "row": row})
        self.line(clock + self.params.write_clocks, np.asarray(elements, "<u2").view(np.uint8), mask)

    def read_result(self, clock: int, bank: int, index: int = 0, **fields: object) -> None:
        """Give a PIM_RD_RB with fields `pop`, or `sum`, `set` and `address`."""
        self._give(clock, "bus", {"read": 1, "bank": bank, "index": index} | fields)

    def clear_status(self, clock: int) -> None:
        self._give(clock, "clear", {})

    def packed(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Clocks with input, in order, and the words of each in the harness's format."""
        p, clocks = self.params, sorted(self.given)

        def table(fields: FieldTable, what: str) -> NDArray[np.uint32]:
            blank = {f.name: np.zeros(f.count, np.int64) if f.count else 0 for f in fields.fields}
            rows = [blank | self.given[clock].get(what, {}) for clock in clocks]
            unknown = {name for row in rows for name in row} - set(blank)
            assert not unknown, f"{what} has no fields {sorted(unknown)}"
            return fields.pack({name: np.array([row[name] for row in rows]) for name in blank})

        def flag(what: str) -> NDArray[np.uint32]:
            return np.array([[what in self.given[clock]] for clock in clocks], np.uint32)

        data = np.stack(
            [np.asarray(self.given[c].get("line", {}).get("data", np.zeros(p.access_bytes))) for c in clocks]
        )
        mask = np.array([[self.given[c].get("line", {}).get("mask", 0)] for c in clocks], np.uint32)
        line = [np.ascontiguousarray(data.astype(np.uint8)).view("<u4"), mask]
        parts = [flag("command"), flag("bus"), table(p.command, "command"), table(p.bus, "bus"), *line, flag("clear")]
        for k in range(p.slots - 1):
            parts += [flag(f"late{k}"), table(p.late, f"late{k}")]
        return np.array(clocks, np.int64), np.ascontiguousarray(np.hstack(parts).astype(np.uint32))


@dataclass(frozen=True)
class ChipRun:
    """Outputs of a run, one row a clock: dq_out (valid, and data as bytes) and the status word."""

    valid: NDArray[np.bool_]
    data: NDArray[np.uint8]
    status: NDArray[np.uint32]

    def lines(self) -> dict[int, bytes]:
        """Lines by clock, for the clocks that have one."""
        return {int(clock): self.data[clock].tobytes() for clock in np.flatnonzero(self.valid)}

    def words(self, clock: int) -> list[int]:
        """Line of `clock` as 32-bit words."""
        assert self.valid[clock], f"no line on dq_out in clock {clock}"
        return [int(word) for word in self.data[clock].view("<u4")]


class VerilatedChip:
    """A chip and its cells, simulated by Verilator in this process.

    Parameters
    ----------
    modules : mapping of module name to Verilog text
        ``pim_chip`` and ``bank_pu``, each without the modules that it instantiates.
    params : PimChipParams
    """

    def __init__(self, *, modules: Mapping[str, str], params: PimChipParams) -> None:
        self.params = params
        self._library = ctypes.CDLL(str(build_chip(modules, params)))
        self._library.chip_new.restype = ctypes.c_void_p
        self._library.chip_delete.argtypes = [ctypes.c_void_p]
        self._library.chip_cells.restype = ctypes.POINTER(ctypes.c_uint32)
        self._library.chip_cells.argtypes = [ctypes.c_void_p, *[ctypes.c_uint32] * 3]
        self._library.chip_run.argtypes = [
            ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip
        self._handle = self._library.chip_new()

    def close(self) -> None:
        if self._handle is not None:
            self._library.chip_delete(self._handle)
            self._handle = None

    def __enter__(self) -> VerilatedChip:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def row(self, bank: int, row: int) -> NDArray[np.uint8]:
        """Cells of a row as bytes, shape (column_accesses, access_bytes): a view, so writes to it stay."""
        p = self.params
        words = self._library.chip_cells(self._handle, bank, row, 0)
        shape = (p.column_accesses, p.access_bytes // 4)
        return np.ctypeslib.as_array(words, shape).view(np.uint8)

    def run(self, script: ChipScript, clocks: int) -> ChipRun:
        """Outputs from clock 0 of `script` to `clocks`; a further run goes on with the state, counting from 0 again."""
        at, words = script.packed()
        out = np.zeros((clocks, 2 + self.params.access_bytes // 4), np.uint32)
        self._library.chip_run(self._handle, clocks, at.ctypes.data, words.ctypes.data, len(at), out.ctypes.data)
        data = np.ascontiguousarray(out[:, 2:]).view(np.uint8)
        return ChipRun(valid=out[:, 0] != 0, data=data, status=out[:, 1].copy())
