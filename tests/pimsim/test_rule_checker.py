"""Rule checker: each rule at its limit, rows, bursts, refresh, and agreement with a brute-force checker.

The file is long because one notation of command sequences serves every rule.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from pimsim.legal_streams import StreamBuilder, preset_rules, rules_without
from pimsim.rule_checker import RuleChecker, RuleViolationError
from pimspec.dram import limits
from pimspec.dram.command_trace import TracedCommand
from pimspec.dram.commands import Command, CommandAddress
from pimspec.dram.constraints import Level, timing_constraints
from pimspec.dram.organization import dram_preset
from pimspec.errors import ParameterError

DDR4, DDR4_16, DDR5 = "ddr4-3200-x8-8gb", "ddr4-3200-x8-16gb", "ddr5-4800-x8-16gb"
PARTS = (DDR4, DDR4_16, DDR5)
ALL = CommandAddress()


def step(word):
    """``"ACT@0.2.1"`` as a command and an address; ``*`` and omitted parts stand for all."""
    name, place = word.split("@")
    rank, group, bank = ([*place.split("."), "*", "*"])[:3]
    at = CommandAddress(
        rank=int(rank), bank_group=None if group == "*" else int(group), bank=None if bank == "*" else int(bank)
    )
    return Command[name], at


def broken(name, trace, rules=None, **options):
    """Violation of a trace, or None."""
    try:
        RuleChecker(dram_preset(name), rules, **options).check_trace(trace)
    except RuleViolationError as error:
        return error
    return None


def issued(name, words, *, rules=None, opened=False, count=1):
    """A builder that has issued `words` at the earliest cycle from CK 2000; the first may have a count."""
    builder = StreamBuilder(dram_preset(name), preset_rules(name) if rules is None else rules)
    if opened:
        for rank, group, bank in itertools.product(*(range(n) for n in builder.row_open.shape)):
            builder.issue(Command.ACT, CommandAddress(rank=rank, bank_group=group, bank=bank))
    for index, word in enumerate(words.split()):
        builder.issue(*step(word), ck=None if index else 2000, count=1 if index else count)
    return builder


def earlier(trace, cycles=1):
    return [*trace[:-1], dataclasses.replace(trace[-1], ck=trace[-1].ck - cycles)]


# For each rule, commands of which that rule alone holds back the last; from idle banks, or from open ones.
FROM_IDLE = """
CA_1 PREpb@0.0.0 PREpb@1.0.0;         CA_2 ACT@0.0.0 ACT@1.0.0;             tRCD ACT@0.0.0 RD@0.0.0
tRCD_WR ACT@0.0.0 WR@0.0.0;           tRCD_MAC ACT@0.0.0 PIM_MAC@0.0.0;     tRAS ACT@0.0.0 PREpb@0.0.0
tRC ACT@0.0.0 RDA@0.0.0 ACT@0.0.0;    tRRD_S ACT@0.0.0 ACT@0.1.0;           tRRD_L ACT@0.0.0 ACT@0.0.1
tFAW ACT@0.0.0 ACT@0.1.0 ACT@0.2.0 ACT@0.3.0 ACT@0.0.1;                     tRFC REFab@0 ACT@0.2.0
tMRD MRS@0 MRS@0;                     tMOD MRS@0 ACT@0.0.0;                 tRFCsb REFsb@0.*.0 ACT@0.3.0
tRFCsb_rank REFsb@0.*.0 REFsb@0.*.1;  tRREFD REFsb@0.*.0 ACT@0.0.1;         pim_read_REF PIM_RD_RB@0.0.0 REFab@0
pim_write_REF PIM_WR_SB@0 REFab@0
"""
FROM_OPEN = """
tRP PREpb@0.0.0 ACT@0.0.0;            tRTP RD@0.0.0 PREpb@0.0.0;            tWR WR@0.0.0 PREab@0
tRTP_RDA RDA@0.0.0 ACT@0.0.0;         tWR_WRA WRA@0.0.0 ACT@0.0.0;          tPPD PREpb@0.0.0 PREpb@0.1.0
tCCD_S RD@0.0.0 PIM_LD_SB@0.1.0;      tCCD_S_WR WR@0.0.0 PIM_WR_R@0;        tCCD_L RD@0.0.0 RD@0.0.1
tCCD_L_WR WR@0.0.0 WR@0.0.1;          tRTW RD@0.0.0 WR@0.1.0;               tWTR_S WR@0.0.0 RD@0.1.0
tWTR_L WR@0.0.0 RD@0.0.1;             pim_MAC_MAC PIM_MAC@0 PIM_MAC@0.1.0;  pim_RD_MAC RD@0.0.0 PIM_MAC@0.*.0
pim_MAC_column PIM_MAC@0 WR@0.2.1;    pim_WR_MAC WR@0.0.0 PIM_MAC@0.0.0;    pim_LD_SB_MAC PIM_LD_SB@0.0.0 PIM_MAC@0.1.1
pim_MAC_LD_SB PIM_MAC@0.0.0 PIM_LD_SB@0.1.0; pim_write_MAC PIM_WR_R@0 PIM_MAC@0
tRTRS_RD_RD RD@0.0.0 RD@1.0.0;        tRTRS_RD_WR RD@0.0.0 PIM_WR_R@1;      tRTRS_WR_RD WR@0.0.0 RD@1.0.0
tRTRS_WR_WR WR@0.0.0 WR@1.0.0;        pim_WR_SB_write PIM_WR_SB@0 PIM_WR_SB@0
pim_write_WR_SB WR@0.0.0 PIM_WR_SB@0
"""
SEQUENCES = {
    name: (words, opened)
    for block, opened in ((FROM_IDLE, False), (FROM_OPEN, True))
    for name, words in (entry.split(None, 1) for entry in block.replace("\n", ";").split(";") if entry.strip())
}
# Rules that others imply: no stream shows whether they are there. tFAW of DDR5-4800, 32 CK, is 4 * tRRD_S.
IMPLIED = {DDR4: set(), DDR4_16: set(), DDR5: {"tFAW"}}
RULES = [(name, rule.name) for name in PARTS for rule in preset_rules(name) if rule.name not in IMPLIED[name]]


@pytest.mark.parametrize(("name", "rule"), RULES)
def test_each_rule_at_its_limit(name, rule):
    """At the limit: legal. One CK earlier: a violation of that rule. Without the rule: not noticed."""
    words, opened = SEQUENCES[rule]
    trace = issued(name, words, opened=opened).trace
    assert broken(name, trace) is None
    error = broken(name, earlier(trace))
    assert error.rule == rule
    assert (error.later.ck, error.needed - error.found) == (trace[-1].ck - 1, 1)
    assert str(error).startswith(f"{rule}: {trace[-1].command.name} at CK {trace[-1].ck - 1} (")
    assert broken(name, earlier(trace), rules_without(preset_rules(name), rule)) is None


# Of each rule of a bank_group's path, the pairs that bus commands add; none of them in the old assumption.
PATH_PAIRS = """
tCCD_L PIM_RD_RB@0.0.0 PIM_RD_RB@0.0.1;  tCCD_L RD@0.0.0 PIM_RD_RB@0.0.1;    tCCD_L PIM_RD_RB@0.0.0 RD@0.0.1
tWTR_L WR@0.0.0 PIM_RD_RB@0.0.1;         tWTR_L PIM_WR_SB@0 RD@0.2.0;        tWTR_L PIM_WR_SB@0 PIM_RD_RB@0.3.1
pim_WR_SB_write PIM_WR_SB@0 WR@0.1.2;    pim_WR_SB_write PIM_WR_SB@0 PIM_WR_SB@0
pim_write_WR_SB WRA@0.1.1 PIM_WR_SB@0
"""


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("pair", [pair.strip() for pair in PATH_PAIRS.replace("\n", ";").split(";") if pair.strip()])
def test_bus_commands_on_the_path_of_a_bank_group(name, pair):
    """At the limit: legal. One CK earlier: a violation. With ``bus_tccd="short"``: earlier still, and legal."""
    rule, words = pair.split(None, 1)
    preset = dram_preset(name)
    trace = issued(name, words, opened=True).trace
    assert broken(name, trace) is None
    assert broken(name, earlier(trace)).rule == rule
    short = timing_constraints(preset.timing, preset.organization, bus_tccd="short")
    assert broken(name, earlier(trace), short) is None
    distance = trace[-1].ck - trace[-2].ck
    assert issued(name, words, opened=True, rules=short).trace[-1].ck - trace[-2].ck < distance


def test_reads_of_other_bank_groups_keep_the_short_distance():
    trace = issued(DDR4, "PIM_RD_RB@0.0.0 PIM_RD_RB@0.1.0 PIM_RD_RB@0.0.1 PIM_RD_RB@0.1.1").trace
    assert [x.ck - 2000 for x in trace] == [0, 4, 8, 12]
    assert broken(DDR4, earlier(trace)).rule == "tCCD_S"


def test_implied_rules_are_implied():
    rules = rules_without(preset_rules(DDR5), "tFAW")
    trace = issued(DDR5, " ".join(f"ACT@0.{group}.0" for group in range(8)), rules=rules).trace
    assert trace[4].ck - trace[0].ck == 32
    assert broken(DDR5, trace) is None


# ------------------------------------------------------------------------------------------------ banks that stream


def test_limit_of_streaming_banks_at_its_limit():
    """A burst of 5 accesses streams for 40 CK. Then another may begin: legal; one CK earlier or without the limit."""
    builder = issued(DDR4, "PIM_MAC@0.0.0", opened=True, count=5)
    builder.issue(*step("PIM_MAC@0.1.0"), ck=2001, count=2)
    builder.issue(*step("PIM_MAC@0.2.0"), ck=2017)
    builder.issue(*step("PIM_MAC@0.3.0"), ck=2025, count=3)
    builder.issue(*step("PIM_MAC@1.0.0"), ck=2026)
    builder.issue(*step("PIM_MAC@0.2.1"), ck=2040)
    trace = builder.trace
    assert broken(DDR4, trace, max_streaming_banks=2) is None
    assert broken(DDR4, earlier(trace)) is None
    error = broken(DDR4, earlier(trace), max_streaming_banks=2)
    place = "PIM_MAC at CK 2039 (rank 0, bank_group 2, bank 1, column 0)"
    assert str(error).startswith(f"streaming_banks: {place}: 3 banks stream, more than 2, since ")
    assert broken(DDR4, trace, max_streaming_banks=1).later.ck == 2001
    assert broken(DDR4, issued(DDR4, "PIM_MAC@0.*.0", opened=True).trace, max_streaming_banks=4) is None
    assert (
        broken(DDR4, issued(DDR4, "PIM_MAC@0.*.0", opened=True).trace, max_streaming_banks=3).rule == "streaming_banks"
    )
    with pytest.raises(ParameterError, match="max_streaming_banks must be 0"):
        RuleChecker(dram_preset(DDR4), max_streaming_banks=-1)


# ------------------------------------------------------------------------------------------------ rows and bursts


@pytest.mark.parametrize(
    ("words", "opened", "rule"),
    [
        ("RD@0.0.0", False, "row_open"),
        ("WRA@0.0.0", False, "row_open"),
        ("PIM_LD_SB@0.0.0", False, "row_open"),
        ("PIM_MAC@0", False, "row_open"),
        ("ACT@0.0.0 PIM_MAC@0", False, "row_open"),
        ("ACT@0.0.0 PIM_MAC@0.*.0", False, "row_open"),
        ("RDA@0.0.0 RD@0.0.0", True, "row_open"),
        ("WRA@0.0.0 WR@0.0.0", True, "row_open"),
        ("PREpb@0.1.0 PIM_MAC@0", True, "row_open"),
        ("PREab@0 RD@0.3.3", True, "row_open"),
        ("ACT@0.0.0 ACT@0.0.0", False, "row_closed"),
        ("ACT@0.0.0 REFab@0", False, "row_closed"),
        ("ACT@0.3.1 MRS@0", False, "row_closed"),
        ("PREpb@0.0.0 REFab@0", True, "row_closed"),
        ("PREpb@0.0.0 PREpb@0.0.0 PREab@0 PREab@0 REFab@0", False, None),
        ("ACT@0.0.0 REFab@1", False, None),
        ("PIM_WR_SB@0 PIM_WR_R@0 PIM_RD_RB@0.0.0 PREab@1 MRS@1", False, None),
    ],
)
def test_row_state_is_checked(words, opened, rule):
    trace = issued(DDR4, words, opened=opened).trace
    error = broken(DDR4, trace)
    assert (error.rule if error else None) == rule
    assert error is None or error.later is trace[-1]


def test_same_bank_refresh_needs_its_banks_only():
    assert broken(DDR5, issued(DDR5, "ACT@0.3.1 REFsb@0.*.0").trace) is None
    assert broken(DDR5, issued(DDR5, "ACT@0.3.1 REFsb@0.*.1").trace).rule == "row_closed"


def test_row_violation_says_which_bank_and_since_when():
    error = broken(DDR4, issued(DDR4, "PREpb@1.2.1 PIM_MAC@1", opened=True).trace)
    text = "PIM_MAC at CK 2001 (rank 1, column 0): bank_group 2 bank 1 has no open row since PREpb at CK 2000 "
    assert str(error) == f"row_open: {text}(rank 1, bank_group 2, bank 1)"
    assert (error.earlier.command, error.needed, error.found) == (Command.PREpb, None, None)


MAC_RULES = [
    rule for rule in preset_rules(DDR4) if Command.PIM_MAC in rule.preceding and rule.level is not Level.CHANNEL
]


@pytest.mark.parametrize("name", [DDR4, DDR5])
@pytest.mark.parametrize("rule", [rule.name for rule in MAC_RULES])
@pytest.mark.parametrize("count", [2, 5, 64])
def test_rules_count_from_the_last_access_of_a_burst(name, rule, count):
    words = {"tRTP": "PIM_MAC@0 PREpb@0.1.0"}.get(rule) or SEQUENCES[rule][0]
    single = issued(name, words, opened=True).trace
    trace = issued(name, words, opened=True, count=count).trace
    longer = (count - 1) * dram_preset(name).timing.nCCD_MAC
    assert trace[-1].ck == single[-1].ck + longer
    assert broken(name, trace) is None
    assert broken(name, earlier(trace)).rule == rule
    for cycles in {1, 2, 7, longer // 2, longer, longer + 1} - {0}:
        assert broken(name, earlier(trace, cycles)) is not None, cycles


@pytest.mark.parametrize(
    ("word", "offset", "rule"),
    [
        ("PIM_WR_R@0", 31, "pim_write_MAC"),  # the accesses are at 0, 8, 16, 24, 32
        ("PIM_WR_R@0", 32, None),
        ("PIM_WR_R@1", 7, None),
        ("PIM_WR_R@0", 1, "pim_write_MAC"),
        ("PIM_WR_SB@0", 1, None),
        ("PIM_WR_SB@0", 20, None),
        ("PIM_LD_SB@0.1.1", 20, "pim_MAC_LD_SB"),
        ("RD@0.0.1", 4, None),
        ("WR@0.0.1", 4, None),
        ("PREpb@0.0.1", 4, None),
        ("PIM_MAC@0.0.1", 4, None),
        ("PIM_MAC@0.*.0", 4, "pim_MAC_MAC"),
        ("RD@0.0.0", 12, "pim_MAC_column"),
        ("PREab@0", 43, "tRTP"),
        ("PREab@0", 44, None),
        ("REFab@0", 20, "row_closed"),
        ("PIM_RD_RB@0.0.0", 1, None),
        ("PIM_RD_RB@0.0.0", 39, None),
    ],
)
def test_commands_inside_a_burst_keep_its_rules(word, offset, rule):
    """A burst takes neither CA nor DQ, and leaves other banks alone."""
    builder = issued(DDR4, "PIM_MAC@0.0.0", opened=True, count=5)
    builder.issue(*step(word), ck=2000 + offset)
    error = broken(DDR4, builder.trace)
    assert (error.rule if error else None) == rule
    if rule == "pim_write_MAC":  # counts from the command to the next access
        assert (error.later.command, error.needed, error.found) == (Command.PIM_MAC, 24, 8 - offset % 8)


def test_a_short_burst_does_not_hide_a_long_one():
    """The buffer of the chip may be loaded when the burst of every bank is over."""
    builder = issued(DDR4, "PIM_MAC@0.0.0", opened=True, count=32)
    builder.issue(*step("PIM_MAC@0.1.0"), count=4)
    builder.issue(*step("PIM_LD_SB@0.2.0"))
    assert builder.ck == 2000 + 31 * 8 + 8
    assert broken(DDR4, builder.trace) is None
    for cycles in (1, 100, 200):
        error = broken(DDR4, earlier(builder.trace, cycles))
        assert (error.rule, error.earlier.count) == ("pim_MAC_LD_SB", 32)


@pytest.mark.parametrize("name", [DDR4, DDR5])
def test_rows_of_bursts(name):
    org, rules = dram_preset(name).organization, rules_without(preset_rules(name), "tRTP")
    whole, step_ck = org.column_accesses_per_row, dram_preset(name).timing.nCCD_MAC
    for cycles, rule in ((0, None), (1, "burst_row")):
        trace = issued(name, "PIM_MAC@0 PREpb@0.0.0", rules=rules, opened=True, count=whole).trace
        assert trace[-1].ck == 2000 + (whole - 1) * step_ck
        error = broken(name, earlier(trace, cycles), rules)
        assert (error.rule if error else None) == rule
    mac = issued(name, "PIM_MAC@0", opened=True).trace
    for column, count, rule in (
        (0, whole, None),
        (0, whole + 1, "burst_columns"),
        (org.burst_length, 2, None),
        (1, 2, "burst_columns"),
    ):
        error = broken(name, [*mac[:-1], dataclasses.replace(mac[-1], column=column, count=count)])
        assert (error.rule if error else None) == rule


# ------------------------------------------------------------------------------------------------ refresh and totals


def refreshes(*times, rank=0):
    return [TracedCommand(ck, Command.REFab, rank) for ck in times]


N = dram_preset(DDR4).timing.nREFI
AHEAD = [900 * k for k in range(1, 20)]  # ahead of time, of which 8 count
ONE_RANK = dataclasses.replace(dram_preset(DDR4).organization, ranks=1)


@pytest.mark.parametrize(
    ("times", "end", "postponed", "rule"),
    [
        ([N, 2 * N, 3 * N], 4 * N, 0, None),
        ([N, 2 * N, 3 * N], 4 * N + 1, 0, "tREFI"),
        ([N + 1], N + 1, 0, "tREFI"),
        ([1000, 1000 + N], 1000 + 2 * N, 0, None),
        ([1000, 1001 + N], 1001 + N, 0, "tREFI"),
        ([2 * N, 3 * N, 4 * N], 5 * N, 1, None),
        ([2 * N, 4 * N], 4 * N, 1, "tREFI_average"),  # the second was due by 3 N
        ([2 * N, 3 * N + 1], 3 * N + 1, 1, "tREFI_average"),
        ([2 * N + 1], 2 * N + 1, 1, "tREFI"),
        ([9 * N + 900 * k for k in range(9)], 18 * N, 8, None),
        ([9 * N + 900 * k for k in range(9)], 18 * N + 1, 8, "tREFI_average"),
        ([9 * N + 900 * k for k in range(8)], 17 * N + 1, 8, "tREFI_average"),
        (AHEAD, 17_100 + 9 * N, 8, None),
        (AHEAD, 17_100 + 9 * N + 1, 8, "tREFI"),
        ([*AHEAD, *(17_100 + k * N for k in (9, 18, 19))], 17_100 + 20 * N, 8, None),
        ([*AHEAD, *(17_100 + k * N for k in (9, 18, 19))], 17_100 + 20 * N + 1, 8, "tREFI_average"),
        ([], 1 << 40, None, None),
    ],
)
def test_refresh_comes_in_time(times, end, postponed, rule):
    checker, found = RuleChecker((dram_preset(DDR4).timing, ONE_RANK), max_postponed=postponed), None
    try:
        checker.check_trace(refreshes(*times), end)
    except RuleViolationError as error:
        found = error
    assert (found.rule if found else None) == rule
    assert found is None or found.found > found.needed


def test_every_rank_and_every_bank_is_refreshed():
    assert broken(DDR4, refreshes(N - 1) + refreshes(N, rank=1)) is None
    error = broken(DDR4, [*refreshes(N - 1), TracedCommand(N + 1, Command.PREab, 1)])
    assert (error.rule, error.earlier, error.needed, error.found) == ("tREFI", None, N, N + 1)
    assert "must be at most 12480" in str(error)
    preset = dram_preset(DDR5)
    part = (preset.timing, dataclasses.replace(preset.organization, ranks=1))
    quarter = preset.timing.nREFI // 4
    trace = [TracedCommand(quarter * k, Command.REFsb, bank=k % 4) for k in range(1, 13)]
    assert RuleChecker(part).check_trace(trace).counts == {Command.REFsb: 12}
    with pytest.raises(RuleViolationError, match="tREFI: "):
        RuleChecker(part).check_trace([traced for traced in trace if traced.bank != 2], preset.timing.nREFI + 1)


@pytest.mark.parametrize(("name", "columns"), [(DDR4, 128), (DDR4, 16), (DDR5, 64)])
def test_statistics_reach_the_closed_form(name, columns):
    """A pass of lockstep rows, measured, is the limit of limits.py; 16 bursts read keep DQ busy for 16 nBL."""
    preset = dram_preset(name)
    banks = [CommandAddress(bank_group=g, bank=b) for b in range(4) for g in range(preset.organization.bank_groups)]
    builder, checker = StreamBuilder(preset), RuleChecker(preset, max_postponed=None)
    for _ in range(5):
        for bank in banks:
            builder.issue(Command.ACT, bank)
        builder.issue(Command.PIM_MAC, ALL, count=columns)
        builder.issue(Command.PREab, ALL)
    period = limits.lockstep_row_period_cycles(preset.timing, len(banks), columns)
    assert builder.trace[-1].ck - builder.trace[len(banks) + 1].ck == 4 * period
    found = checker.check_trace(builder.trace, 5 * period)
    assert found.row_efficiency == limits.lockstep_row_efficiency(preset.timing, len(banks), columns)
    assert (found.accesses_per_activation, found.data_bus_use) == (columns, 0)
    reads = issued(name, " ".join(["RD@0.0.0", "RD@0.1.0"] * 8), opened=True).trace
    assert RuleChecker(preset, start_ck=0).check_trace(reads, 4000).data_bus_use == 16 * preset.timing.nBL / 4000


@pytest.mark.parametrize(
    ("traced", "reason"),
    [
        (TracedCommand(5, Command.REFsb, bank=0), "command must be one that ddr4 has, not 'REFsb'"),
        (TracedCommand(5, Command.REFab, 2), "rank of REFab at CK 5 (rank 2) must be below 2, not 2"),
        (TracedCommand(5, Command.ACT, 0, 4, 0, 0), "bank_group of ACT"),
        (TracedCommand(5, Command.ACT, 0, 0, 4, 0), "bank of ACT"),
        (TracedCommand(5, Command.ACT, 0, 0, 0, 65536), "row of ACT"),
        (TracedCommand(5, Command.RD, 0, 0, 0, None, 1024), "column of RD"),
        (TracedCommand(4, Command.REFab), "ck must be at least that of the command before, 5, not 4"),
    ],
)
def test_commands_that_the_part_lacks_are_refused(traced, reason):
    checker = RuleChecker(dram_preset(DDR4))
    checker.issue(TracedCommand(5, Command.PREab))
    with pytest.raises(ParameterError) as caught:
        checker.issue(traced)
    assert str(caught.value).startswith(reason)


def test_a_refused_command_leaves_no_trace():
    checker = RuleChecker(dram_preset(DDR4))
    checker.issue(TracedCommand(0, Command.ACT, 0, 0, 0, 7))
    for ck in (3, 20):
        with pytest.raises(
            RuleViolationError, match=f"tRCD: RD at CK {ck} .*: {ck} CK after ACT .* must be at least 22"
        ):
            checker.issue(TracedCommand(ck, Command.RD, 0, 0, 0, None, 8))
    checker.issue(TracedCommand(22, Command.RD, 0, 0, 0, None, 8))
    checker.issue(TracedCommand(23, Command.PREab, 1))
    found = checker.finish()
    assert found.counts == {Command.ACT: 1, Command.RD: 1, Command.PREab: 1}
    assert (found.banks_used, found.column_accesses, found.elapsed_cycles) == (1, 1, 23)
    with pytest.raises(ParameterError, match="max_postponed must be 0 to 8, not 9"):
        RuleChecker(dram_preset(DDR4), max_postponed=9)
