"""GPU kernel times from the measured tables of ``aiconfigurator-core``, an optional package.

The package interpolates in its tables, and beyond them it extrapolates without a warning. Only single kernels are asked
of it, in bf16, as vLLM runs them; models, memory and scheduling stay the project's own.

Two of its times are formulas, not measurements. Kernels that only move bytes take 3 us plus the bytes at 0.8 of the
bandwidth. Rotary embedding and the KV-cache write are added to every prefill attention: 13.2 us on an H100, however
many tokens there are. Rotary embedding is also a part of :meth:`~pimhost.gpu.llm_cost.LlmCost.layer_ns`, so a prefill
counts it twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import ParameterError, require

from .base import GpuTimes
from .operators import ELEMENT_BYTES
from .profiles import SYSTEM_NAMES
from .specs import gpu_named

__all__ = ["MeasuredGpu", "NotMeasuredError", "PackageTables", "Tables"]

PACKAGE = "aiconfigurator-core"
FRAMEWORK = "vllm"
"""Framework whose kernels are timed: vLLM's, as the rest of the simulator follows vLLM."""
DATA_TYPE = "bfloat16"
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOST_KEPT = 1 << 17
"""Entries of each look-up cache; an uncached look-up takes some 10 us."""
_HEAD_DIMS = (64, 80, 96, 112, 128, 192, 256, 512)


class NotMeasuredError(Exception):
    """Operator for which the tables have no rows; the text is the package's."""


class Tables(Protocol):
    """Interface to measured tables of one GPU; times in ms. Methods raise NotMeasuredError."""

    name: str
    """Package, GPU and framework, with versions."""

    def gemm_ms(self, m: int, n: int, k: int) -> float: ...

    def prefill_ms(self, batch: int, tokens: int, prefix: int, heads: tuple[int, int, int]) -> float:
        """Prefill attention time; here and below, `heads` is (num_q_heads, num_kv_heads, head_dim)."""

    def decode_ms(self, batch: int, length: int, heads: tuple[int, int, int]) -> float:
        """Decode attention time of `batch` sequences of `length` tokens each, the new token included."""

    def all_reduce_ms(self, elements: int, num_gpus: int) -> float: ...

    def elementwise_ms(self, elements: int) -> float:
        """Time of a kernel that reads and writes `elements` elements in total."""


class PackageTables:
    """Tables of the installed package.

    Parameters
    ----------
    gpu : str

    Raises
    ------
    ParameterError
        If the package is not installed, has another interface, or has no tables of this GPU.
    """

    def __init__(self, gpu: str) -> None:
        try:
            from aiconfigurator_core.sdk import common, engine, operations, perf_database  # noqa: PLC0415
            from aiconfigurator_core.sdk.errors import PerfDataNotAvailableError  # noqa: PLC0415
            from aiconfigurator_core.sdk.operations.attention import resolved_lane_order_for_op  # noqa: PLC0415
        except ImportError as error:
            raise ParameterError(
                f"the GPU model 'aiconfigurator' needs {PACKAGE}, which cannot be imported ({error}): "
                "pip install 'dimmpim[aiconfigurator]'"
            ) from None
        logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)  # it warns of tables that are not read here
        self._operations, self._encode, self._missing = operations, engine.build_ops_json, PerfDataNotAvailableError
        self._encoded: dict[tuple[Any, ...], str] = {}
        try:
            database = perf_database.get_database(SYSTEM_NAMES[gpu], FRAMEWORK, "current")
        except ValueError:
            database = None
        if database is None:
            known = perf_database.get_supported_databases()
            there = [name for name, system in SYSTEM_NAMES.items() if FRAMEWORK in known.get(system, ())]
            raise ParameterError(f"GPU must be one of {', '.join(there)}, which {PACKAGE} has tables of, not {gpu!r}")
        self._engine = engine.EngineHandle.for_database(database, systems_path=database.systems_root)
        self._gemm = common.GEMMQuantMode[DATA_TYPE]
        self._kv, self._attention = common.KVCacheQuantMode[DATA_TYPE], common.FMHAQuantMode[DATA_TYPE]
        # Of several measured kernels, take the one that the framework would run on this GPU.
        self._prefill_lanes = resolved_lane_order_for_op(database, "_context_attention_data")
        self._decode_lanes = resolved_lane_order_for_op(database, "_generation_attention_data")
        self.name = f"{PACKAGE} {version(PACKAGE)}, {database.system}, {FRAMEWORK} {database.version}, {DATA_TYPE}"

    def gemm_ms(self, m: int, n: int, k: int) -> float:
        return self._ms(self._operator("GEMM", n, k, self._gemm), x=m)

    def prefill_ms(self, batch: int, tokens: int, prefix: int, heads: tuple[int, int, int]) -> float:
        q_heads, kv_heads, head_dim = heads
        kinds = (self._kv, self._attention)
        operator = self._operator(
            "ContextAttention", q_heads, kv_heads, *kinds, head_size=head_dim, lane_order=self._prefill_lanes
        )
        return self._ms(operator, batch_size=batch, s=tokens, prefix=prefix)

    def decode_ms(self, batch: int, length: int, heads: tuple[int, int, int]) -> float:
        q_heads, kv_heads, head_dim = heads
        operator = self._operator(
            "GenerationAttention", q_heads, kv_heads, self._kv, head_size=head_dim, lane_order=self._decode_lanes
        )
        return self._ms(operator, is_context=False, batch_size=batch, s=length)

    def all_reduce_ms(self, elements: int, num_gpus: int) -> float:
        return self._ms(self._operator("CustomAllReduce", 1, num_gpus), x=elements)

    def elementwise_ms(self, elements: int) -> float:
        return self._ms(self._operator("ElementWise", 1, 0), x=elements)

    def _operator(self, kind: str, *arguments: Any, **options: Any) -> str:
        """An operator, encoded for the engine."""
        key = (kind, *arguments, options.get("head_size"))
        if key not in self._encoded:
            self._encoded[key] = self._encode([getattr(self._operations, kind)(kind, 1, *arguments, **options)])
        return self._encoded[key]

    def _ms(
        self, operator: str, *, is_context: bool = True, batch_size: int = 1, s: int = 1, prefix: int = 0, x: int = 1
    ) -> float:
        sizes = {"batch_size": batch_size, "s": s, "prefix": prefix, "x": x}
        try:
            ((_, ms, _, _),) = self._engine.evaluate_ops_json(operator, is_context=is_context, **sizes)
        except (self._missing, ValueError, OverflowError) as error:
            raise NotMeasuredError(str(error)) from None
        return float(ms)


