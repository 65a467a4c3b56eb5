"""Encoder and decoder of the CA pins: equal to the codec of the contract, CK by CK."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.sim import Simulator

from pimhw.dram.ca_decoder import CaDecoder
from pimhw.dram.ca_encoder import CaEncoder
from pimhw.generate import component_verilog
from pimsim.lint import lint_warnings
from pimspec.dram.ca_encoding import decode_stream, encode, encode_stream
from pimspec.dram.commands import Command
from pimspec.dram.timing import DramStandard
from pimspec.errors import ParameterError
from pimspec.hostif.bus import BusState
from pimspec.params.ca_port import CaPortParams
from pimspec.params.command_engine import BUS_COMMANDS
from pimspec.params.presets import preset_named

PORTS = {
    name: CaPortParams.of_rank(preset_named(name).rank)
    for name in ("tiny", "ddr4-3200-x8-8gb", "ddr4-3200-x8-8gb-gqa8", "ddr5-4800-x8-16gb")
}
BOTH = ("ddr4-3200-x8-8gb", "ddr5-4800-x8-16gb")
_C = Command


def pin_widths(params, command):
    """Bits that the port has for each field on the pins."""
    chip = params.chip
    banks = (chip.bank_groups * chip.banks_per_group - 1).bit_length()
    if command is _C.MRS:
        carried = params.table.widths(command)
        return {"register": min(banks, carried["register"]), "value": min(chip.row_bits, carried["value"])}
    return params.port_widths(command)


def port_fields(params, command, fields):
    """Payload of the port for fields on the pins; those that the port cannot hold are cut."""
    chip = params.chip
    if command is _C.MRS:
        group, bank = divmod(fields["register"] % (chip.bank_groups * chip.banks_per_group), chip.banks_per_group)
        return {"bank_group": group, "bank": bank, "row": fields["value"] % (1 << chip.row_bits)}
    widths = params.port_widths(command)
    kept = {name: value % (1 << widths.get(name, 0)) for name, value in fields.items()}
    if command in BUS_COMMANDS:
        flat = kept.pop("bank_group", 0) * chip.banks_per_group + kept.get("bank", 0)
        return kept | {"bank": flat, "read": int(command is _C.PIM_RD_RB)}
    return kept


def place(params, ck, command):
    """Clock and member of the port for a command that counts as issued in `ck`; None if the port has none."""
    clock, slot = divmod(ck, params.chip.slots)
    if command in BUS_COMMANDS:
        return (clock, "bus") if slot == params.bus_phase_ck else None
    if command in (params.late_commands if slot else params.slot_commands):
        return clock, f"late{slot - 1}" if slot else "command"
    return None


class PortStream:
    """Random commands that the port can give, dense, in an order that the state of the chip allows."""

    def __init__(self, params, rng, clocks):
        self.params, self.commands = params, []
        table, state, free = params.table, BusState.ACTIVE, 0
        for ck in range(params.chip.slots, params.chip.slots * (clocks - 1)):
            choices = [
                row
                for row in table.rows
                if row.before is state and row.command is not _C.DES and place(params, ck, row.command)
            ]
            choices = [row for row in choices if ck - table.issue_cycle(row) >= free]
            if not choices or rng.random() < 0.2:
                continue
            pim = [row for row in choices if not row.jedec]
            rows = pim if pim and rng.random() < 0.6 else choices
            row = rows[rng.integers(len(rows))]
            fields = dict(row.when)
            for name, width in pin_widths(params, row.command).items():
                places = row.fields.get(name, ())
                mask = sum(1 << bit for bit, at in enumerate(places) if at is not None)
                fields[name] = fields.get(name, int(rng.integers(1 << width)) & mask)
            self.commands.append((ck, row.command, fields))
            state, free = row.after, ck - table.issue_cycle(row) + row.cycles

    def by_clock(self):
        """Payloads by clock and member."""
        found = {}
        for ck, command, fields in self.commands:
            clock, member = place(self.params, ck, command)
            payload = port_fields(self.params, command, fields) | ({} if member == "bus" else {"code": int(command)})
            found.setdefault(clock, {})[member] = payload
        return found


def members(dut):
    return {"command": dut.command, "bus": dut.bus, **{f"late{k}": slot for k, slot in enumerate(dut.late)}}


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def encoded(params, given, clocks):
    """Pin words CK by CK, and clocks with a refusal, of payloads by clock and member."""
    dut, words, refused = CaEncoder(params=params), [], []

    async def bench(ctx):
        for clock in range(clocks + params.delay_clocks):
            for name, slot in members(dut).items():
                payload = given.get(clock, {}).get(name)
                ctx.set(slot.valid, payload is not None)
                if payload is not None:
                    ctx.set(slot.payload, payload)
            if ctx.get(dut.refused):
                refused.append(clock)
            if clock >= params.delay_clocks:
                words.extend(ctx.get(pins.as_value()) for pins in dut.pins)
            await ctx.tick()

    simulate(dut, bench)
    return words, refused


def decoded(params, words):
    """Payloads by clock and member, and clocks with an unknown word."""
    dut, seen, unknown = CaDecoder(params=params), {}, []
    slots = params.chip.slots

    async def bench(ctx):
        for clock in range(len(words) // slots):
            for pins, word in zip(dut.pins, words[clock * slots :], strict=False):
                ctx.set(pins.as_value(), word)
            for name, slot in members(dut).items():
                if ctx.get(slot.valid):
                    payload = ctx.get(slot.payload)
                    seen.setdefault(clock, {})[name] = {f: int(payload[f]) for f in slot.payload.shape().members}
            if ctx.get(dut.unknown):
                unknown.append(clock)
            await ctx.tick()

    simulate(dut, bench)
    return seen, unknown


def expected_of_words(params, words):
    """The same from the codec of the contract."""
    seen, found, slots = decode_stream(params.standard, words), {}, params.chip.slots
    unknown = {ck // slots for ck in seen.unknown}
    chip = params.chip
    names = {"command": chip.command, "bus": chip.bus} | {f"late{k}": chip.late for k in range(slots - 1)}
    for ck, command, fields in seen.commands:
        at = place(params, ck, command)
        if at is None:
            row = params.table.rows_of(command)[0]
            unknown.add((ck - params.table.issue_cycle(row) + row.cycles - 1) // slots)
            continue
        clock, member = at
        payload = dict.fromkeys((f.name for f in names[member].fields), 0)
        payload |= port_fields(params, command, fields) | ({} if member == "bus" else {"code": int(command)})
        found.setdefault(clock, {})[member] = payload
    return found, sorted(unknown)


@pytest.mark.parametrize("name", PORTS)
def test_the_encoder_gives_the_words_of_the_contract(name):
    params, clocks = PORTS[name], 400
    stream = PortStream(params, np.random.default_rng(1), clocks)
    given = {command for _, command, _ in stream.commands}
    assert given == {row.command for row in params.table.rows} - {_C.DES, _C.PIM_WR_R}
    words, refused = encoded(params, stream.by_clock(), clocks)
    assert words == encode_stream(params.standard, stream.commands, clocks * params.chip.slots)
    assert refused == []


@pytest.mark.parametrize("name", PORTS)
def test_what_was_encoded_comes_back_to_the_port(name):
    params, clocks = PORTS[name], 400
    stream = PortStream(params, np.random.default_rng(2), clocks)
    seen, unknown = decoded(params, encode_stream(params.standard, stream.commands, clocks * params.chip.slots))
    given = stream.by_clock()
    assert seen.keys() == given.keys()
    for clock, slots in given.items():
        assert seen[clock] == {m: dict.fromkeys(seen[clock][m], 0) | payload for m, payload in slots.items()}
    assert unknown == []


@pytest.mark.parametrize("name", BOTH)
def test_the_decoder_knows_any_words_as_the_contract_does(name):
    """Valid words with single pins at the wrong level, and arbitrary ones."""
    params, clocks, rng = PORTS[name], 500, np.random.default_rng(3)
    words = encode_stream(params.standard, PortStream(params, rng, clocks).commands, clocks * params.chip.slots)
    for ck in rng.integers(len(words), size=len(words) // 8):
        words[ck] ^= 1 << int(rng.integers(params.word_bits))
    for ck in rng.integers(len(words), size=len(words) // 16):
        words[ck] = int(rng.integers(1 << params.word_bits))
    seen, unknown = decoded(params, words)
    expected, expected_unknown = expected_of_words(params, words)
    for clock in range(clocks):
        assert seen.get(clock) == expected.get(clock), f"clock {clock}"
    assert unknown == expected_unknown
    assert len(unknown) > 50


MAC, READ, LATE = {"code": int(_C.PIM_MAC)}, {"code": int(_C.RD)}, {"code": int(_C.PREab)}
REFUSED = {
    "a command that the standard lacks": ("ddr4-3200-x8-8gb", {"command": {"code": int(_C.REFsb)}}),
    "no command": ("ddr4-3200-x8-8gb", {"command": {"code": int(_C.DES)}}),
    "a register that the port cannot name": ("ddr4-3200-x8-8gb", {"command": {"code": int(_C.PIM_WR_R)}}),
    "a PIM command of a later slot": ("ddr4-3200-x8-8gb", {"late0": MAC}),
    "a bus command in a slot": ("ddr4-3200-x8-8gb", {"command": {"code": int(_C.PIM_RD_RB)}}),
    "a mode register beyond the pins": ("ddr4-3200-x8-8gb", {"command": {"code": int(_C.MRS), "bank_group": 2}}),
    "a value beyond the pins": ("ddr5-4800-x8-16gb", {"command": {"code": int(_C.MRS), "row": 1 << 8}}),
    "SRX of a chip that is awake": ("ddr4-3200-x8-8gb", {"late1": {"code": int(_C.SRX)}}),
    "the CK of a second cycle": ("ddr4-3200-x8-8gb", {"command": MAC, "late0": LATE}),
    "the CK of a bus command": ("ddr4-3200-x8-8gb", {"bus": {}, "late1": LATE}),
    "the CK after a bus command": ("ddr4-3200-x8-8gb", {"bus": {}, "late2": LATE}),
    "a fresh burst not from column 0": ("ddr5-4800-x8-16gb", {"command": MAC | {"column": 1}}),
    "the CK of a first cycle": ("ddr5-4800-x8-16gb", {"late1": LATE, "bus": {}}),
    "two commands of two cycles in a row": ("ddr5-4800-x8-16gb", {"late0": READ, "late1": READ}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_command_without_a_place_is_refused_and_the_rest_goes_out(case):
    name, given = REFUSED[case]
    params = PORTS[name]
    words, refused = encoded(params, {2: given, 3: {"command": READ}}, 5)
    assert refused == [2]
    commands = [(ck, command) for ck, command, _ in decode_stream(params.standard, words).commands]
    assert commands[-1] == (3 * params.chip.slots, _C.RD)
    assert len(commands) == len(given)  # the RD, and all but the refused one


def test_a_command_of_ddr5_needs_the_last_ck_of_the_clock_before():
    params = PORTS["ddr5-4800-x8-16gb"]
    for last, expected in ((f"late{params.chip.slots - 2}", [3]), (f"late{params.chip.slots - 3}", [])):
        words, refused = encoded(params, {2: {last: LATE}, 3: {"command": READ}}, 5)
        assert refused == expected
        assert len(decode_stream(params.standard, words).commands) == 2 - len(expected)


def test_a_chip_asleep_gets_its_exit_alone():
    for name, leaves, enters in ((n, *pair) for n in BOTH for pair in ((_C.SRX, _C.SRE), (_C.PDX, _C.PDE))):
        params, slots = PORTS[name], PORTS[name].chip.slots
        code = {c: {"code": int(c)} for c in (leaves, enters, _C.RD, _C.NOP)}
        given = {1: {"late1": code[enters]}, 2: {"command": code[_C.RD], "late0": code[_C.NOP]}}
        given |= {3: {"late2": code[leaves]}, 5: {"command": code[_C.RD]}}
        words, refused = encoded(params, given, 7)
        assert refused == [2]
        seen = [(ck, command) for ck, command, _ in decode_stream(params.standard, words).commands]
        assert seen == [(slots + 2, enters), (3 * slots + 3, leaves), (5 * slots, _C.RD)]
        if params.standard is DramStandard.DDR4:
            low = [ck for ck, word in enumerate(words) if not word & 1]
            assert low == list(range(slots + 2, 3 * slots + 3))


def test_the_pins_of_ddr5_are_a_clock_late():
    """So that the first cycle of a command in the first slot lies in the last CK of the clock before."""
    params = PORTS["ddr5-4800-x8-16gb"]
    assert [PORTS[name].delay_clocks for name in BOTH] == [0, 1]
    words, _ = encoded(params, {1: {"command": READ}}, 3)
    first, second = encode(params.standard, _C.RD)
    assert words[params.chip.slots - 1 : params.chip.slots + 1] == [first, second]


@pytest.mark.parametrize("name", BOTH)
def test_lint_is_silent(name, tmp_path):
    for top, kind in (("ca_encoder", CaEncoder), ("ca_decoder", CaDecoder)):
        source = tmp_path / f"{top}.v"
        source.write_text(component_verilog(kind(params=PORTS[name]), top))
        assert lint_warnings(source, top) == []


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"standard": DramStandard.HBM3}, "standard of CA pins must be ddr4 or ddr5, not 'hbm3'"),
        ({"slots": 2}, r"slots must be 4\.\.8: two commands of two CK in a clock, not 2"),
        ({"bank_groups": 8}, "bank_group of ACT must be at most 2 bits wide on pins of ddr4, not 3"),
        ({"standard": DramStandard.DDR5}, "column of PIM_MAC must be at most 6 bits wide on pins of ddr5, not 7"),
    ],
)
def test_a_port_that_does_not_fit_is_refused(given, text):
    standard = given.pop("standard", DramStandard.DDR4)
    with pytest.raises(ParameterError, match=text):
        CaPortParams(standard=standard, chip=dataclasses.replace(PORTS["ddr4-3200-x8-8gb"].chip, **given))


@pytest.mark.parametrize("name", ["tiny", *BOTH])
def test_every_shape_of_a_preset_fits(name):
    """The pins carry every rank of the preset, whatever head_dim and queries it is fitted to."""
    fitted = 0
    for head_dim in (16, 32, 64, 128, 256, 512):
        for queries in (1, 2, 4, 8):
            try:
                rank = dataclasses.replace(preset_named(name).rank, head_dim=head_dim, queries_at_once=queries)
            except ParameterError:
                continue
            assert CaPortParams.of_rank(rank).chip is rank.chip
            fitted += 1
    assert fitted >= 8
