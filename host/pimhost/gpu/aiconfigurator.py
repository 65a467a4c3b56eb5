"""Times of GPU kernels from the measured tables of ``aiconfigurator-core``, an optional package.

The package interpolates in its tables, and beyond them extrapolates without saying so. It is asked for single kernels
only, in bf16, as vLLM runs them; models, memory and scheduling stay those of the project. Two of its times are formulas
and no measurements: kernels that only move bytes (3 us and 0.8 of the bandwidth), and rotation and the writing of K and
V, which it adds to every prefill attention: 13.2 us on an H100, however many tokens there are. Rotation is also a part
of :meth:`~pimhost.gpu.llm_cost.LlmCost.layer_ns`, so that it counts twice where a prompt is computed.
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
"""Whose kernels. vLLM's, as the rest of the simulator follows vLLM."""
DATA_TYPE = "bfloat16"
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOST_KEPT = 1 << 17
"""Answers of each kind that are kept: a look-up takes some 10 us."""
_HEAD_DIMS = (64, 80, 96, 112, 128, 192, 256, 512)


class NotMeasuredError(Exception):
    """The tables have no rows for an operator. The text is the package's."""


class Tables(Protocol):
    """All that is asked of the package, on one GPU, in ms. Methods raise NotMeasuredError."""

    name: str
    """Package, GPU and framework, with versions."""

    def gemm_ms(self, m: int, n: int, k: int) -> float: ...

    def prefill_ms(self, batch: int, tokens: int, prefix: int, heads: tuple[int, int, int]) -> float:
        """`heads` are num_q_heads, num_kv_heads and head_dim, here and below."""

    def decode_ms(self, batch: int, length: int, heads: tuple[int, int, int]) -> float:
        """Each of `batch` sequences has `length` tokens, the new one among them."""

    def all_reduce_ms(self, elements: int, num_gpus: int) -> float: ...

    def elementwise_ms(self, elements: int) -> float:
        """`elements` are read or written, together."""


class PackageTables:
    """Those of the package that is installed.

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
        logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)  # it warns of tables that nobody reads here
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
        # Which of several measured kernels: the one that the framework would run on this GPU.
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
        """As the engine reads it."""
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
    """Times of kernels from tables.

    A decode attention over sequences of several lengths takes as long as one over as many of their mean length, which
    is interpolated between whole tokens.

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
        """The GPU of this name, in the package that is installed.

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
        """Seconds; if there are none, the error says what is there instead.

        Parameters
        ----------
        operator, shape : str
            For the error.
        look_up : callable
            To ms, from the parameters in `choices`.
        choices : mapping
            Of each parameter: what is given, and what else it might be.
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
