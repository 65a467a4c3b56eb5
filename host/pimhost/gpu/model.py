"""The GPU model: times of kernels on a named GPU, from the fitted constants in ``constants.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from pimspec.errors import ParameterError, require

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
from .profiles import OPERATORS
from .specs import GpuSpec, gpu_named

__all__ = ["CONSTANTS_FILE", "GpuModel", "load_constants"]

CONSTANTS_FILE = Path(__file__).with_name("constants.json")
_Kind = TypeVar("_Kind", GemmConstants, PrefillConstants, DecodeConstants, AllReduceConstants)


def load_constants(path: Path = CONSTANTS_FILE) -> dict[str, dict[str, Constants]]:
    """Constants of each GPU and operator, from a file that ``dimmpim fit-gpu`` wrote.

    Raises
    ------
    ParameterError
        If the file is something else.
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
class GpuModel:
    """Times of kernels, 16 bits a number, in ns.

    Parameters
    ----------
    spec : GpuSpec
    constants : mapping of str to Constants
        Of each operator that was measured.
    """

    spec: GpuSpec
    constants: Mapping[str, Constants]

    @classmethod
    def named(cls, name: str, *, constants_file: Path | None = None) -> Self:
        """The GPU of this name, with the constants of the project or of another file.

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

    def gemm_ns(self, m: int, n: int, k: int) -> int:
        """(m, k) x (k, n); k x n are the weights."""
        _require_positive(m=m, n=n, k=k)
        return _ns(gemm_s(self._of("gemm", GemmConstants), self.spec, m, n, k))

    def prefill_attention_ns(
        self, batch: int, tokens: int, num_q_heads: int, num_kv_heads: int, head_dim: int, *, prefix: int = 0
    ) -> int:
        """Causal attention of `tokens` new tokens of each of `batch` sequences, after `prefix` that are cached."""
        shape = {"batch": batch, "tokens": tokens}
        _require_positive(**shape, num_q_heads=num_q_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
        require(prefix >= 0, "prefix", prefix, "0 or more")
        c = self._of("prefill_attention", PrefillConstants)
        return _ns(prefill_attention_s(c, self.spec, batch, tokens, num_q_heads, num_kv_heads, head_dim, prefix))

    def decode_attention_ns(self, batch: int, tokens: int, num_q_heads: int, num_kv_heads: int, head_dim: int) -> int:
        """One new token of each of `batch` sequences; `tokens` is the sum of their lengths."""
        _require_positive(batch=batch, num_q_heads=num_q_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
        require(tokens >= batch, "tokens", tokens, f"at least one for each of {batch} sequences")
        c = self._of("decode_attention", DecodeConstants)
        return _ns(decode_attention_s(c, self.spec, batch, tokens, num_q_heads, num_kv_heads, head_dim))

    def all_reduce_ns(self, num_bytes: int, num_gpus: int) -> int:
        """`num_bytes` on each of `num_gpus` GPUs of one node; nothing to do for one GPU.

        Raises
        ------
        ParameterError
            For 2 GPUs or more where it was not measured (L40S, which has no NVLink).
        """
        require(num_bytes >= 0, "num_bytes", num_bytes, "0 or more")
        require(1 <= num_gpus <= 8, "num_gpus", num_gpus, "1..8, for the measurements are of one node")
        if num_gpus == 1 or num_bytes == 0:
            return 0
        return _ns(all_reduce_s(self._of("all_reduce", AllReduceConstants), self.spec, num_bytes, num_gpus))

    def elementwise_ns(self, num_bytes: int) -> int:
        """A kernel that only moves bytes: norm, activation, rotation, addition.

        Launch and share of the bandwidth are those of a GEMM bound by memory; they have no rows of their own.
        """
        require(num_bytes >= 0, "num_bytes", num_bytes, "0 or more")
        c = self._of("gemm", GemmConstants)
        return round((c.launch_s + num_bytes / (self.spec.bandwidth_bytes_per_s * c.memory)) * 1e9)

    def _of(self, operator: str, kind: type[_Kind]) -> _Kind:
        constants = self.constants.get(operator)
        if not isinstance(constants, kind):
            raise ParameterError(f"{self.spec.name} has no measured {operator}")
        return constants


def _ns(seconds: Any) -> int:
    return round(float(seconds) * 1e9)


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        require(value >= 1, name, value, "1 or more")
