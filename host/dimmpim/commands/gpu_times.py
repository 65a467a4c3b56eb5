"""`dimmpim gpu-times`: kernels of a model on a GPU, by both GPU models."""

from __future__ import annotations

from collections.abc import Iterator

import click
from rich import box
from rich.console import Console
from rich.table import Table

from dimmpim.commands.parameters import command
from dimmpim.commands.serving_options import TP, gpu_option
from pimhost.gpu.llm_cost import LlmCost
from pimhost.gpu.operators import ELEMENT_BYTES
from pimhost.gpu.registry import GPU_MODELS, gpu_times
from pimhost.models import shape_named

TOKENS = (1, 64, 512, 4096)
DECODES = ((1, 4096), (1, 65536), (32, 1024), (64, 4096))
PREFILLS = ((512, 0), (4096, 0), (512, 8192))


def _kernels(cost: LlmCost) -> Iterator[tuple[str, str, int]]:
    """(kernel, its size, its ns) of one layer."""
    for number, (name, *_) in enumerate(cost.gemm_shapes(1)):
        for tokens in TOKENS:
            _, m, n, k = cost.gemm_shapes(tokens)[number]
            yield f"GEMM {name}", f"{m} x {n} x {k}", cost.gpu.gemm_ns(m, n, k)
    for batch, length in DECODES:
        yield "decode attention", f"{batch} of {length:,} tokens", cost.decode_attention_ns(batch, batch * length)
    for tokens, prefix in PREFILLS:
        what = f"{tokens:,} tokens after {prefix:,}"
        yield "prefill attention", what, cost.prefill_attention_ns(tokens, prefix=prefix)
    for tokens in TOKENS if cost.tp_size > 1 else ():
        size = tokens * cost.shape.hidden_size * ELEMENT_BYTES
        yield "all-reduce", f"{size:,} bytes", cost.gpu.all_reduce_ns(size, cost.tp_size)


@command(name="gpu-times")
@gpu_option("H100")
@click.option("--model", required=True, metavar="NAME", help="Model name, or path of a Hugging Face config.json.")
@click.option("--tp", type=TP, default=1, show_default=True, help="GPUs that hold one copy of the model.")
def gpu_times_command(gpu: str, model: str, tp: int) -> None:
    """Print kernel times of one layer: fitted roofline, measured tables, and their ratio.

    GEMM sizes are m x n x k. Requires the extra: pip install 'dimmpim[aiconfigurator]'.

    \b
    Examples:
      dimmpim gpu-times --model Llama-3-8B
      dimmpim gpu-times --gpu H200 --model Llama-3-70B --tp 8
    """
    shape = shape_named(model)
    costs = [LlmCost(gpu=gpu_times(name, gpu), shape=shape, tp_size=tp) for name in GPU_MODELS]
    title = f"{shape.name} on {tp} {gpu}: one layer on one GPU, us"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("kernel", no_wrap=True)
    for column in ("size", *GPU_MODELS, "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for (kernel, size, fitted), (_, _, measured) in zip(*map(_kernels, costs), strict=True):
        table.add_row(kernel, size, f"{fitted / 1e3:,.1f}", f"{measured / 1e3:,.1f}", f"{fitted / measured:.2f}")
    console = Console()
    console.print(table)
    for name, cost in zip(GPU_MODELS, costs, strict=True):
        console.print(f"{name}: {cost.gpu.source}", highlight=False, soft_wrap=True)
