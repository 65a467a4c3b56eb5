"""Units of a generated chip: its Verilog, split into what is synthesized on its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Unit", "rank_units"]

_NAME = r"\\\S+|\w+"
_MODULE = re.compile(rf"^module ({_NAME}) ?\(.*?^endmodule\n", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(rf"^  ({_NAME}) +(?:{_NAME}) +\($", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of a chip that is synthesized on its own.

    Parameters
    ----------
    chip, name : str
    count : int
        Equal ones in the chip.
    top : str
        Its module.
    verilog, black_boxes : str
        Its module with all below, and the modules whose insides are not part of it.
    """

    chip: str
    name: str
    count: int
    top: str
    verilog: str
    black_boxes: str = ""


def rank_units(modules: Mapping[str, str]) -> list[Unit]:
    """Units of the chips of a rank, from the text of :func:`pimhw.pim_rank.rank_modules`.

    The PIM chip is its bank PUs and the rest; the buffer chip is each submodule and the logic between them. Each module
    is in one unit, with all instances of it.
    """
    units = []
    for chip in ("pim_chip", "buffer_chip"):
        text = "\n".join(modules[name] for name in (["bank_pu", chip] if chip == "pim_chip" else [chip]))
        bodies = {match[1]: match[0] for match in _MODULE.finditer(text)}
        parts = Counter(_instances(bodies, chip))
        own = [bodies[name] for name in _below(bodies, chip, set(parts) if chip == "buffer_chip" else {"bank_pu"})]
        if chip == "pim_chip":
            parts = Counter({"bank_pu": parts["bank_pu"]})
        for module, count in parts.items():
            verilog = "\n".join(bodies[name] for name in _below(bodies, module, set()))
            name = re.sub(r"\$?\d+$", "", module.removeprefix(f"\\{chip}."))
            units.append(Unit(chip=chip, name=name, count=count, top=module, verilog=verilog))
        boxes = "\n".join(bodies[name] for name in parts)
        units.append(
            Unit(chip=chip, name=f"rest of {chip}", count=1, top=chip, verilog="\n".join(own), black_boxes=boxes)
        )
    return units


def _instances(bodies: Mapping[str, str], module: str) -> list[str]:
    """Modules that a module has instances of, one for each."""
    return [name for name in _INSTANCE.findall(bodies[module]) if name in bodies]


def _below(bodies: Mapping[str, str], top: str, but: set[str]) -> list[str]:
    """`top` and all modules below it, each once, but those of `but` and what is below them."""
    found = [top]
    for module in found:
        found += [name for name in dict.fromkeys(_instances(bodies, module)) if name not in but and name not in found]
    return found
