"""Parameters of a rank as the timing model takes them: values for the members that :mod:`.contract` lists."""

from __future__ import annotations

import ctypes
from typing import Any

from pimspec.dram.commands import Command
from pimspec.errors import require
from pimspec.fields import index_bits
from pimspec.formats import FP32
from pimspec.hostif.window import DPA_STATE, Window
from pimspec.isa import INSTRUCTIONS, Opcode
from pimspec.params.arith import ReciprocalParams
from pimspec.params.command_engine import MOST_OWED, owed_refresh_clocks, refresh_margins, timer_groups
from pimspec.params.dpa import MAX_PENDING, DpaParams
from pimspec.params.pim_rank import PimRankParams

from ..rank.build import host_op_type, read_line_type
from .contract import DPA_MEMBERS, LEVELS, MAX_BANKS, NUM_OPCODES, config_struct, no_value

__all__ = ["rank_config", "rank_numbers"]


def rank_numbers(params: PimRankParams) -> dict[str, Any]:
    """The value of every member of Config; see :func:`pimsim.timing.contract.config_struct`."""
    p, e, org, window = params, params.engine, params.organization, params.window
    chip, soft, merge = p.chip, p.softmax, p.merge
    groups = timer_groups(e.constraints, e.ck_per_clock, e.phases)
    margins = refresh_margins(groups)
    rules = []
    for group in groups:
        for following, clocks in group.ready_clocks:
            for event in group.events:
                if clocks > 1:
                    rules.append((int(event), int(following), LEVELS.index(group.level), clocks, group.window))
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
        "refresh_clocks_2x": e.refresh_interval(2),
        "owed_refresh_clocks": owed_refresh_clocks(e, margins),
        "most_owed": MOST_OWED,
        "refresh_rate": p.refresh_rate,
        "streaming_limit": e.streaming_limit,
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
        "vector_lines": window.query_lines,
        "data_mask": int(p.data_mask),
        "quiet_clocks": p.quiet_clocks,
        "window_rows": window.rows,
        "bus_phase": e.bus_phase_ck,
        "modes": list(window.modes.places.values()),
        "first_row": window.first_row,
        "control_bits": window.control.width,
        "descriptor_bits": window.descriptor.width,
        "query_region": _region(window, "queries"),
        **{name: _region(window, name) for name in ("control", "reads", "outputs", "statistics", "append")},
        "rules": rules,
        "num_rules": len(rules),
    }
    for name in (
        "head_dim", "queries_at_once", "queries_per_line", "accesses_per_k", "accesses_per_v", "tokens_per_turn",
        "row_lines", "row_words",
        "prob_slots", "segment_rows", "segment_tokens", "dims_per_bank", "line_queue",
        "host_queue", "descriptor_queue", "queries", "append_groups", "append_queue", "access_places",
    ):  # fmt: skip
        values[name] = getattr(p, name)
    control = window.control.places
    values |= {"op": control["op"], **{f"op_{name}": place for name, place in control.items() if name != "op"}}
    values |= {**window.descriptor.places, **window.status.places}
    if p.dpa is None:
        return values | {name: no_value(section) for name, section in DPA_MEMBERS.items()}
    return values | _dpa_numbers(p.dpa, window)


def _region(window: Window, name: str) -> tuple[int, int]:
    region = window.regions[name]
    return region.base, region.size


def _dpa_numbers(dpa: DpaParams, window: Window) -> dict[str, Any]:
    """Those of the DPA controller."""
    directory_bits = dpa.slot_bits + index_bits(dpa.directory_entries)
    leaf_bits = dpa.leaf_bits + index_bits(dpa.leaf_entries)
    values: dict[str, Any] = {
        "sweep": 1 << max(directory_bits, leaf_bits, dpa.chunk_bits, dpa.slot_bits + dpa.leaf_bits),
        "config_bits": dpa.config.width,
        "max_pending": MAX_PENDING,
        "isa_width": [_word_bits(code) for code in range(NUM_OPCODES)],
        "slots": _region(window, "slots"),
    }
    for name in (
        "num_slots", "slot_bits", "program_words", "num_registers", "loop_depth", "chunk_rows", "directory_entries",
        "leaf_entries", "leaves", "num_chunks", "release_clocks", "vrow_bits", "max_tokens", "watchdog",
    ):  # fmt: skip
        values[name] = getattr(dpa, name)
    tables = {
        "config": dpa.config, "request": dpa.request, "directory": dpa.directory_entry, "leaf": dpa.leaf_entry,
        "owner": dpa.owner_entry, "slot": dpa.status, "dpa": DPA_STATE,
    }  # fmt: skip
    tables |= {opcode.name: spec.table for opcode, spec in INSTRUCTIONS.items()}
    for prefix, table in tables.items():
        values |= {f"{prefix}_{name}": place for name, place in table.places.items() if name != "opcode"}
    return values


def _word_bits(opcode: int) -> int:
    """Bits of a word of that opcode, with the opcode itself; 0 if there is none such."""
    return INSTRUCTIONS[Opcode(opcode)].table.width if opcode in set(Opcode) else 0


def rank_config(params: PimRankParams) -> ctypes.Structure:
    """The struct Config of a rank.

    Raises
    ------
    ParameterError
        If the rank is larger than the model has room for.
    """
    require(params.num_banks <= MAX_BANKS, "banks", params.num_banks, f"at most {MAX_BANKS}")
    return config_struct(rank_numbers(params))
