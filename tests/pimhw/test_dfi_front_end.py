"""DFI front end: pins of every DDR4 command in every phase, CKE, reset, and the lines."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from amaranth.sim import Simulator

from pimhw.host_side.dfi_front_end import DfiFrontEnd
from pimspec.dram.commands import Command
from pimspec.errors import ParameterError
from pimspec.hostif.dfi import DfiParams
from pimspec.params.presets import preset_named

PARAMS = DfiParams(rank=preset_named("ddr4-3200-x8-8gb").rank)
ORG = PARAMS.rank.organization
ROW, COLUMN, BANK = 0x2A5C, 77, 13
AP = 1 << 10
# ACT_n, RAS_n, CAS_n, WE_n and the address, as JESD79-4's command truth table has them
PINS = {
    Command.ACT: (0, ROW >> 16 & 1, ROW >> 15 & 1, ROW >> 14 & 1, ROW & 0x3FFF),
    Command.MRS: (1, 0, 0, 0, 0x1234),
    Command.REFab: (1, 0, 0, 1, 0),
    Command.PREpb: (1, 0, 1, 0, 0),
    Command.PREab: (1, 0, 1, 0, AP),
    Command.WR: (1, 1, 0, 0, COLUMN << 3),
    Command.WRA: (1, 1, 0, 0, COLUMN << 3 | AP),
    Command.RD: (1, 1, 0, 1, COLUMN << 3),
    Command.RDA: (1, 1, 0, 1, COLUMN << 3 | AP),
    Command.ZQCS: (1, 1, 1, 0, 0),
    Command.ZQCL: (1, 1, 1, 0, AP),
    Command.NOP: (1, 1, 1, 1, 0),
}
IDLE = {"cs_n": 1, "act_n": 1, "ras_n": 1, "cas_n": 1, "we_n": 1, "cke": 1, "reset_n": 1, "address": 0, "bank": 0}


def pins(command, **changes):
    act_n, ras_n, cas_n, we_n, address = PINS[command]
    given = {"cs_n": 0, "act_n": act_n, "ras_n": ras_n, "cas_n": cas_n, "we_n": we_n, "address": address}
    return IDLE | given | {"bank": BANK} | changes


def commands(ck):
    """Commands that come out, by CK, of pins for each CK; the first clock has none, with CKE high."""
    dut, n, seen = DfiFrontEnd(params=PARAMS), PARAMS.num_phases, []
    ck = [IDLE] * n + list(ck)
    ck += [ck[-1] | {"cs_n": 1}] * (-len(ck) % n)

    async def bench(ctx):
        for clock in range(len(ck) // n):
            for phase, given in zip(dut.phases, ck[clock * n : clock * n + n], strict=True):
                for name, value in given.items():
                    ctx.set(getattr(phase, name), value)
            for k, slot in enumerate(dut.host):
                if ctx.get(slot.valid):
                    payload = ctx.get(slot.payload)
                    fields = {f: int(payload[f]) for f in ("bank", "row", "column")}
                    seen.append((clock * n + k - n, Command(int(payload.code)), fields))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


@pytest.mark.parametrize("phase", range(PARAMS.num_phases))
@pytest.mark.parametrize("command", PINS)
def test_each_command_in_each_phase(command, phase):
    ((ck, seen, fields),) = commands([*[IDLE] * phase, pins(command)])
    assert (ck, seen) == (phase, command)
    if command in (Command.ACT, Command.PREpb, Command.RD, Command.RDA, Command.WR, Command.WRA, Command.MRS):
        assert fields["bank"] == BANK
    if command is Command.ACT:
        assert fields["row"] == ROW
    if command is Command.MRS:
        assert fields["row"] == 0x1234
    if command in (Command.RD, Command.RDA, Command.WR, Command.WRA):
        assert fields["column"] == COLUMN


def test_row_address_pins_are_those_of_the_command_pins():
    """A16 to A14 come over RAS_n, CAS_n and WE_n while ACT_n is low."""
    for ras_n, cas_n, we_n in product((0, 1), repeat=3):
        given = pins(Command.ACT, ras_n=ras_n, cas_n=cas_n, we_n=we_n)
        ((_, _, fields),) = commands([given])
        high = ras_n << 16 | cas_n << 15 | we_n << 14
        assert fields["row"] == (high | ROW & 0x3FFF) & ((1 << ORG.row_bits) - 1)


def test_commands_of_all_phases_of_a_clock():
    given = [
        pins(Command.PREpb, bank=1),
        pins(Command.ACT, bank=2),
        pins(Command.RD, bank=3),
        pins(Command.PREpb, bank=4),
    ]
    seen = commands(given)
    assert [(ck, command, fields["bank"]) for ck, command, fields in seen] == [
        (0, Command.PREpb, 1), (1, Command.ACT, 2), (2, Command.RD, 3), (3, Command.PREpb, 4),
    ]  # fmt: skip


def low(command=None):
    return (IDLE if command is None else pins(command)) | {"cke": 0}


@pytest.mark.parametrize("phase", range(PARAMS.num_phases))
@pytest.mark.parametrize(
    ("enters", "first", "last"),
    [
        (low(), Command.PDE, Command.PDX),
        (low(Command.NOP), Command.PDE, Command.PDX),
        (low(Command.REFab), Command.SRE, Command.SRX),
    ],
)
def test_cke_enters_and_leaves(phase, enters, first, last):
    """A command while CKE is low is none."""
    ck = [*[IDLE] * phase, enters, low(Command.RD), low(), low(Command.ACT), IDLE, pins(Command.NOP)]
    seen = commands(ck)
    assert [(k, c) for k, c, _ in seen] == [(phase, first), (phase + 4, last), (phase + 5, Command.NOP)]


def test_no_command_in_reset_and_none_of_cke_after_it():
    reset = {"reset_n": 0}
    ck = [low() | reset, pins(Command.RD, **reset), low() | reset, low(), low(), IDLE, pins(Command.NOP)]
    assert [(k, c) for k, c, _ in commands(ck)] == [(6, Command.NOP)]


def test_a_chip_that_is_not_selected_sees_nothing():
    assert commands([pins(command, cs_n=1) for command in PINS]) == []


def test_a_reserved_pattern_is_no_command_of_ddr4():
    ((_, command, _),) = commands([IDLE | {"cs_n": 0, "ras_n": 0, "cas_n": 1, "we_n": 1}])
    assert command is Command.DES  # with chip select: the host port refuses it


def test_lines_are_phases_in_order():
    dut, rng = DfiFrontEnd(params=PARAMS), np.random.default_rng(1)
    bits, n = PARAMS.data_bits, PARAMS.num_phases
    words = [int.from_bytes(rng.bytes(bits // 8), "little") for _ in range(2 * n)]
    masks = [int(rng.integers(1 << (bits // 8))) for _ in range(n)]

    async def bench(ctx):
        for k, phase in enumerate(dut.phases):
            ctx.set(phase.wrdata, words[k])
            ctx.set(phase.wrdata_mask, masks[k])
        ctx.set(dut.host_out_data, sum(word << (k * bits) for k, word in enumerate(words[n:])))
        for valid in (0, 1):
            ctx.set(dut.host_out_valid, valid)
            assert [ctx.get(phase.rddata_valid) for phase in dut.phases] == [valid] * n
        assert ctx.get(dut.host_data) == sum(word << (k * bits) for k, word in enumerate(words[:n]))
        assert ctx.get(dut.host_mask) == sum(mask << (k * bits // 8) for k, mask in enumerate(masks))
        assert [ctx.get(phase.rddata) for phase in dut.phases] == words[n:]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("preset", ["ddr5-4800-x8-16gb"])
def test_only_ddr4_has_these_pins(preset):
    with pytest.raises(ParameterError, match="standard must be ddr4, not 'ddr5'"):
        DfiParams(rank=preset_named(preset).rank)
