"""GPU roofline: times of kernels on a named GPU, from the fitted constants in ``constants.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import ParameterError, require

from .base import GpuTimes
from .operators import (
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
from .profiles import OPERATORS, SOURCE
from .specs import GpuSpec, gpu_named

__all__ = ["CONSTANTS_FILE", "GpuModel", "load_constants"]

CONSTANTS_FILE = Path(__file__).with_name("constants.json")
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_Kind = TypeVar("_Kind", GemmConstants, PrefillConstants, DecodeConstants, AllReduceConstants)


def load_constants(path: Path = CONSTANTS_FILE) -> dict[str, dict[str, Constants]]:
    """Constants of each GPU and operator, from a file written by ``dimmpim fit-gpu``.

    Raises
    ------
    ParameterError
        If the file is malformed.
    """
    try:
        gpus: Mapping[str, Any] = json.loads(path.read_text())["gpus"]
        return {
            gpu: {name: type(OPERATORS[name].initial)(**entry["constants"]) for name, entry in operators.items()}
            for gpu, operators in gpus.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ParameterError(f"{path}: not written by `dimmpim fit-gpu`: {error!r}") from None


@cache
def _shipped() -> dict[str, dict[str, Constants]]:
    return load_constants()


@dataclass(frozen=True, kw_only=True)
class GpuModel(GpuTimes):
    """Roofline kernel times of a GPU, for 16-bit elements, in ns.

    Parameters
    ----------
    spec : GpuSpec
    constants : mapping of str to Constants
        Constants of each operator that was measured.
    """

    spec: GpuSpec
    constants: Mapping[str, Constants]

    @classmethod
    def named(cls, name: str, *, constants_file: Path | None = None) -> Self:
        """Model of the GPU of this name, with the project's constants or those of `constants_file`.

        Raises
        ------
        UnknownNameError
        ParameterError
            If the file has no constants for this GPU.
        """
        spec = gpu_named(name)
        constants = _shipped() if constants_file is None else load_constants(constants_file)
        require(name in constants, "GPU", name, f"one of {', '.join(constants)}")
        return cls(spec=spec, constants=constants[name])

    @property
    def source(self) -> str:
        return f"fitted on {SOURCE}"

    def _gemm_s(self, m: int, n: int, k: int) -> FloatArray:
        return gemm_s(self._of("gemm", GemmConstants), self.spec, m, n, k)

    def _prefill_attention_s(
        self, batch: int, tokens: int, num_q_heads: int, num_kv_heads: int, head_dim: int, prefix: int
    ) -> FloatArray:
        c = self._of("prefill_attention", PrefillConstants)
        return prefill_attention_s(c, self.spec, batch, tokens, num_q_heads, num_kv_heads, head_dim, prefix)

    def _decode_attention_s(
        self, batch: int, tokens: IntArray, num_q_heads: int, num_kv_heads: int, head_dim: int
    ) -> FloatArray:
        c = self._of("decode_attention", DecodeConstants)
        return decode_attention_s(c, self.spec, batch, tokens, num_q_heads, num_kv_heads, head_dim)

    def _all_reduce_s(self, num_bytes: int, num_gpus: int) -> FloatArray:
        """All-reduce seconds; not measured on the L40S, which has no NVLink."""
        return all_reduce_s(self._of("all_reduce", AllReduceConstants), self.spec, num_bytes, num_gpus)

    def _elementwise_s(self, num_bytes: int) -> float:
        """Seconds with the launch and bandwidth share of a memory-bound GEMM; elementwise kernels have no own rows."""
        c = self._of("gemm", GemmConstants)
        return c.launch_s + num_bytes / (self.spec.bandwidth_bytes_per_s * c.memory)

    def _of(self, operator: str, kind: type[_Kind]) -> _Kind:
        constants = self.constants.get(operator)
        if not isinstance(constants, kind):
            raise ParameterError(f"{self.spec.name} has no measured {operator}")
        return constants
