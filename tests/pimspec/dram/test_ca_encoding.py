"""Encodings on the CA pins: JEDEC's truth tables by hand, every field there and back, no two commands alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pimspec.dram.ca_encoding import decode, decode_stream, encode, encode_stream, occupied_cks
from pimspec.dram.ca_tables import CA_TABLES, CaEncoding, CaTable, ca_table
from pimspec.dram.commands import PIM_COMMANDS, Command, ca_cycles
from pimspec.dram.timing import DramStandard
from pimspec.errors import ParameterError
from pimspec.hostif.bus import BusState

DDR4, DDR5 = DramStandard.DDR4, DramStandard.DDR5
TWO_CYCLES_DDR4 = {Command.PIM_MAC, Command.PIM_WR_SB, Command.PIM_RD_RB}
AWAKE, POWER_DOWN, SELF_REFRESH = BusState.ACTIVE, BusState.POWER_DOWN, BusState.SELF_REFRESH

# Rows of JESD79-4, table "Command truth table", for one set of addresses: CKE before and now, CS_n, ACT_n, RAS_n/A16,
# CAS_n/A15, WE_n/A14, BG1:0, BA1:0, A17, A13:11, A10/AP, A9:0; "-" is any level.
BANK = {"bank_group": 2, "bank": 1}
DDR4_ROWS = {
    "MRS": ({"register": 6, "value": 0x2A5C}, "H H L H L L L 01 10 - 101 0 1001011100"),
    "REFab": ({}, "H H L H L L H -- -- - --- - ----------"),
    "SRE": ({}, "H L L H L L H -- -- - --- - ----------"),
    "SRX": ({}, "L H H - - - - -- -- - --- - ----------"),
    "PREpb": (BANK, "H H L H L H L 10 01 - --- 0 ----------"),
    "PREab": ({}, "H H L H L H L -- -- - --- 1 ----------"),
    "ACT": (BANK | {"row": 0x2B5C3}, "H H L L 0 1 0 10 01 1 110 1 0111000011"),
    "WR": (BANK | {"column": 77}, "H H L H H L L 10 01 - --- 0 1001101---"),
    "WRA": (BANK | {"column": 77}, "H H L H H L L 10 01 - --- 1 1001101---"),
    "RD": (BANK | {"column": 77}, "H H L H H L H 10 01 - --- 0 1001101---"),
    "RDA": (BANK | {"column": 77}, "H H L H H L H 10 01 - --- 1 1001101---"),
    "NOP": ({}, "H H L H H H H -- -- - --- - ----------"),
    "DES": ({}, "H H H - - - - -- -- - --- - ----------"),
    "PDE": ({}, "H L H - - - - -- -- - --- - ----------"),
    "PDX": ({}, "L H H - - - - -- -- - --- - ----------"),
    "ZQCL": ({}, "H H L H H H L -- -- - --- 1 ----------"),
    "ZQCS": ({}, "H H L H H H L -- -- - --- 0 ----------"),
}
# Rows of JESD79-5, table "Command truth table": CA0 to CA13 with CS_n low, then those with CS_n high.
BANK5 = {"bank_group": 6, "bank": 2}
DDR5_ROWS = {
    "ACT": (BANK5 | {"row": 0x2B5C3}, "LL1100 01 011 ---", "00111010110101"),
    "MRS": ({"register": 0xA7, "value": 0x39}, "HLHLL 11100101 -", "10011100 -- L ---"),
    "WR": (BANK5 | {"column": 37}, "HLHHL H 01 011 ---", "- -101001 - - H L --"),
    "WRA": (BANK5 | {"column": 37}, "HLHHL H 01 011 ---", "- -101001 - - L L --"),
    "RD": (BANK5 | {"column": 37}, "HLHHH H 01 011 ---", "LL101001 - - H - --"),
    "RDA": (BANK5 | {"column": 37}, "HLHHH H 01 011 ---", "LL101001 - - L - --"),
    "REFab": ({}, "HHLLH - -- - H L ---"),
    "REFsb": ({"bank": 2}, "HHLLH - 01 - H H ---"),
    "PREab": ({}, "HHLHL - -- -- L ---"),
    "PREpb": (BANK5, "HHLHH - 01 011 ---"),
    "SRE": ({}, "HHHLH ---- H L ---"),
    "PDE": ({}, "HHHLH ----- H L --"),
    "ZQCL": ({}, "HHHHL 10100000 -"),
    "ZQCS": ({}, "HHHHL 00100000 -"),
    "NOP": ({}, "HHHHH ---------"),
    "SRX": ({}, "HHHHH ---------"),
    "PDX": ({}, "HHHHH ---------"),
}
STATE = {"SRX": SELF_REFRESH, "PDX": POWER_DOWN}


def fits(word: int, width: int, pattern: str) -> bool:
    """True if bit k of a word is what the k-th character of a pattern says."""
    bits = pattern.replace(" ", "")
    assert len(bits) == width
    return all(c == "-" or (word >> k & 1) == (c in "H1") for k, c in enumerate(bits))


def forms():
    return [(table.standard, row) for table in CA_TABLES.values() for row in table.rows]


def random_fields(table: CaTable, row: CaEncoding, rng: np.random.Generator) -> dict[str, int]:
    """Fields that the form can carry."""
    found = dict(row.when)
    for name, places in row.fields.items():
        mask = sum(1 << bit for bit, place in enumerate(places) if place is not None)
        found[name] = int(rng.integers(1 << len(places))) & mask
    return found


@pytest.mark.parametrize("name", DDR4_ROWS)
def test_jesd79_4_row(name):
    fields, row = DDR4_ROWS[name]
    before, pins = row[0], row[2:]
    (word,) = encode(DDR4, Command[name], fields)
    assert fits(word, 25, pins), f"{word:025b}"
    state = STATE.get(name, AWAKE)
    assert (before == "H") == (state is AWAKE)
    assert decode(DDR4, [word], state=state) == (Command[name], fields)


@pytest.mark.parametrize("name", DDR5_ROWS)
def test_jesd79_5_row(name):
    fields, *rows = DDR5_ROWS[name]
    words = encode(DDR5, Command[name], fields)
    assert len(words) == len(rows)
    for word, cs_n, row in zip(words, "LH", rows, strict=False):
        assert fits(word, 15, cs_n + row), f"{word:015b}"
    assert decode(DDR5, words, state=STATE.get(name, AWAKE)) == (Command[name], fields)


@pytest.mark.parametrize("standard", CA_TABLES)
def test_every_command_has_an_encoding(standard):
    """REFsb is of DDR5. The standard's golden rows above are all but the PIM commands (and DES of DDR5)."""
    absent = {Command.REFsb} if standard is DDR4 else set()
    assert {row.command for row in ca_table(standard).rows} == set(Command) - absent
    for command in set(Command) - absent:
        rows = ca_table(standard).rows_of(command)
        assert {row.jedec for row in rows} == {command not in PIM_COMMANDS}
        cycles = 2 if standard is DDR4 and command in TWO_CYCLES_DDR4 else ca_cycles(command, standard)
        assert {row.cycles for row in rows} == {cycles}
    golden = {Command[name] for name in (DDR4_ROWS if standard is DDR4 else [*DDR5_ROWS, "DES"])}
    assert golden == set(Command) - absent - set(PIM_COMMANDS)


