"""Rule checker on random streams: legal ones, streams that break one rule, and a brute-force checker."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from pimsim.legal_streams import legal_stream, preset_rules, rules_without
from pimsim.rule_checker import RuleChecker, RuleViolationError
from pimspec.dram.commands import COMMANDS, Bus, Command, supported_commands
from pimspec.dram.constraints import Level
from pimspec.dram.organization import dram_preset

DDR4, DDR4_16, DDR5 = "ddr4-3200-x8-8gb", "ddr4-3200-x8-16gb", "ddr5-4800-x8-16gb"
PARTS = (DDR4, DDR4_16, DDR5)


def broken(name, trace, rules=None):
    """Violation of a trace, or None."""
    try:
        RuleChecker(dram_preset(name), rules).check_trace(trace)
    except RuleViolationError as error:
        return error
    return None


# Rules that random streams hardly break. Others imply tFAW of DDR5-4800; the rest are rare, and have directed tests.
UNTRIED = {DDR4: {"tMRD"}, DDR4_16: {"tMRD"}, DDR5: {"tMRD", "tFAW", "tRC"}}


@pytest.mark.parametrize("name", PARTS)
def test_streams_that_keep_all_rules_but_one(name):
    """The first violation of such a stream is of that rule, and of no other."""
    untried = set()
    for rule in preset_rules(name):
        rules, rng, error = rules_without(preset_rules(name), rule.name), random.Random(rule.name), None
        refreshes = {Command.REFab, Command.REFsb, Command.MRS}  # a refresh is due after some 600 commands
        rare = refreshes & set(rule.preceding) or rule.name in ("pim_read_REF", "pim_write_REF")
        for _ in range(1 if rule.name in UNTRIED[name] else 30):
            trace = legal_stream(
                dram_preset(name), num_commands=900 if rare else 250, rng=rng, idle=0.1, constraints=rules
            )
            assert broken(name, trace, rules) is None
            error = error or broken(name, trace)
            if error:
                assert error.rule == rule.name
                break
        untried |= set() if error else {rule.name}
    assert untried <= UNTRIED[name]


@pytest.mark.parametrize(
    ("name", "postponed"), [*itertools.product(PARTS, (0, 1, 8)), ("hbm3-5200", 0), ("gddr6-aim", 0)]
)
def test_legal_streams_pass(name, postponed, count_vectors):
    preset, commands = dram_preset(name), 9000 if postponed == 8 else 4000
    rng = random.Random(postponed)
    trace = legal_stream(preset, num_commands=commands, rng=rng, idle=postponed / 10, max_postponed=postponed)
    found = RuleChecker(preset, max_postponed=postponed).check_trace(trace)
    assert sum(found.counts.values()) == commands
    assert set(supported_commands(preset.organization.standard)) - {Command.MRS} <= set(found.counts)
    assert found.elapsed_cycles > 2 * (1 + postponed) * preset.timing.nREFI
    assert not bus_conflicts(preset, trace)
    count_vectors("legal DRAM commands", commands)


def bus_conflicts(preset, trace):
    """Pairs of neighbours on DQ that overlap, or are of different ranks and too close."""
    t, bursts = preset.timing, []
    for traced in trace:
        latency = {Bus.READ: t.nCL, Bus.WRITE: t.nCWL, Bus.NONE: None}[COMMANDS[traced.command].bus]
        if latency is not None:
            bursts.append((traced.ck + latency, traced.rank))
    bursts.sort()
    gaps = ((b[0] - a[0] - t.nBL, t.nRTRS if a[1] != b[1] else 0) for a, b in itertools.pairwise(bursts))
    return [gap for gap in gaps if gap[0] < gap[1]]


# ------------------------------------------------------------------------------------------------ brute force


def expand(preset, trace):
    """Column accesses and commands as (cycle, on the bus, index, command); at equal cycles internal accesses first."""
    events = []
    for index, traced in enumerate(trace):
        for k in range(traced.count):
            events.append((traced.ck + k * preset.timing.nCCD_MAC, k == 0, index, traced))
    return sorted(events, key=lambda event: event[:3])


def brute_force(name, rules, trace):
    """Every violation as {index of the violating command: names}, by comparing each event with each before it."""
    preset, found = dram_preset(name), {}
    events, longest, org = expand(preset, trace), max(rule.latency_cycles for rule in rules), preset.organization
    pairs = {(a, b): [r for r in rules if a in r.preceding and b in r.following] for a in Command for b in Command}
    banks = list(itertools.product(range(org.ranks), range(org.bank_groups), range(org.banks_per_group)))
    for j, (cycle, on_bus, index, later) in enumerate(events):
        info, seen = COMMANDS[later.command], dict.fromkeys((r.name for r in rules if r.window > 1), 0)
        for cycle_before, on_bus_before, index_before, before in reversed(events[:j]):
            if cycle - cycle_before >= longest:
                break
            for rule in pairs[before.command, later.command]:
                if rule.level is Level.CHANNEL and not (on_bus and on_bus_before):
                    continue
                if rule.relates(before.address, later.address):
                    seen[rule.name] = seen.get(rule.name, 0) + 1
                    if seen[rule.name] >= rule.window and cycle - cycle_before < rule.latency_cycles:
                        found.setdefault(max(index, index_before), set()).add(rule.name)
        if not (info.needs_open_row or info.needs_idle):
            continue
        changes = [(e[2], e[3].command, e[3].address) for e in reversed(events[:j]) if changes_row(e[3])]
        for bank in banks:
            if later.address.covers(*bank):
                who, change = next(((i, c) for i, c, place in changes if place.covers(*bank)), (0, None))
                if (change is Command.ACT) is not info.needs_open_row:
                    kind = ("row_open" if on_bus else "burst_row") if info.needs_open_row else "row_closed"
                    found.setdefault(max(index, who), set()).add(kind)
    return found


def changes_row(traced):
    return COMMANDS[traced.command].opens_row or COMMANDS[traced.command].closes_row


def corrupt(rng, trace):
    """The trace with one command a CK earlier or later, removed, or at another bank."""
    index, trace = rng.randrange(1, len(trace)), list(trace)
    traced, kind = trace[index], rng.choice(("earlier", "earlier", "earlier", "later", "gone", "moved"))
    if kind == "gone":
        return trace[:index] + trace[index + 1 :]
    if kind == "moved" and traced.bank is not None:
        trace[index] = dataclasses.replace(traced, bank=traced.bank ^ 1)
    else:
        bounds = (trace[index - 1].ck, trace[index + 1].ck if index + 1 < len(trace) else traced.ck + 1)
        ck = min(max(traced.ck + (1 if kind == "later" else -1), bounds[0]), bounds[1])
        trace[index] = dataclasses.replace(traced, ck=ck)
    return trace


def first_violation(name, trace, rules):
    checker = RuleChecker(dram_preset(name), rules)
    for index, traced in enumerate(trace):
        try:
            checker.issue(traced)
        except RuleViolationError as error:
            return index, error.rule
    return None


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("seed", range(4))
def test_agreement_with_brute_force(name, seed, count_vectors):
    """On legal streams, on streams with one corruption, and with a table that lacks a rule."""
    rng, agreed, legal = random.Random(f"{name} {seed}"), 0, 0
    for trial in range(8):
        trace = legal_stream(dram_preset(name), num_commands=100, rng=rng, idle=rng.random() / 2)
        trace = corrupt(rng, trace) if trial else trace
        rules = preset_rules(name)
        if trial % 3 == 0:
            rules = rules_without(rules, rng.choice(rules).name)
        expected, found = brute_force(name, rules, trace), first_violation(name, trace, rules)
        assert (found is None) == (not expected), (trial, found, expected)
        if found is None:
            legal += 1
        else:
            assert found[0] == min(expected), (trial, found, expected)
            assert found[1] in expected[found[0]], (trial, found, expected)
        agreed += len(trace)
    assert 1 <= legal < 8
    count_vectors("DRAM commands judged alike by brute force", agreed)
