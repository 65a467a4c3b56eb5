"""Rule table: expected distances, no rule without effect, and the closed-form limits reached by commands.

The file is long because one interpreter of sequences serves every rule.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import pytest

from pimspec.dram import limits
from pimspec.dram.commands import COMMANDS, Bus, Command, CommandAddress, Scope, ca_cycles, supported_commands
from pimspec.dram.constraints import (
    IssuedCommand,
    Level,
    TimingConstraint,
    constraint_named,
    earliest_cycle,
    timing_constraints,
)
from pimspec.dram.organization import DRAM_PRESETS, dram_preset
from pimspec.errors import ParameterError, UnknownNameError

DDR4, DDR5 = "ddr4-3200-x8-8gb", "ddr5-4800-x8-16gb"
BUS = tuple(c for c, info in COMMANDS.items() if info.bus is not Bus.NONE)


@functools.cache
def table(name, **options):
    preset = dram_preset(name)
    return timing_constraints(preset.timing, preset.organization, **options)


def at(text):
    """``"0"`` is rank 0, ``"0.*.1"`` bank 1 of every bank_group, ``"0.2.1"`` a bank."""
    rank, group, bank = ([*text.split("."), "*", "*"])[:3]
    return CommandAddress(
        rank=int(rank), bank_group=None if group == "*" else int(group), bank=None if bank == "*" else int(bank)
    )


def commands(text):
    """``"ACT@0.0.0 RD@0.0.0"`` as (command, address) pairs."""
    return [(Command[word.split("@")[0]], at(word.split("@")[1])) for word in text.split()]


def schedule(rules, sequence):
    """Issue `sequence` in order, each command as early as `rules` allow."""
    history = []
    for command, address in sequence:
        cycle = earliest_cycle(rules, history, command, address).cycle
        history.append(
            IssuedCommand(cycle=max([cycle, *(h.cycle for h in history[-1:])]), command=command, address=address)
        )
    return [issued.cycle for issued in history]


# First command, second, distance, rule that decides. Distances are typed from the printed tables, not from the code.
DDR4_PAIRS = """
ACT@0.0.0 RD@0.0.0 22 tRCD;           ACT@0.0.0 PIM_LD_SB@0.0.0 22 tRCD;      ACT@0.0.0 WRA@0.0.0 22 tRCD_WR
ACT@0.0.0 PIM_MAC@0 22 tRCD_MAC;      ACT@0.0.0 PIM_MAC@0.*.0 22 tRCD_MAC;    ACT@0.0.0 PREpb@0.0.0 52 tRAS
ACT@0.0.0 PREab@0 52 tRAS;            ACT@0.0.0 ACT@0.0.0 74 tRC;             ACT@0.0.0 REFab@0 74 tRC
ACT@0.0.0 ACT@0.1.0 4 tRRD_S;         ACT@0.0.0 ACT@0.0.1 8 tRRD_L;           ACT@0.0.0 ACT@1.0.0 1 CA_1
PREpb@0.0.0 ACT@0.0.0 22 tRP;         PREab@0 ACT@0.3.3 22 tRP;               PREpb@0.0.0 REFab@0 22 tRP
PREpb@0.0.0 ACT@0.0.1 1 CA_1;         PREpb@0.0.0 PREpb@0.0.1 1 CA_1;         PREab@0 MRS@0 22 tRP
RD@0.0.0 PREpb@0.0.0 12 tRTP;         RD@0.0.0 PREab@0 12 tRTP;               PIM_MAC@0 PREpb@0.2.1 12 tRTP
WR@0.0.0 PREpb@0.0.0 44 tWR;          RDA@0.0.0 ACT@0.0.0 34 tRTP_RDA;        WRA@0.0.0 REFab@0 66 tWR_WRA
RD@0.0.0 RD@0.1.0 4 tCCD_S;           RD@0.0.0 RD@0.0.1 8 tCCD_L;             RD@0.0.0 PIM_LD_SB@0.0.0 8 tCCD_L
WR@0.0.0 WR@0.1.0 4 tCCD_S_WR;        WR@0.0.0 WR@0.0.0 8 tCCD_L_WR;          RD@0.0.0 WR@0.0.0 12 tRTW
WR@0.0.0 RD@0.1.0 24 tWTR_S;          WR@0.0.0 RD@0.0.1 32 tWTR_L;            REFab@0 ACT@0.1.1 560 tRFC
REFab@0 REFab@0 560 tRFC;             REFab@0 PIM_WR_SB@0 560 tRFC;           REFab@0 ACT@1.1.1 1 CA_1
MRS@0 MRS@0 8 tMRD;                   MRS@0 ACT@0.0.0 24 tMOD;                RD@0.0.0 RD@1.0.0 6 tRTRS_RD_RD
RD@0.0.0 WR@1.0.0 12 tRTRS_RD_WR;     WR@0.0.0 WR@1.0.0 6 tRTRS_WR_WR;        WR@0.0.0 RD@1.0.0 1 CA_1
PIM_MAC@0 PIM_MAC@0 8 pim_MAC_MAC;    PIM_MAC@0.*.0 PIM_MAC@0.*.1 1 CA_1;     PIM_MAC@0 PIM_MAC@1 1 CA_1
PIM_MAC@0.0.0 RD@0.0.1 1 CA_1;        PIM_MAC@0 RD@0.0.1 8 pim_MAC_column;    PIM_MAC@0 WR@0.0.1 8 pim_MAC_column
RD@0.0.0 PIM_MAC@0 8 pim_RD_MAC;      RD@0.0.0 PIM_MAC@0.0.1 1 CA_1;          WR@0.0.0 PIM_MAC@0 32 pim_WR_MAC
PIM_WR_SB@0 PIM_MAC@0 1 CA_1; PIM_WR_R@0 PIM_MAC@0.0.0 24 pim_write_MAC; PIM_WR_SB@0 PIM_WR_SB@0 8 pim_WR_SB_write
PIM_RD_RB@0.0.0 PIM_RD_RB@0.1.0 4 tCCD_S;     PIM_MAC@0 PIM_RD_RB@0.0.0 1 CA_1;         PIM_RD_RB@0.0.0 PIM_MAC@0 1 CA_1
PIM_MAC@0 PIM_WR_SB@0 1 CA_1;         PIM_MAC@0.0.0 PIM_LD_SB@0.1.0 8 pim_MAC_LD_SB; PIM_RD_RB@0.0.0 PIM_WR_SB@0 12 tRTW
PIM_LD_SB@0.1.0 PIM_MAC@0.0.0 8 pim_LD_SB_MAC; PIM_WR_SB@0 PIM_RD_RB@0.2.1 32 tWTR_L
PIM_RD_RB@0.0.0 RD@1.0.0 6 tRTRS_RD_RD
PIM_LD_SB@0.0.0 RD@1.0.0 1 CA_1;      PIM_MAC@0 WR@1.0.0 1 CA_1;              WR@0.0.0 PREab@0 44 tWR
WRA@0.0.0 ACT@0.0.0 66 tWR_WRA;       WR@0.0.0 ACT@0.0.0 66 tWR_WRA;          REFab@0 MRS@0 560 tRFC
PIM_RD_RB@0.0.0 REFab@0 26 pim_read_REF;  PIM_WR_SB@0 REFab@0 20 pim_write_REF;   PIM_WR_R@0 REFab@0 20 pim_write_REF
PIM_RD_RB@0.0.0 MRS@0 26 pim_read_REF;    PIM_WR_SB@0 MRS@0 20 pim_write_REF;     PIM_RD_RB@0.0.0 REFab@1 1 CA_1
PIM_RD_RB@0.0.0 PIM_RD_RB@0.0.1 8 tCCD_L; RD@0.0.0 PIM_RD_RB@0.0.3 8 tCCD_L;  PIM_RD_RB@0.0.0 RD@0.0.1 8 tCCD_L
RD@0.0.0 PIM_RD_RB@0.1.0 4 tCCD_S;    WR@0.0.0 PIM_RD_RB@0.0.1 32 tWTR_L;     WR@0.0.0 PIM_RD_RB@0.1.1 24 tWTR_S
PIM_WR_SB@0 RD@0.3.0 32 tWTR_L;       WR@0.0.0 PIM_WR_SB@0 8 pim_write_WR_SB; PIM_WR_SB@0 WRA@0.2.0 8 pim_WR_SB_write
PIM_WR_R@0 PIM_WR_R@0 4 tCCD_S_WR;    PIM_WR_R@0 PIM_RD_RB@0.0.0 24 tWTR_S;   PIM_WR_SB@0 PIM_WR_R@0 4 tCCD_S_WR
PIM_RD_RB@0.0.0 PREab@0 1 CA_1;           PIM_WR_SB@0 PREab@0 1 CA_1;             RD@0.0.0 REFab@1 1 CA_1
"""
DDR5_PAIRS = """
ACT@0.0.0 RD@0.0.0 39 tRCD;           ACT@0.0.0 ACT@0.0.0 116 tRC;            ACT@0.0.0 ACT@1.0.0 2 CA_2
ACT@0.0.0 ACT@0.1.0 8 tRRD_S;         ACT@0.0.0 REFsb@0.*.1 12 tRRD_L;        PREpb@0.0.0 PREpb@0.1.0 2 tPPD
PREpb@0.0.0 PREpb@1.0.0 1 CA_1;       RD@0.0.0 RD@0.0.0 12 tCCD_L;            WR@0.0.0 WR@0.0.1 48 tCCD_L_WR
WR@0.0.0 WR@0.1.0 8 tCCD_S_WR;        RD@0.0.0 WR@0.0.0 14 tRTW;              WR@0.0.0 RD@0.0.0 70 tWTR_L
WR@0.0.0 RD@0.1.0 52 tWTR_S;          WR@0.0.0 PREpb@0.0.0 118 tWR;           RDA@0.0.0 REFsb@0.*.0 57 tRTP_RDA
REFab@0 REFsb@0.*.0 708 tRFC;         REFsb@0.*.0 ACT@0.7.0 312 tRFCsb;       REFsb@0.*.0 ACT@0.0.1 72 tRREFD
REFsb@0.*.0 REFsb@0.*.1 312 tRFCsb_rank; REFsb@0.*.0 RD@0.0.1 2 CA_2;         WR@0.0.0 RD@1.0.0 8 tRTRS_WR_RD
RD@0.0.0 RD@1.0.0 10 tRTRS_RD_RD;     PIM_MAC@0 PIM_MAC@0 12 pim_MAC_MAC;     PREpb@0.0.0 PIM_MAC@0.*.1 2 CA_2
PIM_MAC@0 PREab@0 18 tRTP;            PIM_WR_SB@0 PIM_WR_SB@0 12 pim_WR_SB_write;  PIM_MAC@0.*.0 PIM_MAC@0.*.1 2 CA_2
ACT@0.0.0 WR@0.0.0 39 tRCD_WR;        ACT@0.0.0 PIM_MAC@0 39 tRCD_MAC;        ACT@0.0.0 PREpb@0.0.0 77 tRAS
ACT@0.0.0 PREab@0 77 tRAS;            PREpb@0.0.0 ACT@0.0.0 39 tRP;           PREab@0 REFsb@0.*.3 39 tRP
ACT@0.0.0 REFsb@0.*.0 116 tRC;        ACT@0.0.0 ACT@0.0.1 12 tRRD_L;          RD@0.0.0 PREpb@0.0.0 18 tRTP
WR@0.0.0 PREab@0 118 tWR;             RDA@0.0.0 ACT@0.0.0 57 tRTP_RDA;        WRA@0.0.0 REFsb@0.*.0 157 tWR_WRA
PREpb@0.0.0 PREab@0 2 tPPD;           RD@0.0.0 RD@0.1.0 8 tCCD_S;             RD@0.0.0 PIM_MAC@0 12 pim_RD_MAC
PIM_MAC@0 RD@0.0.0 12 pim_MAC_column; WR@0.0.0 PIM_MAC@0 70 pim_WR_MAC;       PIM_MAC@0 PIM_LD_SB@0.0.0 12 pim_MAC_LD_SB
PIM_LD_SB@0.0.0 PIM_MAC@0 12 pim_LD_SB_MAC; PIM_WR_R@0 PIM_MAC@0 52 pim_write_MAC; MRS@0 MRS@0 12 tMRD
PIM_MAC@0 PIM_RD_RB@0.0.0 2 CA_2;         MRS@0 ACT@0.0.0 34 tMOD;              RD@0.0.0 WR@1.0.0 12 tRTRS_RD_WR
WR@0.0.0 WR@1.0.0 10 tRTRS_WR_WR;     REFsb@0.*.1 PREpb@0.3.1 312 tRFCsb;     REFsb@0.*.1 PREab@0 312 tRFCsb
PIM_RD_RB@0.0.0 REFab@0 48 pim_read_REF;  PIM_WR_SB@0 REFab@0 46 pim_write_REF;   PIM_RD_RB@0.0.0 REFsb@0.*.1 1 CA_1
WR@0.0.0 PIM_WR_SB@0 12 pim_write_WR_SB; PIM_WR_SB@0 WR@0.0.0 12 pim_WR_SB_write; PIM_WR_SB@0 PIM_RD_RB@0.1.1 70 tWTR_L
REFab@0 MRS@0 708 tRFC;               REFsb@0.*.1 REFab@0 312 tRFCsb_rank;  REFsb@0.*.1 MRS@0 312 tRFCsb_rank
"""
PAIRS = [
    (name, *entry.split())
    for name, block in ((DDR4, DDR4_PAIRS), (DDR5, DDR5_PAIRS))
    for entry in block.replace("\n", ";").split(";")
    if entry.strip()
]


@pytest.mark.parametrize(("name", "first", "second", "distance", "rule"), PAIRS)
def test_distance_of_a_pair(name, first, second, distance, rule):
    (earlier, earlier_at), (later, later_at) = commands(f"{first} {second}")
    history = [IssuedCommand(cycle=100, command=earlier, address=earlier_at)]
    found = earliest_cycle(table(name), history, later, later_at)
    assert (found.cycle - 100, found.constraint.name) == (int(distance), rule)


@pytest.mark.parametrize("name", [DDR4, DDR5])
def test_every_rule_decides_a_printed_pair(name):
    """But for tFAW, which needs five commands and has its own test."""
    assert {rule.name for rule in table(name)} - {rule for given, *_, rule in PAIRS if given == name} == {"tFAW"}


@pytest.mark.parametrize("name", [DDR4, DDR5])
def test_ca_bus_carries_one_command_at_a_time(name):
    standard = dram_preset(name).organization.standard
    for first, second in itertools.product(supported_commands(standard), repeat=2):
        history = [IssuedCommand(cycle=0, command=first, address=at("0.0.0"))]
        assert earliest_cycle(table(name), history, second, at("1.0.0")).cycle >= ca_cycles(second, standard)


@pytest.mark.parametrize(
    ("name", "first", "busy"), [(DDR4, "REFab", 560), (DDR5, "REFab", 708), (DDR4, "MRS", 24), (DDR5, "MRS", 34)]
)
def test_refresh_and_mode_register_hold_off_everything(name, first, busy):
    """Any command for an idle rank waits until it is done (for MRS to MRS there is tMRD)."""
    for command in supported_commands(dram_preset(name).organization.standard):
        if not COMMANDS[command].needs_open_row and command.name != "MRS":
            for target in ("0.0.0", "0.1.1"):
                history = [IssuedCommand(cycle=0, command=Command[first], address=at("0"))]
                assert earliest_cycle(table(name), history, command, at(target)).cycle == busy, command.name


@pytest.mark.parametrize("name", [DDR4, DDR5])
@pytest.mark.parametrize("place", ["0.1.0", "1.0.0"])
def test_result_read_out_holds_the_bus_as_a_read_does(name, place):
    for other in BUS:
        for pair in ("{} other", "other {}"):
            distances = []
            for command in ("RD", "PIM_RD_RB"):
                words = pair.format(f"{command}@0.0.0").replace("other", f"{other.name}@{place}")
                distances.append(schedule(table(name), commands(words))[1])
            assert distances[0] == distances[1], (pair, other.name)


@pytest.mark.parametrize("name", DRAM_PRESETS)
def test_operand_and_result_buffers_have_no_rule_with_mac(name):
    """The buffers are double: filled and emptied while banks stream. A data hazard is no rule of the table."""
    for rule in table(name):
        if rule.level is not Level.CHANNEL:
            groups = (set(rule.preceding), set(rule.following))
            for mac, buffer in (groups, groups[::-1]):
                assert not (Command.PIM_MAC in mac and buffer & {Command.PIM_WR_SB, Command.PIM_RD_RB}), rule.name


def test_four_activate_window():
    acts = commands("ACT@0.0.0 ACT@0.1.0 ACT@0.2.0 ACT@0.3.0 ACT@0.0.1 ACT@0.1.1")
    assert schedule(table(DDR4), acts) == [0, 4, 8, 12, 34, 38]
    assert schedule(table(DDR4), commands("ACT@0.0.0 ACT@0.1.0 ACT@0.2.0 ACT@1.3.0 ACT@0.0.1")) == [0, 4, 8, 9, 12]
    rule = constraint_named(table(DDR4), "tFAW")
    assert (rule.window, rule.latency_cycles, rule.level) == (4, 34, Level.RANK)
    assert constraint_named(table(DDR5), "tFAW").latency_cycles == 32


def test_auto_precharge_waits_for_ras_and_write_recovery():
    assert schedule(table(DDR4), commands("ACT@0.0.0 RDA@0.0.0 ACT@0.0.0"))[-1] == 74
    assert schedule(table(DDR5), commands("WR@0.0.0 RDA@0.0.0 ACT@0.0.0"))[-1] == 38 + 8 + 72 + 39


@pytest.mark.parametrize("name", DRAM_PRESETS)
def test_tables_are_well_formed(name):
    preset, rules = dram_preset(name), table(name)
    names = [rule.name for rule in rules]
    assert len(set(names)) == len(names)
    known = set(supported_commands(preset.organization.standard))
    for rule in rules:
        assert {*rule.preceding, *rule.following} <= known
        assert rule.latency_cycles <= preset.timing.nRFC
    # PIM_WR_R right behind PIM_MAC: its data come after the PU has read its registers.
    assert preset.timing.nCWL >= preset.timing.nCCD_MAC


@pytest.mark.parametrize("name", DRAM_PRESETS)
def test_every_supported_command_is_restrained_after_itself(name):
    """No command can be repeated at once, and each row command of a bank is held by its predecessor."""
    for command in supported_commands(dram_preset(name).organization.standard):
        address = CommandAddress(bank_group=0, bank=0) if COMMANDS[command].scope is Scope.BANK else CommandAddress()
        history = [IssuedCommand(cycle=0, command=command, address=address)]
        assert earliest_cycle(table(name), history, command, address).cycle >= 1


def test_options():
    preset = dram_preset(DDR4)
    single = timing_constraints(preset.timing, dataclasses.replace(preset.organization, ranks=1))
    assert {r.name for r in table(DDR4)} - {r.name for r in single} == {"tRTRS_RD_RD", "tRTRS_RD_WR", "tRTRS_WR_WR"}
    plain = table(DDR4, pim=False)
    assert not [r for r in plain if any(COMMANDS[c].pim for c in (*r.preceding, *r.following))]
    assert {r.name for r in table(DDR4)} - {r.name for r in plain} == {
        "tRCD_MAC", "pim_MAC_MAC", "pim_RD_MAC", "pim_MAC_column", "pim_WR_MAC", "pim_LD_SB_MAC", "pim_MAC_LD_SB",
        "pim_write_MAC", "pim_read_REF", "pim_write_REF", "pim_WR_SB_write", "pim_write_WR_SB"}  # fmt: skip
    short = {rule.name: rule for rule in table(DDR4, bus_tccd="short")}
    assert {r.name for r in table(DDR4)} - short.keys() == {"pim_WR_SB_write", "pim_write_WR_SB"}
    changed = {r.name for r in table(DDR4) if r.name in short and r != short[r.name]}
    assert changed == {"tCCD_L", "tWTR_L"}
    for name in changed:
        assert not {Command.PIM_WR_SB, Command.PIM_RD_RB} & {*short[name].preceding, *short[name].following}


# Commands that may follow RDA or WRA before the bank is opened again; column commands at another bank.
AFTER_AUTO = (*BUS, Command.PIM_LD_SB)
JEDEC = supported_commands(dram_preset(DDR5).organization.standard, pim=False)
PLACES = [at(text) for text in ("0.0.0", "0.0.1", "0.1.0", "1.0.0")]
TWINS_BEHIND = [("RD", "RDA", tuple(Command)), ("WR", "WRA", tuple(Command)), ("RD", "PIM_LD_SB", JEDEC)]
TWINS_BEHIND += [
    ("PIM_WR_R", "PIM_WR_SB", tuple(Command)),
    ("REFab", "MRS", ("ACT", "PREpb", "PREab", "RDA", "WRA", "WR")),
]
TWINS_AHEAD = [("RD", "RDA", AFTER_AUTO), ("WR", "WRA", AFTER_AUTO), ("RD", "PIM_LD_SB", JEDEC)]
TWINS_AHEAD += [
    ("PIM_WR_R", "PIM_WR_SB", tuple(set(Command) - {Command.PIM_MAC})),
    ("PREpb", "PREab", tuple(set(JEDEC) - {Command.PREab})),
]


@pytest.mark.parametrize("name", [DDR4, DDR5])
@pytest.mark.parametrize(("ahead", "one", "other", "against"), [
    *((False, *twins) for twins in TWINS_BEHIND), *((True, *twins) for twins in TWINS_AHEAD)
])  # fmt: skip
def test_commands_that_are_timed_alike(name, ahead, one, other, against):
    """RDA keeps the rules of RD to columns, LD_SB those of RD within a rank, and so on: none is left out of a rule."""
    known = supported_commands(dram_preset(name).organization.standard)
    rules = table(name, bus_tccd="short" if other == "PIM_WR_SB" else "long")  # then neither has a bank_group

    def distance(twin, fixed, place):
        twin_at = at("0") if twin in ("REFab", "MRS") else PLACES[0]
        pair = [(Command[twin], twin_at), (fixed, place)][:: 1 if ahead else -1]
        return schedule(rules, pair)[1]

    places = PLACES[:3] if {one, other} & {"PIM_LD_SB", "MRS"} else PLACES
    for fixed in (Command[c] if isinstance(c, str) else c for c in against):
        if fixed in known:
            for place in places:
                assert distance(one, fixed, place) == distance(other, fixed, place), (fixed.name, place)


class RowState:
    """Minimal row state, which decides whether a controller may issue a sequence."""

    def __init__(self, opened):
        self.banks = dict.fromkeys(itertools.product((0, 1), (0, 1), (0, 1)), opened)

    def accept(self, command, address):
        info = COMMANDS[command]
        touched = [bank for bank in self.banks if address.covers(*bank)]
        if info.needs_open_row and not all(self.banks[b] for b in touched):
            return False
        if info.needs_idle and any(self.banks[b] for b in touched):
            return False
        if info.opens_row or info.closes_row:
            self.banks.update(dict.fromkeys(touched, info.opens_row))
        return True


ADDRESSES = {
    Scope.BANK: [at(f"{r}.{g}.{b}") for r in (0, 1) for g in (0, 1) for b in (0, 1)],
    Scope.RANK: [at("0"), at("1")],
    Scope.SAME_BANK: [at(f"{r}.*.{b}") for r in (0, 1) for b in (0, 1)],
}


def addresses(command):
    extra = [at("0.*.0"), at("0.0.0"), at("0.1.0")] if command is Command.PIM_MAC else []
    return ADDRESSES[COMMANDS[command].scope] + extra


def legal(sequence):
    """True if row state allows the sequence, from all banks open or from all banks idle."""
    for opened in (True, False):
        state = RowState(opened)
        if all(state.accept(*step) for step in sequence):
            return True
    return False


def candidates(rule, known):
    """Sequences that end in a pair of `rule`, with nothing or any command between; the first is at bank 0 or rank 0."""
    if rule.window > 1:
        for groups in itertools.product((0, 1), repeat=rule.window + 1):
            counts = [groups[:i].count(group) for i, group in enumerate(groups)]
            yield [(rule.preceding[0], at(f"0.{group}.{bank}")) for group, bank in zip(groups, counts, strict=True)]
        yield commands("ACT@0.0.0 ACT@0.1.0 ACT@0.2.0 ACT@0.3.0 ACT@0.0.1")
        return
    between = [(), *(((command, address),) for command in known for address in addresses(command))]
    for middle in sorted(between, key=len):
        for first, last in itertools.product(rule.preceding, rule.following):
            for last_at in addresses(last):
                yield [(first, addresses(first)[0]), *middle, (last, last_at)]


def matters(rules, rule, known):
    """A legal sequence whose last command may come earlier without `rule`, or None."""
    others = tuple(other for other in rules if other is not rule)
    for sequence in candidates(rule, known):
        if rule.window == 1 and not legal(sequence):
            continue
        if schedule(others, sequence)[-1] < schedule(rules, sequence)[-1]:
            return sequence
    return None


# Rules that others imply at this speed bin, so that no sequence shows whether they are there.
IMPLIED = {
    DDR4: set(),
    DDR5: {"tFAW"},  # 32 = 4 * tRRD_S
    "hbm3-5200": {"tRRD_S"},  # 2 = the CA cycles of ACT; only a REFsb of a single bank could tell
    # 42 < 4 * tRRD_S; the `_L` delays equal the `_S` delays
    "gddr6-aim": {"tFAW", "tRRD_L", "tCCD_L", "tCCD_L_WR", "pim_WR_SB_write", "pim_write_WR_SB"},
}


@pytest.mark.parametrize("name", IMPLIED)
def test_deleting_any_rule_changes_what_is_allowed(name):
    rules, known = table(name), supported_commands(dram_preset(name).organization.standard)
    implied = {rule.name for rule in rules if matters(rules, rule, known) is None}
    assert implied == IMPLIED[name]


def row_cycle(rules, banks, columns, mac_sets):
    """CK of a pass of ACT to all banks, MAC `columns` times in each of `mac_sets`, PREab."""
    one = [(Command.ACT, bank) for bank in banks]
    one += [(Command.PIM_MAC, address) for _ in range(columns) for address in mac_sets] + [(Command.PREab, at("0"))]
    issued = schedule(rules, one * 2)
    return issued[len(one)] - issued[0]


@pytest.mark.parametrize(("name", "groups", "columns"), [(DDR4, 4, 128), (DDR4, 4, 16), (DDR5, 8, 64), (DDR5, 8, 8)])
def test_lockstep_limit_is_reached_by_commands(name, groups, columns):
    """The closed forms of limits.py and the rule table agree to the cycle, for all-bank lockstep and for a bank."""
    timing = dram_preset(name).timing
    banks = [at(f"0.{group}.{bank}") for bank in range(4) for group in range(groups)]
    period = limits.lockstep_row_period_cycles(timing, len(banks), columns)
    assert row_cycle(table(name), banks, columns, [at("0")]) == period
    assert row_cycle(table(name), banks[:1], columns, banks[:1]) == limits.row_period_cycles(timing, columns)


def test_ca_bus_limit_of_single_bank_macs():
    """One PIM_MAC for each of 16 banks takes 16 CK a column where tCCD_L is 8: half the bandwidth, the CA bus full."""
    banks = [at(f"0.{group}.{bank}") for bank in range(4) for group in range(4)]
    acts = [(Command.ACT, bank) for bank in banks]
    issued = schedule(table(DDR4), acts + [(Command.PIM_MAC, bank) for bank in banks] * 8)
    assert issued[-1] - issued[-17] == 16
    sets = [at(f"0.*.{bank}") for bank in range(4)]
    issued = schedule(table(DDR4), acts + [(Command.PIM_MAC, address) for address in sets] * 8)
    assert issued[-1] - issued[-5] == 8


def rule(**change):
    given = {
        "name": "x",
        "level": Level.BANK,
        "preceding": (Command.ACT,),
        "following": (Command.RD,),
        "latency_cycles": 1,
    }
    return TimingConstraint(**{**given, **change})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: rule(latency_cycles=0), "latency_cycles of x must be 1 or more, not 0"),
        (lambda: rule(window=0), "window of x must be 1 or more, not 0"),
        (lambda: rule(preceding=()), "preceding of x must be at least one command"),
        (lambda: rule(following=(Command.RD, Command.RD)), "following of x must be without repetition"),
        (lambda: rule(sibling=True), "level of sibling rule x must be rank, not 'bank'"),
        (lambda: rule(name=""), "name must be not empty"),
        (
            lambda: timing_constraints(dram_preset(DDR4).timing, dram_preset(DDR5).organization),
            "timing.standard must be ddr5, not 'ddr4'",
        ),
        (lambda: table(DDR4, bus_tccd="medium"), "bus_tccd must be long or short, not 'medium'"),
    ],
)
def test_bad_rules_are_refused(make, text):
    with pytest.raises(ParameterError) as caught:
        make()
    assert text in str(caught.value)


def test_relations():
    a, b, other = at("0.0.0"), at("0.0.1"), at("1.0.0")
    assert rule().relates(a, a)
    assert not rule().relates(a, b)
    assert rule().relates(a, at("0"))
    assert rule().relates(at("0.*.1"), b)
    assert rule(level=Level.BANK_GROUP).relates(a, b)
    assert not rule(level=Level.BANK_GROUP).relates(a, at("0.1.0"))
    assert rule(level=Level.RANK).relates(a, at("0.3.3"))
    assert not rule(level=Level.RANK).relates(a, other)
    assert rule(level=Level.RANK, sibling=True).relates(a, other)
    assert not rule(level=Level.RANK, sibling=True).relates(a, a)
    assert rule(level=Level.CHANNEL).relates(a, other)


def test_nothing_restrains_the_first_command():
    found = earliest_cycle(table(DDR4), [], Command.ACT, at("0.0.0"))
    assert (found.cycle, found.constraint) == (0, None)
    with pytest.raises(UnknownNameError, match="unknown timing constraint 'tFAX'"):
        constraint_named(table(DDR4), "tFAX")
