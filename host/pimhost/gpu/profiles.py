"""Measured kernel times: the tables on disk, and the choice of rows that say something about the memory.

The timing loops behind the tables reuse the same buffers. A kernel whose bytes fit the L2 cache, or nearly, therefore
reads them from the cache. Such rows are kept but not *trusted*: they are neither fitted nor counted in the model's
error. Trusted rows move much more than an L2 holds, or are so small that only the launch counts, or are bound by
arithmetic.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import ParameterError

from .operators import (
    ELEMENT_BYTES,
    AllReduceConstants,
    Constants,
    DecodeConstants,
    GemmConstants,
    PrefillConstants,
    all_reduce_s,
    decode_attention_s,
    gemm_s,
    prefill_attention_s,
)
from .specs import GpuSpec

__all__ = ["OPERATORS", "SOURCE", "SYSTEM_NAMES", "Operator", "Rows", "read_rows"]

SOURCE = "ai-dynamo/aiconfigurator (095f58a, Apache-2.0): bf16, head_dim 128; sglang 0.5.10, vllm 0.14.0 and 0.24.0"
HEAD_DIM = 128
LAUNCH_BYTES = 5e5
STREAMED_BYTES = 2e8
GEMM_STREAMED_BYTES = 2e7
SYSTEM_NAMES = {"A100": "a100_sxm", "H100": "h100_sxm", "H200": "h200_sxm", "L40S": "l40s"}
"""GPU names of the project, mapped to those of aiconfigurator."""

Shape = tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Measured rows of one operator on one GPU.

    Parameters
    ----------
    file : str
        Name of the table.
    shape : tuple of arrays, each (rows,)
        Shape arguments of the operator's function.
    time_s : array, (rows,)
    trusted : array of bool, (rows,)
    """

    file: str
    shape: Shape
    time_s: NDArray[np.float64]
    trusted: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One of the four operators: its table, its formula, its constants.

    Parameters
    ----------
    file : str
        Pattern of the table's file name, with ``{gpu}``.
    columns : tuple of str
        Columns that make up the shape.
    to_shape : callable
        Conversion of the columns to the shape arguments of `time_s`.
    trusted : callable
        (GpuSpec, shape) to an array of bool.
    time_s : callable
        (constants, GpuSpec, *shape) to seconds.
    initial : Constants
        Starting point of the fit.
    """

    file: str
    columns: tuple[str, ...]
    to_shape: Callable[[Shape], Shape]
    trusted: Callable[[GpuSpec, Shape], NDArray[np.bool_]]
    time_s: Callable[..., NDArray[np.float64]]
    initial: Constants


def _gemm_trusted(gpu: GpuSpec, shape: Shape) -> NDArray[np.bool_]:
    """Mask of trusted GEMMs.

    From 20 MB on, the timing loop cycles through several weights: the L40S shows a step between 15 and 20 MB.
    """
    m, n, k = shape
    num_bytes = ELEMENT_BYTES * (m * k + k * n + m * n)
    bound = 2 * m * n * k / gpu.peak_flop_per_s > num_bytes / gpu.bandwidth_bytes_per_s
    return (ELEMENT_BYTES * n * k >= GEMM_STREAMED_BYTES) | bound | (num_bytes < LAUNCH_BYTES)


def _prefill_trusted(gpu: GpuSpec, shape: Shape) -> NDArray[np.bool_]:
    b, t, q_heads, kv_heads, d = shape
    num_bytes = 2 * ELEMENT_BYTES * b * t * (q_heads + kv_heads) * d
    bound = 2 * b * q_heads * t**2 * d / gpu.peak_flop_per_s > num_bytes / gpu.bandwidth_bytes_per_s
    return (num_bytes >= STREAMED_BYTES) | bound | (num_bytes < LAUNCH_BYTES)


def _decode_trusted(gpu: GpuSpec, shape: Shape) -> NDArray[np.bool_]:
    _, tokens, _, kv_heads, d = shape
    num_bytes = 2 * ELEMENT_BYTES * tokens * kv_heads * d
    return (num_bytes >= STREAMED_BYTES) | (num_bytes < LAUNCH_BYTES)


def _with_head_dim(shape: Shape) -> Shape:
    return *shape, np.full_like(shape[0], HEAD_DIM)


def _decode_shape(columns: Shape) -> Shape:
    batch, q_heads, kv_heads, kv_len = columns
    return _with_head_dim((batch, batch * kv_len, q_heads, kv_heads))


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "gemm": Operator(
            file="aic_{gpu}_gemm_bf16",
            columns=("m", "n", "k"),
            to_shape=lambda columns: columns,
            trusted=_gemm_trusted,
            time_s=gemm_s,
            initial=GemmConstants(
                launch_s=3e-6, compute=0.8, tile_exponent=0.3, fill_k=100.0, throttle=0.02, memory=0.85
            ),
        ),
        "prefill_attention": Operator(
            file="aic_{gpu}_attn_context_bf16_hd128",
            columns=("batch_size", "isl", "n_q", "n_kv"),
            to_shape=_with_head_dim,
            trusted=_prefill_trusted,
            time_s=prefill_attention_s,
            initial=PrefillConstants(launch_s=1e-5, compute=0.6, block_keys=100.0, memory=0.8),
        ),
        "decode_attention": Operator(
            file="aic_{gpu}_attn_generation_bf16_hd128",
            columns=("batch_size", "n_q", "n_kv", "kv_len"),
            to_shape=_decode_shape,
            trusted=_decode_trusted,
            time_s=decode_attention_s,
            initial=DecodeConstants(launch_s=1e-5, memory=0.85, sequence_tokens=50.0, full_blocks=50.0),
        ),
        "all_reduce": Operator(
            file="aic_{gpu}_nccl_half",
            columns=("message_size", "num_gpus"),
            to_shape=lambda columns: (2 * columns[0], columns[1]),  # the tables count 16-bit elements, not bytes
            trusted=lambda gpu, shape: np.ones(shape[0].shape, bool),
            time_s=all_reduce_s,
            initial=AllReduceConstants(launch_s=3e-6, gpu_s=1.5e-6, short=0.15, long=0.4, long_s=1.5e-5),
        ),
    }
)


def read_rows(directory: Path, name: str, gpu: GpuSpec) -> Rows | None:
    """Rows of an operator on a GPU, or None if it was not measured there.

    A table whose name ends in ``_vllm0140`` (a faster attention kernel) replaces the plain one.

    Raises
    ------
    ParameterError
        If the table lacks a column, or a value is not a number.
    """
    operator = OPERATORS[name]
    stem = operator.file.format(gpu=SYSTEM_NAMES[gpu.name])
    candidates = [directory / f"{stem}{suffix}.csv.gz" for suffix in ("_vllm0140", "")]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        return None
    try:
        with gzip.open(path, "rt", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("op_name", name) == name]
        columns = tuple(np.array([float(row[column]) for row in rows]) for column in operator.columns)
        time_s = np.array([float(row["latency_ms"]) for row in rows]) * 1e-3
    except (KeyError, TypeError, ValueError, EOFError, gzip.BadGzipFile) as error:
        raise ParameterError(f"{path}: not a table of {name}: {error}") from None
    numbers = np.concatenate([*columns, time_s])
    if not (rows and np.isfinite(numbers).all() and (numbers > 0).all()):
        raise ParameterError(f"{path}: not a table of {name}: no rows, or a number that is not above 0")
    shape = operator.to_shape(columns)
    return Rows(file=path.name, shape=shape, time_s=time_s, trusted=operator.trusted(gpu, shape))
