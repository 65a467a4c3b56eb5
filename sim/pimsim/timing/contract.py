"""Contract of Python and the C++ timing model: codes, limits, and the members of struct Config.

``contract.h`` beside this module is the text of :func:`contract_header`, kept so that readers and editors find what the
other headers use. The library is compiled with the text itself, so that its codes are never those of an older file.
``python -m pimsim.timing.contract`` writes the file.
"""

from __future__ import annotations

import ctypes
import enum
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pimspec.dram.commands import COMMAND_BITS, Command
from pimspec.dram.constraints import Level
from pimspec.errors import require
from pimspec.fields import FieldPlace
from pimspec.files import write_atomically
from pimspec.hostif.bus import NUM_MODE_REGISTERS
from pimspec.hostif.window import ControlOp, Refusal, Region
from pimspec.isa import OPCODE_BITS, Fault, InputKind, LoopKind, MacMode, MicroKind, Opcode, OutputKind
from pimspec.params.command_engine import RowTaskKind
from pimspec.params.dpa import ConfigOp, ConfigRefusal, SlotState

__all__ = ["DPA_MEMBERS", "LEVELS", "MAX_BANKS", "MEMBERS", "config_struct", "contract_header", "no_value"]

HEADER = Path(__file__).with_name("contract.h")

MAX_BANKS = 64
"""Banks of a rank that the model has room for: a mask has a bit for each."""
MAX_RULES = 256
NUM_OPCODES = max(Opcode) + 1
LEVELS = (Level.BANK, Level.BANK_GROUP, Level.RANK, Level.CHANNEL)
"""Levels of a rule by their codes, the narrowest first."""

_ENUMS: Mapping[str, type[enum.IntEnum]] = {
    "CMD": Command,
    "TASK": RowTaskKind,
    "CONTROL": ControlOp,
    "REFUSE": Refusal,
    "ISA": Opcode,
    "LOOP": LoopKind,
    "INPUT": InputKind,
    "MODE": MacMode,
    "OUTPUT": OutputKind,
    "FAULT": Fault,
    "MICRO": MicroKind,
    "CONFIG": ConfigOp,
    "CONFIG_REFUSED": ConfigRefusal,
    "SLOT": SlotState,
}


@dataclass(frozen=True)
class _Rule:
    """A rule of the command engine."""


class _CPair(ctypes.Structure):
    _fields_ = (("first", ctypes.c_int32), ("second", ctypes.c_int32))


_C_TYPES: Mapping[type, Any] = {
    int: ctypes.c_int32,
    FieldPlace: _CPair,
    Region: _CPair,
    _Rule: ctypes.c_int32 * 5,
}
_C_NAMES: Mapping[type, str] = {int: "int32_t", FieldPlace: "FieldPlace", Region: "Region", _Rule: "Rule"}


@dataclass(frozen=True)
class Section:
    """Members of Config of one kind: int, :class:`FieldPlace` or :class:`Region`, or arrays of `count` of them."""

    comment: str
    kind: type
    names: str
    count: int | None = None


_RANK_SECTIONS = (
    Section("Records of the interface: a host command, a line that the host reads.", int, "op_bytes line_record_bytes"),
    Section(
        "DRAM and command engine.",
        int,
        "banks banks_per_group columns row_bits line_bytes interval refresh_clocks patience split_bursts "
        "margin_PREab margin_MAC margin_RD margin_WR margin_PREpb margin_ACT margin_WR_SB margin_RD_RB "
        "refresh_clocks_2x owed_refresh_clocks most_owed refresh_rate streaming_limit",
    ),
    Section("Delays.", int, "write_clocks read_clocks operand_ready score_wait row_wait"),
    Section(
        "Attention.",
        int,
        "chips head_dim queries_at_once queries_per_line accesses_per_k accesses_per_v tokens_per_turn row_lines "
        "row_words prob_slots segment_rows segment_tokens dims_per_bank",
    ),
    Section(
        "Queues.",
        int,
        "line_queue host_queue descriptor_queue segments_ahead query_pause scores_per_sum queries "
        "append_groups append_queue access_places vector_lines data_mask",
    ),
    Section(
        "Softmax, reducer, merge.",
        int,
        "score_cycles prob_cycles sum_cycles word_lines stats_entries reduce_cycles merge_beats weigh_cycles "
        "merge_depth normal_depth reciprocal_cycles",
    ),
    Section("Host port.", int, "quiet_clocks window_rows first_row control_bits descriptor_bits bus_phase"),
    Section("Regions of the window.", Region, "control reads query_region outputs statistics append"),
    Section("Control word.", FieldPlace, "op op_entry op_bank op_row op_column op_rate op_v op_token"),
    Section("Descriptor.", FieldPlace, "k_row v_row tokens last_query query output scale normalise static_order"),
    Section("Status line.", FieldPlace, "owner busy done queued refused refusal chip refresh_2x"),
    Section("Line of mode registers.", FieldPlace, "modes", NUM_MODE_REGISTERS),
    Section("Rules of the command engine.", int, "num_rules"),
    Section("The first `num_rules` of them.", _Rule, "rules", MAX_RULES),
)
_DPA_SECTIONS = (
    Section(
        "DPA controller, if `num_slots` is not 0; else all that follows is 0.",
        int,
        "num_slots slot_bits program_words num_registers loop_depth chunk_rows directory_entries leaf_entries leaves "
        "num_chunks vrow_bits max_tokens watchdog sweep release_clocks config_bits max_pending",
    ),
    Section("Region of the window with the status of each slot.", Region, "slots"),
    Section(
        "Fields of its words, tables and status lines.",
        FieldPlace,
        "config_op config_slot config_index config_value "
        "request_program request_length request_tokens request_first_entry request_num_entries request_last_query "
        "request_normalise request_static_order "
        "directory_valid directory_leaf leaf_valid leaf_chunk owner_valid owner_slot owner_readable "
        "slot_state slot_pending slot_tokens slot_programs_done slot_fault slot_fault_pc slot_fault_row "
        "dpa_queued dpa_running dpa_refused dpa_refusal dpa_programs dpa_faults",
    ),
    Section(
        "Operands of instruction words.",
        FieldPlace,
        "END_advance MOVI_rd MOVI_imm ADDI_rd ADDI_rs ADDI_imm LOOP_kind LOOP_count LOOP_length "
        "WR_INP_what WR_INP_rs WR_INP_stride MAC_mode MAC_rs MAC_stride RD_OUT_what MERGE_rs MERGE_stride",
    ),
    Section("Bits of an instruction word, by opcode; 0 if there is none such.", int, "isa_width", NUM_OPCODES),
)


