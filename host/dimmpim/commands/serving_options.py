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
from pimhost.systems.node import DGX_A100, GIB, Node
from pimhost.workloads.lengths import LENGTHS
from pimhost.workloads.readers import FORMATS
from pimhost.workloads.workload import Workload
from pimspec.errors import require

__all__ = ["chosen_node", "chosen_workload", "gpu_model_option", "machine_options", "require_until", "workload_options"]

_WORKLOAD = (
    click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Plain or gzip."),
    click.option("--format", "trace_format", metavar="NAME", help=f"{', '.join(FORMATS)} [default: recognised]."),
    click.option("--lengths", "lengths_name", metavar="NAME", help=f"Synthetic lengths: {', '.join(LENGTHS)}."),
    click.option("--requests", type=click.IntRange(min=1), help="So many [default: all of a trace; 1000]."),
    click.option("--rate", type=float, metavar="R", help="Arrivals: a Poisson process of R requests a second."),
    click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0)),
)


def gpu_model_option(**kind: Any) -> Callable[[Any], Any]:
    """``--gpu-model``; `kind` is for click, such as ``multiple``."""
    text = "Times of the GPU's kernels; aiconfigurator is an extra of this package, with measured tables."
    kind = {"default": DGX_A100.gpu_model, **kind}
    return click.option("--gpu-model", type=click.Choice(tuple(GPU_MODELS)), show_default=True, help=text, **kind)


_MACHINE = (
    click.option("--gpu", default=DGX_A100.gpu, show_default=True, metavar="NAME", help=", ".join(GPUS)),
    gpu_model_option(),
    click.option("--tp", default=DGX_A100.tp_size, show_default=True, help="GPUs of one copy of the model."),
    click.option("--dp", default=DGX_A100.dp_size, show_default=True, help="Copies of the model."),
    click.option("--channels", default=DGX_A100.channels, show_default=True, help="Memory channels of the node."),
    click.option("--ranks-per-channel", default=DGX_A100.ranks_per_channel, show_default=True),
    click.option("--rank-gib", default=DGX_A100.rank_bytes // GIB, show_default=True, help="GiB of a rank."),
    click.option("--preset", default=DGX_A100.preset, show_default=True, metavar="NAME", help="Of the rank with PIM."),
    click.option(
        "--gpu-memory-share", default=DGX_A100.gpu_memory_share, show_default=True, help="For weights, K and V."
    ),
    click.option(
        "--admission",
        type=click.Choice([a.value for a in Admission]),
        default=Admission.GROW.value,
        show_default=True,
        help="A request begins with memory for its prompt, or for all it will need.",
    ),
    click.option("--until", type=float, metavar="S", help="Stop after S seconds of simulated time."),
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
    given = [name for name in (trace, lengths_name) if name is not None]
    require(len(given) == 1, "source", "both" if given else "none", "one of --trace and --lengths")
    require(rate is None or 0 < rate < float("inf"), "--rate", rate, "a number above 0")
    require(trace is not None or trace_format is None, "--format", trace_format, "given with --trace only")
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
    require(rank_gib >= 1, "--rank-gib", rank_gib, "1 or more")
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


def require_until(until: float | None) -> None:
    """That ``--until`` is a time."""
    require(until is None or 0 < until < 1e9, "--until", until, "above 0 and less than 1e9 seconds")