@pytest.mark.parametrize(("standard", "row"), forms(), ids=lambda x: x.name)
def test_every_bit_of_every_field_comes_back(standard, row):
    """Alone, with all others, and in 200 random mixtures; a pin without meaning may be at any level."""
    table, rng = ca_table(standard), np.random.default_rng(1)
    bits = [(name, bit) for name, places in row.fields.items() for bit, place in enumerate(places) if place]
    whole = dict(row.when)
    for name, bit in bits:
        whole[name] = whole.get(name, 0) | 1 << bit
    mixtures = [dict(row.when) | {name: 1 << bit} for name, bit in bits]
    mixtures += [whole, *(random_fields(table, row, rng) for _ in range(200))]
    zeros = dict.fromkeys(table.widths(row.command), 0)
    places = row.places()
    for fields in mixtures:
        words = encode(standard, row.command, fields, state=row.before)
        assert decode(standard, words, state=row.before) == (row.command, zeros | fields)
        for cycle, levels in enumerate(row.levels):
            free = [p for p in table.pins if levels.get(p, "h") == "h" and (cycle, p) not in places]
            words[cycle] ^= sum(int(rng.integers(2)) << table.bit_of[pin] for pin in free)
        assert decode(standard, words, state=row.before) == (row.command, zeros | fields)


