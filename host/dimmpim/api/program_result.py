"""The result of a run of a DPA program."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimcompiler.assembler import disassemble
from pimspec.dram.command_trace import TracedCommand
from pimspec.isa import Fault, MicroOp

__all__ = ["ProgramResult"]

JSON_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgramResult:
    """One run of a DPA program for one resident request; None for all that a backend does not give.

    Parameters
    ----------
    backend, preset, source : str
        `source` tells where K, V and queries come from.
    num_q_heads, num_kv_heads, head_dim, num_tokens : int
        Of the data in the rank; num_tokens is T at the start of the program.
    words : tuple of int
        The program.
    instructions : int
        Instructions of the check pass; the one with the fault does not count.
    fault : Fault
        ``Fault.NONE`` if the program ran.
    fault_pc, fault_row : int
        Word of the program that had the fault, and the virtual row of UNMAPPED or PERMISSION.
    micro_ops : tuple of MicroOp
        What the sequencer was told; none after a fault.
    tokens_after : int
        T after the program.
    wall_seconds : float
    entries : int64 array of shape (n,), or None
        Entries of the output buffer that the program wrote, ascending.
    output : float64 array of shape (n, head_dim), or None
        Normalised values of these entries.
    output_bits : int64 array of shape (n, head_dim), or None
        Words as the host reads them: the rank's format if normalised in the rank, else FP32 bits of o_partial.
    statistics_bits : int64 array of shape (n, 2), or None
        FP32 bits of m and l.
    relative_l2_error : float64 array of shape (n,), or None
        Against float64 attention over the same vectors.
    golden_mismatches : int or None
        ``rtl``: words of outputs and statistics that differ from the golden model.
    clocks : int or None
        ``rtl``, ``timing``: controller clocks from the start of the program to its last result; None without any.
    ns : float or None
        The same as time.
    utilization_of_peak : float or None
        Bytes that bank PUs read over what all banks could have read.
    commands : list of TracedCommand, or None
        Every DRAM and PIM command, if they were asked for.
    """

    backend: str
    preset: str
    source: str
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    num_tokens: int
    words: tuple[int, ...]
    instructions: int
    fault: Fault
    fault_pc: int
    fault_row: int
    micro_ops: tuple[MicroOp, ...]
    tokens_after: int
    wall_seconds: float
    entries: NDArray[np.int64] | None = None
    output: NDArray[np.float64] | None = None
    output_bits: NDArray[np.int64] | None = None
    statistics_bits: NDArray[np.int64] | None = None
    relative_l2_error: NDArray[np.float64] | None = None
    golden_mismatches: int | None = None
    clocks: int | None = None
    ns: float | None = None
    utilization_of_peak: float | None = None
    commands: list[TracedCommand] | None = None

    @property
    def max_error(self) -> float | None:
        """Greatest relative L2 error of an output against float64; None without outputs."""
        error = self.relative_l2_error
        return float(error.max()) if error is not None and len(error) else None

    @property
    def fault_instruction(self) -> str | None:
        """Text of the instruction with the fault; None without one."""
        if not self.fault or self.fault_pc >= len(self.words):
            return None
        lines = [line.strip() for line in disassemble(self.words).splitlines()]
        return [line for line in lines if line != "}"][self.fault_pc]

    @property
    def micro_op_counts(self) -> dict[str, int]:
        """Micro-ops by kind, in the order in which the kinds first come."""
        return dict(Counter(op.kind.name for op in self.micro_ops))

    def to_dict(self) -> dict[str, Any]:
        """The run as plain numbers and texts: what ``dimmpim run --json`` writes."""
        document: dict[str, Any] = {"version": JSON_VERSION}
        for name in ("backend", "preset", "source", "num_q_heads", "num_kv_heads", "head_dim", "num_tokens"):
            document[name] = getattr(self, name)
        document |= {
            "program_words": len(self.words),
            "instructions": self.instructions,
            "fault": self.fault.name,
            "fault_pc": self.fault_pc if self.fault else None,
            "fault_row": self.fault_row if self.fault in (Fault.UNMAPPED, Fault.PERMISSION) else None,
            "fault_instruction": self.fault_instruction,
            "micro_ops": self.micro_op_counts,
            "tokens_after": self.tokens_after,
            "clocks": self.clocks,
            "ns": self.ns,
            "utilization_of_peak": self.utilization_of_peak,
            "max_rel_l2_error": self.max_error,
            "golden_mismatches": self.golden_mismatches,
            "wall_seconds": self.wall_seconds,
        }
        if self.entries is not None and self.output_bits is not None and self.statistics_bits is not None:
            document["outputs"] = [
                {"entry": entry, "bits": [f"{word:08x}" for word in bits], "m_l_bits": [f"{word:08x}" for word in two]}
                for entry, bits, two in zip(
                    self.entries.tolist(), self.output_bits.tolist(), self.statistics_bits.tolist(), strict=True
                )
            ]
        return document
