"""The parameters of a rank as the timing model takes them: the struct Config of ``timing/config.h``."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from pimspec.dram.commands import Command
from pimspec.dram.constraints import Level
from pimspec.errors import require
from pimspec.fields import index_bits
from pimspec.formats import FP32
from pimspec.hostif.window import DPA_STATE, Region
from pimspec.isa import INSTRUCTIONS, Opcode
from pimspec.params.arith import ReciprocalParams
from pimspec.params.command_engine import TASK_COMMANDS, refresh_margins, timer_groups
from pimspec.params.dpa import MAX_PENDING, DpaParams
from pimspec.params.pim_rank import PimRankParams

from ..rank.build import host_op_type, read_line_type

__all__ = ["rank_config", "rank_numbers"]

HEADER = Path(__file__).with_name("config.h")

_LEVELS = {Level.BANK: 0, Level.BANK_GROUP: 1, Level.RANK: 2, Level.CHANNEL: 3}
_BANK_COMMANDS = (Command.ACT, Command.PREpb, *TASK_COMMANDS.values())


def rank_numbers(params: PimRankParams) -> dict[str, Any]:
    """Every member of Config by name: a number, a (offset, width) or (base, size) pair, or a list of rules."""
    p, e, org, window = params, params.engine, params.organization, params.window
    chip, soft, merge = p.chip, p.softmax, p.merge
    groups = timer_groups(e.constraints, e.ck_per_clock, e.phases)
    margins = refresh_margins(groups)
    rules = []
    for group in groups:
        for following, clocks in group.ready_clocks:
            for event in group.events:
                if clocks > 1:
                    rules.append((int(event), int(following), _LEVELS[group.level], clocks, group.window))
    reciprocal = ReciprocalParams(format=FP32, bits_per_cycle=merge.bits_per_cycle)
    values: dict[str, Any] = {
        "op_bytes": ctypes.sizeof(host_op_type(p)),
        "line_record_bytes": ctypes.sizeof(read_line_type(p)),
        "banks": p.num_banks,
        "banks_per_group": org.banks_per_group,
        "columns": org.column_accesses_per_row,
        "row_bits": org.row_bits,
        "line_bytes": p.line_bytes,
        "interval": e.mac_interval_clocks,
        "refresh_clocks": e.refresh_clocks,
        "patience": e.patience_clocks,
        "split_bursts": int(e.split_bursts),
        "margin_PREab": margins[Command.PREab],
        "margin_MAC": margins[Command.PIM_MAC],
        **{f"margin_{c.name}": margins[c] for c in (Command.RD, Command.WR, Command.PREpb, Command.ACT)},
        "margin_WR_SB": margins.get(Command.PIM_WR_SB, 0),
        "margin_RD_RB": margins.get(Command.PIM_RD_RB, 0),
        "write_clocks": chip.write_clocks,
        "read_clocks": chip.read_clocks,
        "operand_ready": chip.operand_ready_clocks,
        "score_wait": p.score_wait_clocks,
        "row_wait": p.row_wait_clocks,
        "chips": p.num_chips,
        "score_cycles": soft.mul_depth + soft.tree_levels,
        "prob_cycles": soft.prob_cycles,
        "sum_cycles": soft.tree_levels * soft.add_depth + 1,
        "word_lines": soft.word_lines,
        "stats_entries": soft.stats_entries,
        "reduce_cycles": p.reduce_clocks,
        "merge_beats": merge.num_beats,
        "weigh_cycles": merge.weigh_cycles,
        "merge_depth": merge.mul_depth + merge.add_depth,
        "normal_depth": merge.mul_depth + merge.narrow_depth,
        "reciprocal_cycles": reciprocal.latency_cycles,
        "segments_ahead": p.SEGMENTS_AHEAD,
        "query_pause": p.QUERY_PAUSE,
        "scores_per_sum": p.SCORES_PER_SUM,
        "quiet_clocks": p.quiet_clocks,
        "window_rows": window.rows,
        "first_row": window.first_row,
        "control_bits": window.control.width,
        "descriptor_bits": window.descriptor.width,
        "query_region": window.regions["queries"],
        "slots": window.regions.get("slots", Region(base=0, size=1)),
        **{name: window.regions[name] for name in ("control", "reads", "outputs", "statistics")},
        "rules": rules,
        "num_rules": len(rules),
    }
    for name in (
        "head_dim", "queries_at_once", "queries_per_line", "accesses_per_k", "accesses_per_v", "tokens_per_turn",
        "row_lines", "row_words",
        "prob_slots", "segment_rows", "segment_tokens", "dims_per_bank", "line_queue",
        "host_queue", "descriptor_queue", "queries",
    ):  # fmt: skip
        values[name] = getattr(p, name)
    control = window.control.places
    values |= {"op": control["op"], **{f"op_{n}": control[n] for n in ("bank", "row", "column")}}
    values |= {**window.descriptor.places, **window.status.places}
    return values if p.dpa is None else values | _dpa_numbers(p.dpa)


def _dpa_numbers(dpa: DpaParams) -> dict[str, Any]:
    """Those of the DPA controller."""
    directory_bits = dpa.slot_bits + index_bits(dpa.directory_entries)
    leaf_bits = dpa.leaf_bits + index_bits(dpa.leaf_entries)
    values: dict[str, Any] = {
        "sweep": 1 << max(directory_bits, leaf_bits, dpa.chunk_bits),
        "config_bits": dpa.config.width,
        "max_pending": MAX_PENDING,
        "isa_width": [_operand_bits(n) for n in range(16)],
    }
    for name in (
        "num_slots", "slot_bits", "program_words", "num_registers", "loop_depth", "chunk_rows", "directory_entries",
        "leaf_entries", "leaves", "num_chunks", "vrow_bits", "max_tokens", "watchdog",
    ):  # fmt: skip
        values[name] = getattr(dpa, name)
    tables = {
        "config": dpa.config, "request": dpa.request, "directory": dpa.directory_entry, "leaf": dpa.leaf_entry,
        "owner": dpa.owner_entry, "slot": dpa.status, "dpa": DPA_STATE,
        **{opcode.name: spec.table for opcode, spec in INSTRUCTIONS.items()},
    }  # fmt: skip
    for prefix, table in tables.items():
        values |= {f"{prefix}_{name}": place for name, place in table.places.items()}
    return values


def _operand_bits(opcode: int) -> int:
    """Of a word of that opcode, with the opcode itself; 0 if there is none such."""
    return INSTRUCTIONS[Opcode(opcode)].table.width if opcode in set(Opcode) else 0


def _members() -> list[tuple[str, str]]:
    """Type and name of each member of Config, as the header has them."""
    text = re.sub(r"//.*", "", HEADER.read_text())
    body = re.search(r"struct Config \{(.*?)\n\};", text, re.S)
    assert body
    members = []
    for statement in body[1].split(";"):
        words = statement.split(None, 1)
        if words:
            members += [(words[0], name.strip()) for name in words[1].split(",")]
    return members


class _Pair(ctypes.Structure):
    _fields_ = (("first", ctypes.c_int32), ("second", ctypes.c_int32))


def rank_config(params: PimRankParams) -> ctypes.Structure:
    """The struct Config of a rank.

    Raises
    ------
    ParameterError
        If the rank is larger than the model has room for.
    """
    require(params.num_banks <= 64, "banks", params.num_banks, "at most 64")
    values = rank_numbers(params)
    codes = ("ACT", "PREpb", "PREab", "RD", "WR", "REFab", "PIM_MAC", "PIM_WR_SB", "PIM_RD_RB")
    fields: list[tuple[str, Any]] = []
    data: dict[str, Any] = {}
    for kind, name in _members():
        if kind == "Codes":
            fields.append((name, ctypes.c_int32 * len(codes)))
            data[name] = fields[-1][1](*(int(Command[c]) for c in codes))
        elif kind == "Rule":
            fields.append((name, ctypes.c_int32 * (5 * 256)))
            data[name] = fields[-1][1](*(n for rule in values["rules"] for n in rule))
        elif name == "isa_width[16]":
            fields.append(("isa_width", ctypes.c_int32 * 16))
            data["isa_width"] = fields[-1][1](*values.get("isa_width", ()))
        elif kind in ("Region", "FieldPlace"):
            given = values.get(name, (0, 0))
            first, second = (given.base, given.size) if isinstance(given, Region) else given
            fields.append((name, _Pair))
            data[name] = _Pair(first, second)
        else:
            fields.append((name, ctypes.c_int32))
            data[name] = values.get(name, 0)
    config_type = type("Config", (ctypes.Structure,), {"_fields_": fields})
    return config_type(**data)
