"""Command encodings on the CA pins, as a table for DDR4 and one for DDR5.

Rows of JEDEC commands are those of the command truth tables of JESD79-4 and JESD79-5. Rows of PIM commands are this
project's choice, on codes that the standards reserve (RFU): CHIME publishes no encoding.

DDR4 reserves one code, RAS_n L, CAS_n H, WE_n H. A2 to A0 tell the PIM commands apart, and 0 is none of them. PIM_MAC,
PIM_WR_SB and PIM_RD_RB take two cycles: CS_n is high in the second, so any other chip sees DES there. The first cycle
has bank and column, all that the cells need. So they count as issued in the first cycle, as JEDEC's commands of one
cycle do.

DDR5 reserves three codes of two cycles, CA0 to CA4 H L L L L, H L L L H and H L L H H. The first two are PIM_MAC, the
third is the others. A command counts as issued in its last cycle, as JEDEC's of two cycles do here. Two cycles have 23
bits beside the code, fewer than PIM_MAC has. So a burst that starts anew starts at column 0, and a resumed one has no
fields that it does not use: see :class:`~pimhw.bank_pu.BankPu`.

DDR5 has no CKE, and other commands in places of DDR4's. MRS stands for MRW, of 8 bits instead of 14. ZQCL stands for
MPC with ZQCal Start, ZQCS for MPC with ZQCal Latch. SRX and PDX are the NOP that ends self refresh or power-down; the
pulse of CS_n before SRX is not a command. Not encoded: MRR, RFM, VrefCA, VrefCS, PREsb, WRP, SRE with a change of
frequency; chip identifiers of stacks; parity and CRC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from ..errors import require
from ..hostif.bus import BusState
from .commands import Command
from .timing import DramStandard

__all__ = ["CA_TABLES", "CaEncoding", "CaPlace", "CaTable", "ca_table"]

CaPlace = tuple[int, str]
"""Cycle and pin of a bit."""


@dataclass(frozen=True, kw_only=True)
class CaEncoding:
    """One row of a truth table: a command, or one form of it.

    Parameters
    ----------
    command : Command
    levels : tuple of mapping of str to str
        For each cycle the pins of fixed level. ``H`` and ``L`` make the command; ``h`` is a pin that is driven high and
        has no meaning. Pins that are neither here nor in a field are driven low and have no meaning either.
    fields : mapping of str to tuple of (CaPlace or None)
        Places of the bits of each field, the lowest first. A bit without a place must be 0.
    when : mapping of str to int
        Fields whose value chooses this form.
    unused : tuple of str
        Fields that have no meaning in this form and no place.
    before, after : BusState
        State of the chip that the row applies to, and the one that the command leads to.
    jedec : bool
        True if the encoding is JEDEC's, False if it is this project's.
    """

    command: Command
    levels: tuple[Mapping[str, str], ...]
    fields: Mapping[str, tuple[CaPlace | None, ...]] = field(default_factory=dict)
    when: Mapping[str, int] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    before: BusState = BusState.ACTIVE
    after: BusState = BusState.ACTIVE
    jedec: bool = True

    @property
    def cycles(self) -> int:
        """CK on the pins."""
        return len(self.levels)

    @property
    def name(self) -> str:
        """Name of the command, with the fields that choose the form."""
        return " ".join((self.command.name, *(f"{name}={value}" for name, value in self.when.items())))

    def places(self) -> dict[CaPlace, tuple[str, int]]:
        """Field and bit at each place."""
        return {
            place: (name, bit)
            for name, places in self.fields.items()
            for bit, place in enumerate(places)
            if place is not None
        }


@dataclass(frozen=True, kw_only=True)
class CaTable:
    """Truth table of a standard.

    Parameters
    ----------
    standard : DramStandard
    pins : tuple of str
        Pins of a chip; pin i is bit i of a pin word.
    rows : tuple of CaEncoding
        Of two rows with one command and state, the first is what an encoder sends.
    counts_from_last : bool
        True if a command counts as issued in its last cycle, False if in its first.

    Raises
    ------
    ParameterError
        If a row names an unknown pin, or a pin twice in a cycle, or not all fields of its command.
    """

    standard: DramStandard
    pins: tuple[str, ...]
    rows: tuple[CaEncoding, ...]
    counts_from_last: bool

    def __post_init__(self) -> None:
        for row in self.rows:
            known = {*row.fields, *row.when, *row.unused}
            require(known == set(self.widths(row.command)), f"fields of {row.name}", known, "those of its other forms")
            used = [(cycle, pin) for cycle, levels in enumerate(row.levels) for pin in levels] + list(row.places())
            num_bits = sum(place is not None for places in row.fields.values() for place in places)
            once = len(set(used)) == sum(len(levels) for levels in row.levels) + num_bits
            require(once, f"pins of {row.name}", used, "used once in a cycle")
            for cycle, pin in used:
                require(pin in self.pins and cycle < row.cycles, f"pin of {row.name}", (cycle, pin), "one of a cycle")

    @cached_property
    def bit_of(self) -> Mapping[str, int]:
        """Bit of each pin in a pin word."""
        return MappingProxyType({pin: bit for bit, pin in enumerate(self.pins)})

    def rows_of(self, command: Command) -> tuple[CaEncoding, ...]:
        """Forms of a command; none if the standard lacks it."""
        return tuple(row for row in self.rows if row.command is command)

    def issue_cycle(self, row: CaEncoding) -> int:
        """Cycle in which the command of a row counts as issued."""
        return row.cycles - 1 if self.counts_from_last else 0

    def widths(self, command: Command) -> dict[str, int]:
        """Bits of each field of a command, over all its forms."""
        found: dict[str, int] = {}
        for row in self.rows_of(command):
            for name, places in row.fields.items():
                found[name] = max(found.get(name, 0), len(places))
            for name in row.when:
                found[name] = max(found.get(name, 0), 1)
        return found


def _places(cycle: int, *pins: str) -> tuple[CaPlace, ...]:
    return tuple((cycle, pin) for pin in pins)


def _pins(stem: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{stem}{k}" for k in range(first, last + 1))


_C, _S = Command, BusState
_SLEEP = ((_S.SELF_REFRESH, _C.SRX), (_S.POWER_DOWN, _C.PDX))

# DDR4

_DDR4_PINS = (
    *("CKE", "CS_n", "ACT_n", "RAS_n", "CAS_n", "WE_n", "BG1", "BG0", "BA1", "BA0", "A17"),
    *reversed(_pins("A", 0, 13)),
)
_BANK4 = {"bank_group": _places(0, "BG0", "BG1"), "bank": _places(0, "BA0", "BA1")}
_COLUMN4 = {"column": _places(0, *_pins("A", 3, 9))}
_ROW4 = {"row": _places(0, *_pins("A", 0, 13), "WE_n", "CAS_n", "RAS_n", "A17")}
_ADDRESS4 = {"address": _places(1, *_pins("A", 0, 11))}
_SECOND4 = {"CKE": "H", "CS_n": "H", "ACT_n": "H", "RAS_n": "H", "CAS_n": "H", "WE_n": "H"}


def _first4(code: str, **more: str) -> dict[str, str]:
    """Levels of a command of DDR4: those of RAS_n, CAS_n and WE_n, and of other pins."""
    named = dict(zip(("RAS_n", "CAS_n", "WE_n"), code, strict=True))
    return {"CKE": "H", "CS_n": "L", "ACT_n": "H"} | named | more


def _burst4(command: Command, code: str, precharge: str) -> CaEncoding:
    """RD or WR, of eight beats in order."""
    return CaEncoding(command=command, levels=(_first4(code, A10=precharge, A12="h"),), fields=_BANK4 | _COLUMN4)


def _pim4(command: Command, code: int, cycles: int, **fields: tuple[CaPlace, ...]) -> CaEncoding:
    bits = {f"A{k}": "H" if code >> k & 1 else "L" for k in range(3)}
    levels = (_first4("LHH", **bits), _SECOND4)[:cycles]
    return CaEncoding(command=command, levels=levels, fields=fields, jedec=False)


def _power4() -> tuple[CaEncoding, ...]:
    """SRE and PDE as CKE falls; SRX and PDX as it rises, with DES, and SRX with NOP, too; pins while it is low."""
    asleep = {"CKE": "L", "CS_n": "h"}
    return (
        CaEncoding(command=_C.SRE, levels=(_first4("LLH", CKE="L"),), after=_S.SELF_REFRESH),
        CaEncoding(command=_C.PDE, levels=({"CKE": "L", "CS_n": "H"},), after=_S.POWER_DOWN),
        *(CaEncoding(command=leaves, levels=({"CKE": "H", "CS_n": "H"},), before=state) for state, leaves in _SLEEP),
        CaEncoding(command=_C.SRX, levels=(_first4("HHH"),), before=_S.SELF_REFRESH),
        *(CaEncoding(command=_C.DES, levels=(asleep,), before=state, after=state) for state, _ in _SLEEP),
    )


_DDR4 = CaTable(
    standard=DramStandard.DDR4,
    pins=_DDR4_PINS,
    counts_from_last=False,
    rows=(
        CaEncoding(command=_C.DES, levels=({"CKE": "H", "CS_n": "H"},)),
        CaEncoding(
            command=_C.MRS,
            levels=(_first4("LLL", BG1="L"),),
            fields={"register": _places(0, "BA0", "BA1", "BG0"), "value": _places(0, *_pins("A", 0, 13))},
        ),
        CaEncoding(command=_C.REFab, levels=(_first4("LLH"),)),
        CaEncoding(command=_C.PREpb, levels=(_first4("LHL", A10="L"),), fields=_BANK4),
        CaEncoding(command=_C.PREab, levels=(_first4("LHL", A10="H"),)),
        CaEncoding(command=_C.ACT, levels=({"CKE": "H", "CS_n": "L", "ACT_n": "L"},), fields=_BANK4 | _ROW4),
        _burst4(_C.WR, "HLL", "L"),
        _burst4(_C.WRA, "HLL", "H"),
        _burst4(_C.RD, "HLH", "L"),
        _burst4(_C.RDA, "HLH", "H"),
        CaEncoding(command=_C.ZQCS, levels=(_first4("HHL", A10="L"),)),
        CaEncoding(command=_C.ZQCL, levels=(_first4("HHL", A10="H"),)),
        CaEncoding(command=_C.NOP, levels=(_first4("HHH"),)),
        *_power4(),
        _pim4(
            _C.PIM_MAC, 1, 2, **_BANK4, **_COLUMN4,
            resume=_places(0, "A10"), mode=_places(0, "A11"), first=_places(0, "A12"), set=_places(0, "A13"),
            count=_places(1, *_pins("A", 0, 7)), start=_places(1, *_pins("A", 8, 13), "BA0", "BA1", "BG0", "BG1"),
        ),
        _pim4(_C.PIM_WR_SB, 2, 2, row=_places(0, *_pins("A", 3, 6)), **_ADDRESS4),
        _pim4(
            _C.PIM_RD_RB, 3, 2, **_BANK4, index=_places(0, *_pins("A", 3, 6)),
            sum=_places(0, "A10"), pop=_places(0, "A11"), set=_places(0, "A13"), **_ADDRESS4,
        ),
        _pim4(_C.PIM_LD_SB, 4, 1, **_BANK4, **_COLUMN4),
        _pim4(_C.PIM_WR_R, 5, 1, register=_places(0, *_pins("A", 3, 10))),
    ),
)  # fmt: skip

# DDR5

_BANK5 = {"bank_group": _places(0, "CA8", "CA9", "CA10"), "bank": _places(0, "CA6", "CA7")}
_SECOND5 = {"CS_n": "H"}


def _first5(code: str, **more: str) -> dict[str, str]:
    """Levels of a command of DDR5: those of CA0 and the pins after it, and of other pins."""
    return {"CS_n": "L"} | {f"CA{k}": level for k, level in enumerate(code)} | more


def _burst5(command: Command, code: str, precharge: str) -> CaEncoding:
    """RD or WR, of sixteen beats in order. WR_partial (CA11) of WR is low: the data may be masked."""
    return CaEncoding(
        command=command,
        levels=(_first5(code, CA5="H"), _SECOND5 | {"CA10": precharge}),
        fields=_BANK5 | {"column": _places(1, *_pins("CA", 2, 8))},
    )


def _mpc5(command: Command, operand: int) -> CaEncoding:
    bits = {f"CA{5 + k}": "H" if operand >> k & 1 else "L" for k in range(8)}
    return CaEncoding(command=command, levels=(_first5("HHHHL", **bits),))


def _pim5(command: Command, code: str, **fields: tuple[CaPlace | None, ...]) -> CaEncoding:
    """A PIM command of the third code, told apart by CA12 and CA13."""
    levels = (_first5("HLLHH", CA12=code[0], CA13=code[1]), _SECOND5)
    return CaEncoding(command=command, levels=levels, fields=fields, jedec=False)


_ADDRESS5 = {"address": _places(1, *_pins("CA", 0, 8))}
_COUNT5 = {"count": _places(1, *_pins("CA", 0, 6))}

_DDR5 = CaTable(
    standard=DramStandard.DDR5,
    pins=("CS_n", *_pins("CA", 0, 13)),
    counts_from_last=True,
    rows=(
        CaEncoding(command=_C.DES, levels=({"CS_n": "H"},)),
        *(CaEncoding(command=_C.DES, levels=({"CS_n": "H"},), before=s, after=s) for s, _ in _SLEEP),
        CaEncoding(
            command=_C.ACT,
            levels=(_first5("LL"), _SECOND5),
            fields=_BANK5 | {"row": (*_places(0, *_pins("CA", 2, 5)), *_places(1, *_pins("CA", 0, 13)))},
        ),
        CaEncoding(
            command=_C.MRS,
            levels=(_first5("HLHLL"), _SECOND5 | {"CA10": "L"}),
            fields={"register": _places(0, *_pins("CA", 5, 12)), "value": _places(1, *_pins("CA", 0, 7))},
        ),
        _burst5(_C.WR, "HLHHL", "H"),
        _burst5(_C.WRA, "HLHHL", "L"),
        _burst5(_C.RD, "HLHHH", "H"),
        _burst5(_C.RDA, "HLHHH", "L"),
        CaEncoding(command=_C.REFab, levels=(_first5("HHLLH", CA9="H", CA10="L"),)),
        CaEncoding(
            command=_C.REFsb, levels=(_first5("HHLLH", CA9="H", CA10="H"),), fields={"bank": _BANK5["bank"]}
        ),
        CaEncoding(command=_C.PREab, levels=(_first5("HHLHL", CA10="L"),)),
        CaEncoding(command=_C.PREpb, levels=(_first5("HHLHH"),), fields=_BANK5),
        CaEncoding(command=_C.SRE, levels=(_first5("HHHLH", CA9="H", CA10="L"),), after=_S.SELF_REFRESH),
        CaEncoding(command=_C.PDE, levels=(_first5("HHHLH", CA10="H"),), after=_S.POWER_DOWN),
        _mpc5(_C.ZQCL, 0b00000101),
        _mpc5(_C.ZQCS, 0b00000100),
        CaEncoding(command=_C.NOP, levels=(_first5("HHHHH"),)),
        *(CaEncoding(command=leaves, levels=(_first5("HHHHH"),), before=state) for state, leaves in _SLEEP),
        CaEncoding(
            command=_C.PIM_MAC,
            levels=(_first5("HLLLL"), _SECOND5),
            when={"resume": 0},
            fields=_BANK5 | _COUNT5 | {
                "mode": _places(0, "CA11"), "first": _places(0, "CA12"), "set": _places(0, "CA13"),
                "start": _places(1, *_pins("CA", 7, 13)) + _places(0, "CA5"),
                "column": (None,) * 6,
            },
            jedec=False,
        ),
        CaEncoding(
            command=_C.PIM_MAC,
            levels=(_first5("HLLLH"), _SECOND5),
            when={"resume": 1},
            fields=_BANK5 | _COUNT5 | {"column": _places(1, *_pins("CA", 7, 12))},
            unused=("mode", "first", "set", "start"),
            jedec=False,
        ),
        _pim5(_C.PIM_WR_R, "LL", register=_places(1, *_pins("CA", 0, 7))),
        _pim5(_C.PIM_LD_SB, "LH", **_BANK5, column=_places(1, *_pins("CA", 2, 7))),
        _pim5(_C.PIM_WR_SB, "HL", **_ADDRESS5, row=_places(1, *_pins("CA", 9, 12))),
        _pim5(
            _C.PIM_RD_RB, "HH", **_BANK5, sum=_places(0, "CA5"), set=_places(0, "CA11"), **_ADDRESS5,
            index=_places(1, *_pins("CA", 9, 12)), pop=_places(1, "CA13"),
        ),
    ),
)  # fmt: skip

CA_TABLES: Mapping[DramStandard, CaTable] = MappingProxyType({table.standard: table for table in (_DDR4, _DDR5)})
"""Truth tables by standard."""


def ca_table(standard: DramStandard) -> CaTable:
    """Truth table of a standard; :class:`~pimspec.errors.ParameterError` unless it is DDR4 or DDR5."""
    require(standard in CA_TABLES, "standard of CA pins", standard.value, "ddr4 or ddr5")
    return CA_TABLES[standard]
