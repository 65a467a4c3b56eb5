"""Q, K and V of one decode step: from a recording (``.npz``) or synthetic."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimspec.attention.shape import AttentionShape
from pimspec.errors import ParameterError, require

__all__ = ["DecodeStep", "load_step", "parse_shape", "synthetic_step"]

MAX_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class DecodeStep:
    """One query token of one layer against its cache, as float16.

    Parameters
    ----------
    shape : AttentionShape
    q : array of shape (num_q_heads, head_dim)
    k, v : arrays of shape (num_kv_heads, tokens, head_dim)
        Only the tokens that the query sees.
    source : str
        Where the numbers are from.
    """

    shape: AttentionShape
    q: NDArray[np.float16]
    k: NDArray[np.float16]
    v: NDArray[np.float16]
    source: str

    @property
    def num_tokens(self) -> int:
        return self.k.shape[1]


def load_step(path: Path, layer: int, step: int) -> DecodeStep:
    """Step `step` of layer `layer` of a recording.

    The file holds, for each layer l, float16 arrays ``K<l>`` and ``V<l>`` (num_kv_heads, T, head_dim) and ``Q<l>``
    (num_steps, num_q_heads, head_dim): RoPE applied, Q unscaled. The query of step i of n sees the first
    ``T - n + 1 + i`` tokens.

    Raises
    ------
    ParameterError
        If the file cannot be read, or lacks the layer or step; the text says what it has.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            layers = sorted(int(name[1:]) for name in file.files if name[0] == "Q" and name[1:].isdigit())
            require(bool(layers), "--kv", path.name, "a file with arrays Q<layer>, K<layer> and V<layer>")
            require(layer in layers, "--layer", layer, f"one of {', '.join(map(str, layers))} of {path.name}")
            q, k, v = (_float16(file[f"{kind}{layer}"], f"{kind}{layer}", path) for kind in "QKV")
    except FileNotFoundError:
        raise ParameterError(f"--kv must be an existing file, not {str(path)!r}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{path} is not a readable .npz file: {error}") from None
    except KeyError as error:
        raise ParameterError(f"{path} lacks the array {error}") from None
    num_steps = len(q)
    require(0 <= step < num_steps, "--step", step, f"0..{num_steps - 1}")
    require(k.shape == v.shape, f"shapes of K{layer} and V{layer}", (k.shape, v.shape), "equal")
    require(q.shape[2] == k.shape[2], f"head_dim of Q{layer}", q.shape[2], f"that of K{layer}, {k.shape[2]}")
    visible = k.shape[1] - num_steps + 1 + step
    require(visible >= 1, f"tokens of K{layer}", k.shape[1], f"at least the number of steps, {num_steps}")
    shape = AttentionShape(num_q_heads=q.shape[1], num_kv_heads=k.shape[0], head_dim=q.shape[2])
    source = f"{path.name}, layer {layer}, step {step}"
    return DecodeStep(shape=shape, q=q[step], k=k[:, :visible], v=v[:, :visible], source=source)


def _float16(array: NDArray[Any], name: str, path: Path) -> NDArray[np.float16]:
    ok = array.ndim == 3 and array.dtype == np.float16
    require(ok, f"{name} of {path.name}", f"{array.dtype} with {array.ndim} axes", "float16 with 3 axes")
    require(bool(np.isfinite(array).all()), f"{name} of {path.name}", "an array with NaN or infinity", "finite")
    return array


def parse_shape(text: str) -> tuple[AttentionShape, int]:
    """``"q_heads,kv_heads,head_dim,tokens"`` to a shape and a token count; raises :class:`ParameterError`."""
    parts = text.split(",")
    ok = len(parts) == 4 and all(part.strip().isdigit() for part in parts)
    require(ok, "--shape", text, "four numbers: q_heads,kv_heads,head_dim,tokens, none below 0")
    num_q_heads, num_kv_heads, head_dim, tokens = map(int, parts)
    require(1 <= tokens <= MAX_TOKENS, "tokens of --shape", tokens, f"1..{MAX_TOKENS}")
    return AttentionShape(num_q_heads=num_q_heads, num_kv_heads=num_kv_heads, head_dim=head_dim), tokens


def synthetic_step(shape: AttentionShape, tokens: int, seed: int) -> DecodeStep:
    """White K and V, and q such that scaled scores have a standard deviation of 2.5, as in recordings of models."""
    rng = np.random.default_rng(seed)
    k, v = (rng.standard_normal((shape.num_kv_heads, tokens, shape.head_dim)).astype(np.float16) for _ in "kv")
    q = (2.5 * rng.standard_normal((shape.num_q_heads, shape.head_dim))).astype(np.float16)
    return DecodeStep(shape=shape, q=q, k=k, v=v, source=f"synthetic, seed {seed}")