@pytest.mark.parametrize("standard", CA_TABLES)
def test_no_word_begins_two_commands(standard):
    """Rows of one state differ in a pin of fixed level, in the first cycle unless both have two."""
    table = ca_table(standard)
    for one, other in itertools.combinations(table.rows, 2):
        if one.before is not other.before:
            continue
        shared = [
            {pin for pin in a if a[pin] != "h" and b.get(pin, "h") != "h"}
            for a, b in zip(one.levels, other.levels, strict=False)
        ]
        differ = [
            any(one.levels[cycle][pin] != other.levels[cycle][pin] for pin in pins) for cycle, pins in enumerate(shared)
        ]
        assert differ[0] or (one.cycles == other.cycles == 2 and differ[1]), f"{one.name}, {other.name}"


def test_another_chip_of_ddr4_sees_a_reserved_code_and_deselect():
    """The first cycle of a PIM command is RFU of JESD79-4, RAS_n L, CAS_n H, WE_n H; in the second CS_n is high."""
    rng, table = np.random.default_rng(2), ca_table(DDR4)
    for command in PIM_COMMANDS:
        for row in table.rows_of(command):
            for _ in range(50):
                first, *second = encode(DDR4, command, random_fields(table, row, rng))
                assert fits(first, 25, "H L H L H H" + "-" * 19)
                assert all(fits(word, 25, "H H" + "-" * 23) for word in second)


def test_pim_commands_of_ddr5_have_reserved_codes():
    rng, table = np.random.default_rng(3), ca_table(DDR5)
    reserved = ("HLLLL", "HLLLH", "HLLHH")
    for command in PIM_COMMANDS:
        for row in table.rows_of(command):
            first, second = encode(DDR5, command, random_fields(table, row, rng))
            assert any(fits(first, 15, f"L {code} {'-' * 9}") for code in reserved)
            assert fits(second, 15, "H" + "-" * 14)


