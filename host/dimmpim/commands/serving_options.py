"""Options that `workload`, `serve` and `compare` share: requests, the machine, and when a request may begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dimmpim.api.serving import workload
from pimhost.gpu.registry import GPU_MODELS
from pimhost.gpu.specs import GPUS
from pimhost.serving.simulator import Admission
from pimhost.systems.node import (
    DGX_A100,
    GIB,
    MOST_CHANNELS,
    MOST_RANK_BYTES,
    MOST_RANKS_PER_CHANNEL,
    MOST_TP,
    Node,
)
from pimhost.workloads.lengths import LENGTHS
from pimhost.workloads.readers import FORMATS
from pimhost.workloads.workload import Workload
from pimspec.errors import ParameterError

from .options import seed_option
from .parameters import FiniteRange, InputFile, require_companion

__all__ = [
    "MOST_RATE",
    "MOST_REQUESTS",
    "TP",
    "admission_option",
    "chosen_node",
    "chosen_workload",
    "format_option",
    "gpu_model_option",
    "gpu_option",
    "jobs_option",
    "machine_options",
    "until_option",
    "workload_options",
]

MOST_REQUESTS = 10_000_000
MOST_RATE = 1e9
TP = click.IntRange(1, MOST_TP)

format_option = click.option(
    "--format",
    "trace_format",
    type=click.Choice(tuple(FORMATS)),
    help="Format of the trace [default: recognized by its first line].",
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Parallel processes [default: the available cores]."
)
until_option = click.option(
    "--until",
    type=FiniteRange(min=0, min_open=True, max=1e9, max_open=True),
    metavar="SECONDS",
    help="Simulated time after which a run stops.",
)


def admission_option(**kind: Any) -> Callable[[Any], Any]:
    """``--admission``; `kind` is for click, such as ``multiple``."""
    return click.option(
        "--admission",
        type=click.Choice([a.value for a in Admission]),
        show_default=True,
        help="When a request may begin: with memory for its prompt, or for all its tokens.",
        **{"default": Admission.GROW.value, **kind},
    )


def gpu_option(default: str) -> Callable[[Any], Any]:
    """``--gpu`` with its default."""
    return click.option("--gpu", default=default, show_default=True, metavar="NAME", help=f"GPU: {', '.join(GPUS)}.")


_WORKLOAD = (
    click.option("--trace", type=InputFile(), metavar="FILE", help="Request trace, plain or gzip."),
    format_option,
    click.option("--lengths", "lengths_name", metavar="NAME", help=f"Synthetic lengths: {', '.join(LENGTHS)}."),
    click.option(
        "--requests",
        type=click.IntRange(1, MOST_REQUESTS),
        metavar="N",
        help="Number of requests [default: all of a trace; 1000 synthetic ones].",
    ),
    click.option(
        "--rate",
        type=FiniteRange(min=0, min_open=True, max=MOST_RATE),
        metavar="R",
        help="Poisson arrivals, R requests per second on average.",
    ),
    seed_option("Seed for synthetic lengths and arrivals."),
)


def gpu_model_option(**kind: Any) -> Callable[[Any], Any]:
    """``--gpu-model``; `kind` is for click, such as ``multiple``."""
    text = "GPU kernel times: fitted roofline, or the measured tables of the extra `aiconfigurator`."
    kind = {"default": DGX_A100.gpu_model, **kind}
    return click.option("--gpu-model", type=click.Choice(tuple(GPU_MODELS)), show_default=True, help=text, **kind)


def _count_option(name: str, most: int, default: int, text: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.IntRange(1, most), default=default, show_default=True, help=text)


_MACHINE = (
    gpu_option(DGX_A100.gpu),
    gpu_model_option(),
    _count_option("--tp", MOST_TP, DGX_A100.tp_size, "GPUs that hold one copy of the model."),
    _count_option("--dp", MOST_CHANNELS, DGX_A100.dp_size, "Copies of the model, which share the channels."),
    _count_option("--channels", MOST_CHANNELS, DGX_A100.channels, "Memory channels of the node."),
    _count_option("--ranks-per-channel", MOST_RANKS_PER_CHANNEL, DGX_A100.ranks_per_channel, "Ranks of each channel."),
    _count_option("--rank-gib", MOST_RANK_BYTES // GIB, DGX_A100.rank_bytes // GIB, "Capacity of a rank in GiB."),
    click.option(
        "--preset", default=DGX_A100.preset, show_default=True, metavar="NAME", help="Hardware preset of a PIM rank."
    ),
    click.option(
        "--gpu-memory-share",
        type=FiniteRange(min=0, min_open=True, max=1),
        default=DGX_A100.gpu_memory_share,
        show_default=True,
        help="Share of GPU memory for weights, K and V.",
    ),
    admission_option(),
    until_option,
)


def _all(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


workload_options, machine_options = _all(_WORKLOAD), _all(_MACHINE)


def chosen_workload(
    *,
    trace: Path | None,
    trace_format: str | None,
    lengths_name: str | None,
    requests: int | None,
    rate: float | None,
    seed: int,
) -> Workload:
    """The requests that the options name.

    Raises
    ------
    PimError
    """
    if (trace is None) == (lengths_name is None):
        raise ParameterError("give either --trace or --lengths")
    require_companion("--format", trace is None and trace_format, "--trace")
    return workload(
        trace=trace, trace_format=trace_format, lengths=lengths_name, num_requests=requests, rate=rate, seed=seed
    )


def chosen_node(
    *,
    gpu: str,
    tp: int,
    dp: int,
    channels: int,
    ranks_per_channel: int,
    rank_gib: int,
    preset: str,
    gpu_memory_share: float,
    gpu_model: str,
) -> Node:
    """The machine that the options name.

    Raises
    ------
    PimError
    """
    node = Node(
        gpu=gpu,
        tp_size=tp,
        dp_size=dp,
        channels=channels,
        ranks_per_channel=ranks_per_channel,
        rank_bytes=rank_gib * GIB,
        preset=preset,
        gpu_memory_share=gpu_memory_share,
        gpu_model=gpu_model,
    )
    _ = node.gpu_times  # what it cannot answer is said before the work begins
    return node
