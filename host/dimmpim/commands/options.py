"""Options that several commands take, and their values."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import click

from dimmpim.ranks import RANKS
from pimhost.kv_file import MAX_TOKENS
from pimspec.dram.constraints import BUS_TCCD
from pimspec.errors import ParameterError, require

from .parameters import InputFile, OutputFile

__all__ = [
    "HEADS",
    "MOST_NEW_TOKENS",
    "MOST_SEED",
    "head_dim_option",
    "json_option",
    "kv_heads_option",
    "model_path_option",
    "out_option",
    "preset_option",
    "rules_options",
    "seed_option",
    "step_backend_option",
    "threads_option",
    "token_counts",
]

HEADS = click.IntRange(1, 1024)
MOST_SEED = (1 << 32) - 1
MOST_NEW_TOKENS = 1_000_000
MOST_COUNTS = 1000


def preset_option(
    default: str | None = None, *, help: str = "Hardware preset; `dimmpim presets` lists them.", required: bool = True
) -> Callable[[Any], Any]:
    """``--preset``, which must be given unless there is a default or it is not `required`."""
    need: dict[str, Any] = {"default": default, "show_default": True} if default else {"required": required}
    return click.option("--preset", "preset_name", metavar="NAME", help=help, **need)


def kv_heads_option(text: str) -> Callable[[Any], Any]:
    """``--kv-heads`` with its help."""
    return click.option("--kv-heads", type=HEADS, default=8, show_default=True, help=text)


def seed_option(text: str = "Seed for the synthetic data.") -> Callable[[Any], Any]:
    """``--seed`` with its help."""
    return click.option("--seed", type=click.IntRange(0, MOST_SEED), default=1, show_default=True, help=text)


def out_option(text: str, *, metavar: str = "FILE") -> Callable[[Any], Any]:
    """``--out`` with its help."""
    return click.option("--out", type=OutputFile(), metavar=metavar, help=text)


head_dim_option = click.option(
    "--head-dim",
    type=int,
    default=128,
    show_default=True,
    help="Elements of a K or V vector: a power of two from 16 to 256.",
)

json_option = click.option(
    "--json", "json_path", type=OutputFile(), metavar="FILE", help="Write the figures as JSON; - for standard output."
)

model_path_option = click.option(
    "--model",
    "model_path",
    type=InputFile(),
    metavar="PATH",
    help="Llama-architecture GGUF file or safetensors directory [default: SmolLM2-135M-Instruct, if installed].",
)

step_backend_option = click.option(
    "--backend",
    type=click.Choice(RANKS),
    default="rtl",
    show_default=True,
    help="RTL simulation with data, or the timing model: the same clock counts within seconds.",
)

_RULES = (
    click.option(
        "--bus-tccd",
        type=click.Choice(BUS_TCCD),
        help="Distance of lines to and from the bank PUs: tCCD_L in a bank group (long), or tCCD_S, an older "
        "assumption (short) [default: that of the preset, long].",
    ),
    click.option(
        "--max-streaming-banks",
        type=click.IntRange(0, 64),
        metavar="N",
        help="Most banks of a chip that stream at once; 0: no limit, the default.",
    ),
    click.option(
        "--max-current-ma",
        type=click.FloatRange(0, 100_000),
        metavar="MA",
        help="Most supply current of a chip, kept as a number of banks that stream at once; 0: no limit, the default.",
    ),
    click.option(
        "--refresh",
        type=click.Choice(("1", "2")),
        help="Refresh rate; 2: twice the rate, as above 85 degC [default: 1].",
    ),
)


def rules_options(function: Any) -> Any:
    """``--bus-tccd``, ``--max-streaming-banks``, ``--max-current-ma`` and ``--refresh``, as one argument `rules`.

    It holds the arguments of :func:`dimmpim.api.presets.preset_under`; None stands for an option that is not given.
    """

    @functools.wraps(function)
    def collected(
        *args: Any,
        bus_tccd: str | None,
        max_streaming_banks: int | None,
        max_current_ma: float | None,
        refresh: str | None,
        **others: Any,
    ) -> Any:
        rules = {
            "bus_tccd": bus_tccd,
            "max_streaming_banks": max_streaming_banks,
            "max_current_ma": max_current_ma,
            "refresh": None if refresh is None else int(refresh),
        }
        return function(*args, rules=rules, **others)

    for option in reversed(_RULES):
        collected = option(collected)
    return collected


threads_option = click.option(
    "--threads", type=click.IntRange(1, 2), default=1, show_default=True, help="CPU threads of an RTL simulation."
)


def token_counts(text: str) -> list[int]:
    """Context lengths: whole numbers separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,18}", part) for part in parts):
        raise ParameterError(f"--tokens must be whole numbers separated by commas, not {text!r}")
    require(len(parts) <= MOST_COUNTS, "--tokens", len(parts), f"at most {MOST_COUNTS} numbers")
    for count in map(int, parts):
        require(1 <= count <= MAX_TOKENS, "--tokens", count, f"1..{MAX_TOKENS}")
    return [int(part) for part in parts]