class MeasuredGpu(GpuTimes):
    """GPU kernel times from measured tables.

    Decode attention over sequences of different lengths takes as long as over equally many of their mean length. The
    mean is interpolated between whole tokens.

    Parameters
    ----------
    tables : Tables
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._gemm_ms, self._all_reduce_ms = _kept(tables.gemm_ms), _kept(tables.all_reduce_ms)
        self._prefill_ms, self._decode_ms = _kept(tables.prefill_ms), _kept(tables.decode_ms)
        self._elementwise_ms = _kept(tables.elementwise_ms)

    @classmethod
    def named(cls, name: str) -> Self:
        """Times of the GPU of this name, from the installed package.

        Raises
        ------
        UnknownNameError
        ParameterError
        """
        return cls(PackageTables(gpu_named(name).name))

    @property
    def source(self) -> str:
        return self._tables.name

    def _gemm_s(self, m: int, n: int, k: int) -> Any:
        return self._found("gemm", f"{m} x {n} x {k}", lambda: self._gemm_ms(m, n, k))

    def _prefill_attention_s(
        self, batch: int, tokens: int, num_q_heads: int, num_kv_heads: int, head_dim: int, prefix: int
    ) -> Any:
        def look_up(num_kv_heads: int, head_dim: int) -> float:
            return self._prefill_ms(batch, tokens, prefix, (num_q_heads, num_kv_heads, head_dim))

        shape = f"{batch} x {tokens} tokens after {prefix}"
        return self._attention("prefill_attention", shape, look_up, (num_q_heads, num_kv_heads, head_dim))

    def _decode_attention_s(
        self, batch: int, tokens: IntArray, num_q_heads: int, num_kv_heads: int, head_dim: int
    ) -> FloatArray:
        lengths, rest = np.divmod(tokens, batch)

        def look_up(num_kv_heads: int, head_dim: int) -> FloatArray:
            def at(which: IntArray) -> FloatArray:
                heads = (num_q_heads, num_kv_heads, head_dim)
                return np.reshape([self._decode_ms(batch, length, heads) for length in which.flat], which.shape)

            below, above = at(lengths), at(lengths + (rest > 0))
            return below + (above - below) * (rest / batch)

        shape = f"{batch} x {lengths.max()} tokens"
        seconds: FloatArray = self._attention("decode_attention", shape, look_up, (num_q_heads, num_kv_heads, head_dim))
        return seconds

    def _attention(self, operator: str, shape: str, look_up: Callable[..., Any], heads: tuple[int, int, int]) -> Any:
        q_heads, kv_heads, head_dim = heads
        divisors = [n for n in range(1, q_heads + 1) if q_heads % n == 0]
        choices = {"head_dim": (head_dim, _HEAD_DIMS), "num_kv_heads": (kv_heads, divisors)}
        shape = f"{q_heads} q_heads and {kv_heads} kv_heads of {head_dim}, {shape}"
        return self._found(operator, shape, look_up, choices)

    def _all_reduce_s(self, num_bytes: int, num_gpus: int) -> Any:
        def look_up(num_gpus: int) -> float:
            return self._all_reduce_ms(-(-num_bytes // ELEMENT_BYTES), num_gpus)

        return self._found("all_reduce", f"{num_bytes} bytes", look_up, {"num_gpus": (num_gpus, range(2, 9))})

    def _elementwise_s(self, num_bytes: int) -> Any:
        elements = -(-num_bytes // ELEMENT_BYTES)
        return self._found("elementwise", f"{num_bytes} bytes", lambda: self._elementwise_ms(elements))

    def _found(
        self,
        operator: str,
        shape: str,
        look_up: Callable[..., Any],
        choices: Mapping[str, tuple[int, Iterable[int]]] = MappingProxyType({}),
    ) -> Any:
        """Time in seconds; where the tables have none, the error lists what they do have.

        Parameters
        ----------
        operator, shape : str
            Operator and shape for the error text.
        look_up : callable
            Look-up of a time in ms; it takes the parameters in `choices`.
        choices : mapping
            For each parameter, its given value and the alternatives to suggest.
        """
        given = {what: value for what, (value, _) in choices.items()}
        try:
            return look_up(**given) / 1e3
        except NotMeasuredError:
            pass
        for what, (value, others) in choices.items():
            there = [str(other) for other in others if _has(look_up, {**given, what: other})]
            require(not there, what, value, f"one of {', '.join(there)} in the {operator} of {self.source}")
        raise ParameterError(f"{self.source} has no {operator} of {shape}")


def _kept(look_up: Callable[..., float]) -> Callable[..., float]:
    return lru_cache(maxsize=MOST_KEPT)(look_up)


def _has(look_up: Callable[..., Any], given: Mapping[str, int]) -> bool:
    try:
        look_up(**given)
    except NotMeasuredError:
        return False
    return True
