"""Files of a rank for a design flow: Verilog, sidecar, constraints, waivers, and a FuseSoC core with a testbench."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version

from pimspec.hostif.bus import HOST_COMMANDS
from pimspec.params.pim_rank import PimRankParams

from ..hierarchy import expect_no_elaboration
from ..pim_rank import PimRank, rank_verilog
from .flow_files import LINT_OFF, LINT_ON, fusesoc_core, sdc, waivers
from .names import prefixed, require_prefix
from .ports import rank_ports
from .testbench import rank_testbench

__all__ = ["rank_files"]

_FILE = "pim_rank"


def rank_files(params: PimRankParams, preset: str, prefix: str = "") -> dict[str, str]:
    """Texts of a rank by file name: ``pim_rank`` with .v, .json, .core, .sdc, .vlt, and ``pim_rank_tb.v``.

    Parameters
    ----------
    params : PimRankParams
    preset : str
        Name of the preset, for the texts.
    prefix : str
        Prefix of every module's name, so that ranks of several presets fit into one design.

    Raises
    ------
    ParameterError
        If the prefix cannot begin a Verilog identifier.
    """
    require_prefix(prefix)
    top = f"{prefix}{_FILE}"
    rank = PimRank(params=params)
    expect_no_elaboration(rank)
    ports = rank_ports(rank)
    sidecar = {
        "name": top,
        "preset": preset,
        "ports": ports,
        "host_commands": {command.name: int(command) for command in HOST_COMMANDS},
        "window": _window(params),
        "params": asdict(params),
    }
    return {
        f"{_FILE}.v": f"{LINT_OFF}\n{prefixed(rank_verilog(params), prefix)}\n{LINT_ON}",
        f"{_FILE}.json": json.dumps(sidecar, indent=2, default=str) + "\n",
        f"{_FILE}.core": fusesoc_core(top=top, file=_FILE, preset=preset, version=version("dimmpim")),
        f"{_FILE}.sdc": sdc(params, top),
        f"{_FILE}.vlt": waivers(_FILE),
        f"{_FILE}_tb.v": rank_testbench(params, top, ports),
    }


def _window(params: PimRankParams) -> dict[str, dict[str, int]]:
    """Regions of the window: place of the first line, and number of lines."""
    w = params.window
    names = ("row", "bank", "column")
    return {
        name: dict(zip(names, w.address(region.base), strict=True)) | {"lines": region.size}
        for name, region in w.regions.items()
    }