@pytest.mark.parametrize(
    ("standard", "command", "fields", "text"),
    [
        (DramStandard.HBM3, "ACT", {}, "standard of CA pins must be ddr4 or ddr5, not 'hbm3'"),
        (DDR4, "REFsb", {}, "command must be one of ddr4, not 'REFsb'"),
        (DDR4, "RD", {"row": 1}, "field of RD must be one of bank_group, bank, column, not 'row'"),
        (DDR4, "RD", {"column": 128}, r"column of RD must be 0\.\.127, not 128"),
        (DDR4, "ACT", {"row": -1}, r"row of ACT must be 0\.\.262143, not -1"),
        (DDR4, "PIM_MAC", {"count": 256}, r"count of PIM_MAC must be 0\.\.255, not 256"),
        (DDR5, "PIM_MAC", {"start": 256}, r"start of PIM_MAC must be 0\.\.255, not 256"),
        (DDR5, "PIM_MAC", {"column": 4}, "column of PIM_MAC resume=0 must be one without bit 2, not 4"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(standard, command, fields, text):
    with pytest.raises(ParameterError, match=text):
        encode(standard, Command[command], fields)


@pytest.mark.parametrize(
    ("standard", "words"),
    [
        (DDR4, [0b110101]),  # RFU with A2 to A0 low
        (DDR4, encode(DDR4, Command.PIM_MAC)[:1]),
        (DDR5, encode(DDR5, Command.ACT)[:1]),
        (DDR5, [encode(DDR5, Command.ACT)[0], 0]),  # CS_n low in the second cycle
        (DDR5, [0b1110]),  # RFU of one cycle, HHHLL
    ],
)
def test_words_that_are_no_command_are_refused(standard, words):
    with pytest.raises(ParameterError, match=f"pin words must be a command of {standard.value} in state ACTIVE"):
        decode(standard, words)


def test_a_resumed_burst_of_ddr5_has_only_the_fields_that_it_uses():
    fields = {"resume": 1, "bank": 3, "column": 61, "count": 3}
    words = encode(DDR5, Command.PIM_MAC, fields | {"mode": 1, "first": 1, "set": 1, "start": 200})
    assert words == encode(DDR5, Command.PIM_MAC, fields)


def random_stream(standard, rng, length):
    """Commands with their CKs as issued: any that the state allows, close together."""
    table, state, stream, ck = ca_table(standard), AWAKE, [], 0
    while ck < length:
        rows = [row for row in table.rows if row.before is state and row.command is not Command.DES]
        rows = [row for row in rows if table.rows_of(row.command)[0].levels == row.levels or row.when]
        row = rows[rng.integers(len(rows))]
        stream.append((ck + table.issue_cycle(row), row.command, random_fields(table, row, rng)))
        ck += row.cycles + int(rng.integers(3))
        state = row.after
    return stream, ck


@pytest.mark.parametrize("standard", CA_TABLES)
def test_a_stream_comes_back(standard):
    """Without a CK between commands, too; power-down and self refresh among them."""
    stream, end = random_stream(standard, np.random.default_rng(4), 5000)
    assert {command for _, command, _ in stream} == {row.command for row in ca_table(standard).rows} - {Command.DES}
    seen = decode_stream(standard, encode_stream(standard, stream, end))
    zeros = ca_table(standard).widths
    assert seen.commands == [(ck, command, dict.fromkeys(zeros(command), 0) | fields) for ck, command, fields in stream]
    assert seen.unknown == []


@pytest.mark.parametrize("standard", CA_TABLES)
def test_commands_that_need_one_ck_are_refused(standard):
    ck = occupied_cks(standard, 10, Command.PIM_MAC)
    assert list(ck) == ([10, 11] if standard is DDR4 else [9, 10])
    mac = (10, Command.PIM_MAC, {})
    for other, works in ((ck[0] - 1, True), (ck[0], False), (ck[1], False), (ck[1] + 1, True)):
        stream = sorted([mac, (other, Command.PREab, {})], key=lambda item: item[0])
        if works:
            assert len(decode_stream(standard, encode_stream(standard, stream, 20)).commands) == 2
        else:
            with pytest.raises(ParameterError, match="which counts as issued in"):
                encode_stream(standard, stream, 20)


@pytest.mark.parametrize("with_nop", [False, True])
def test_cke_decides_what_a_chip_of_ddr4_sees(with_nop):
    """SRE as CKE falls with REF, PDE with DES; commands while it is low are none; NOP as it rises ends self refresh."""
    des, nop, read = (encode(DDR4, c)[0] for c in (Command.DES, Command.NOP, Command.RD))
    low, refresh = 1, encode(DDR4, Command.REFab)[0]
    words = [refresh & ~low, read & ~low, des & ~low, nop if with_nop else des, read]
    seen = decode_stream(DDR4, words)
    expected = [(0, Command.SRE), (3, Command.SRX), (4, Command.RD)]
    assert [(ck, command) for ck, command, _ in seen.commands] == expected
    assert seen.unknown == []
    seen = decode_stream(DDR4, [des & ~low, refresh & ~low, nop if with_nop else des, read])
    assert [(ck, command) for ck, command, _ in seen.commands][1:] == ([] if with_nop else [(2, Command.PDX)]) + [
        (3, Command.RD)
    ]
    assert seen.unknown == ([2] if with_nop else [])


def test_cke_that_falls_otherwise_is_power_down():
    """With a command, or in the second cycle of one, which is none then."""
    des, read, mac = encode(DDR4, Command.DES)[0], encode(DDR4, Command.RD)[0], encode(DDR4, Command.PIM_MAC)
    for words in ([read & ~1, read & ~1, des], [mac[0], mac[1] & ~1, des]):
        seen = decode_stream(DDR4, words)
        assert [(ck, command) for ck, command, _ in seen.commands] == [(2, Command.PDX)]
        assert len(seen.unknown) == 1


def test_a_second_word_with_cs_n_low_ends_the_command():
    for standard, command in ((DDR4, Command.PIM_MAC), (DDR5, Command.ACT)):
        first = encode(standard, command)[0]
        nop = encode(standard, Command.NOP)[0]
        seen = decode_stream(standard, [first, nop, nop])
        assert [(ck, command) for ck, command, _ in seen.commands] == [(2, Command.NOP)]
        assert seen.unknown == [1]
