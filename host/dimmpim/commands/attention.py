"""`dimmpim attention`: one decode step of attention on a backend, with its error against float64."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from pimhost.kv_file import DecodeStep, load_step, parse_shape, synthetic_step
from pimhost.reference import reference_attention, relative_l2_error
from pimspec.attention import AttentionOrder, attention_order
from pimspec.dram import DramPreset, dram_preset
from pimspec.errors import ParameterError, require
from pimspec.files import write_atomically
from pimspec.golden.attention import decode_attention
from pimspec.mapping_cost import choose_mapping
from pimspec.presets import preset_named

JSON_VERSION = 1
BACKENDS = ("golden", "rtl", "timing")


def _read_step(kv: Path | None, layer: int | None, step: int | None, shape: str | None, seed: int) -> DecodeStep:
    if (kv is None) == (shape is None):
        raise ParameterError("give either --kv FILE.npz with --layer and --step, or --shape")
    if kv is not None:
        require(layer is not None and step is not None, "--layer and --step", (layer, step), "given with --kv")
        return load_step(kv, layer, step)  # type: ignore[arg-type]
    require(seed >= 0, "--seed", seed, "0 or more")
    return synthetic_step(*parse_shape(shape or ""), seed)


def _order_of(step: DecodeStep, part: DramPreset) -> tuple[str, AttentionOrder]:
    mapping = choose_mapping(step.shape, part, step.num_tokens).mapping
    return mapping.name, attention_order(step.shape, mapping, part.organization)


@click.command()
@click.option("--preset", "preset_name", required=True, metavar="NAME", help="See `dimmpim presets`.")
@click.option("--kv", type=click.Path(path_type=Path), metavar="FILE.npz", help="Recorded Q, K and V.")
@click.option("--layer", type=int, help="Layer of the recording.")
@click.option("--step", type=int, help="Decode step of the recording.")
@click.option("--shape", metavar="Q_HEADS,KV_HEADS,HEAD_DIM,TOKENS", help="Synthetic data of this shape instead.")
@click.option("--seed", default=1, show_default=True, help="Of synthetic data.")
@click.option("--backend", type=click.Choice(BACKENDS), default="golden", show_default=True)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
def attention(
    preset_name: str,
    kv: Path | None,
    layer: int | None,
    step: int | None,
    shape: str | None,
    seed: int,
    backend: str,
    json_path: Path | None,
) -> None:
    """Compute one decode step of attention for all heads of a layer.

    \b
    Examples:
      dimmpim attention --preset ddr4-3200-x8-8gb --shape 8,1,128,8192
      dimmpim attention --preset ddr4-3200-x8-8gb --kv recording.npz --layer 10 --step 0 --json out.json
    """
    preset = preset_named(preset_name)
    if backend != "golden":
        raise ParameterError(
            f"--backend must be golden, not {backend!r}: the {backend} model of a rank is not built yet"
        )
    decode = _read_step(kv, layer, step, shape, seed)
    mapping, order = _order_of(decode, dram_preset(preset.dram))
    require(preset.format == order.fmt, "format of the preset", preset.format.name, "fp16, the format of the data")

    console = Console()
    start = time.perf_counter()
    with console.status(f"golden model, {decode.num_tokens} tokens"):
        bits = decode_attention(decode.q, decode.k, decode.v, decode.shape.scale_bits, order)
        seconds = time.perf_counter() - start
        expected = reference_attention(decode.q, decode.k, decode.v).output
    errors = relative_l2_error(bits.astype(np.uint32).view(np.float32), expected)
    document = {
        "version": JSON_VERSION,
        "backend": backend,
        "preset": preset.name,
        "source": decode.source,
        "num_q_heads": decode.shape.num_q_heads,
        "num_kv_heads": decode.shape.num_kv_heads,
        "head_dim": decode.shape.head_dim,
        "num_tokens": decode.num_tokens,
        "mapping": mapping,
        "bytes_streamed": decode.shape.kv_bytes(decode.num_tokens),
        "max_rel_l2_error": float(errors.max()),
        "median_rel_l2_error": float(np.median(errors)),
        "output_fp32_bits": [[f"{word:08x}" for word in head] for head in bits.tolist()],
        "wall_seconds": seconds,
    }
    table = Table("what", "value", title=f"attention, {backend}")
    for key, value in document.items():
        if key != "output_fp32_bits":
            table.add_row(key, f"{value:.3g}" if isinstance(value, float) else f"{value}")
    console.print(table)
    if json_path:
        write_atomically(json_path, json.dumps(document, indent=2) + "\n")