def _members(sections: tuple[Section, ...]) -> dict[str, Section]:
    return {name: section for section in sections for name in section.names.split()}


DPA_MEMBERS = _members(_DPA_SECTIONS)
"""Members of Config that describe the DPA controller, by name."""
MEMBERS = _members(_RANK_SECTIONS) | DPA_MEMBERS
"""All members of Config, in order."""


def no_value(section: Section) -> Any:
    """The value of a member that says nothing: 0, (0, 0), or an array of zeros."""
    if section.count is not None:
        return ()
    return 0 if section.kind is int else (0, 0)


def config_struct(values: Mapping[str, Any]) -> ctypes.Structure:
    """The struct Config with these values.

    Parameters
    ----------
    values : mapping of str to number, pair or sequence
        A value for each of :data:`MEMBERS`: an int, an (offset, width), a (base, size), or a sequence of ints or of
        rules, whose further elements are 0.

    Raises
    ------
    ParameterError
        If a member has no value, a value has no member, or an array has no room for its elements.
    """
    require(not MEMBERS.keys() - values, "members of Config without a value", sorted(MEMBERS.keys() - values), "none")
    require(not values.keys() - MEMBERS, "values without a member of Config", sorted(values.keys() - MEMBERS), "none")
    fields, given = [], {}
    for name, section in MEMBERS.items():
        kind, value = _C_TYPES[section.kind], values[name]
        if section.count is not None:
            require(len(value) <= section.count, f"elements of {name}", len(value), f"at most {section.count}")
            kind *= section.count
        fields.append((name, kind))
        given[name] = value if section.count is None and section.kind is int else kind(*value)
    return type("Config", (ctypes.Structure,), {"_fields_": fields})(**given)


def _wrapped(first: str, items: list[str], last: str, width: int = 120) -> str:
    """A C declaration of many items in lines of that width, none of them cut."""
    whole = [item.replace(" ", "\0") for item in items]
    text = textwrap.fill(f"{first}{', '.join(whole)}{last}", width, subsequent_indent="    ", break_long_words=False)
    return text.replace("\0", " ")


def _enum_text(prefix: str, name: str, members: Mapping[str, int]) -> str:
    items = [f"{prefix}_{member} = {value}" for member, value in members.items()]
    return _wrapped(f"enum {name} : int32_t {{ ", items, "\0};")


def _section_text(section: Section) -> str:
    array = "" if section.count is None else f"[{section.count}]"
    items = [name + array for name in section.names.split()]
    declaration = _wrapped(f"{_C_NAMES[section.kind]} ", items, ";", 116)
    return textwrap.indent(f"// {section.comment}\n{declaration}", "    ")


def contract_header() -> str:
    """The text of ``contract.h``."""
    enums = []
    for prefix, codes in _ENUMS.items():
        enums.append(f"// {codes.__module__}.{codes.__name__}")
        enums.append(_enum_text(prefix, codes.__name__, {m.name: m.value for m in codes}))
    levels = _enum_text("LEVEL", "Level", {level.name: code for code, level in enumerate(LEVELS)})
    return "\n".join(
        [
            "// Codes and parameters that the timing model shares with Python.",
            "// Generated by `python -m pimsim.timing.contract`; the source is sim/pimsim/timing/contract.py.",
            "#pragma once",
            "#include <cstdint>",
            "",
            f"constexpr int MAX_BANKS = {MAX_BANKS};",
            f"constexpr int NUM_CODES = {1 << COMMAND_BITS};  // of commands",
            f"constexpr int OPCODE_BITS = {OPCODE_BITS}, NUM_OPCODES = {NUM_OPCODES};",
            "",
            *enums,
            "// Whose commands a rule relates; LEVEL_CHANNEL: those of the rank, counted from the command itself.",
            levels,
            "",
            "// After `event`, no `following` for `clocks`; with `window` > 1 counted from the window-th last event.",
            "struct Rule {",
            "    int32_t event, following, level, clocks, window;",
            "};",
            "",
            "// A field of a line or word: its first bit, and its width.",
            "struct FieldPlace {",
            "    int32_t offset, width;",
            "};",
            "",
            "// Lines of the window.",
            "struct Region {",
            "    int32_t base, size;",
            "};",
            "",
            "struct Config {",
            *map(_section_text, (*_RANK_SECTIONS, *_DPA_SECTIONS)),
            "};",
            "",
        ]
    )


if __name__ == "__main__":
    write_atomically(HEADER, contract_header())
