"""Q, K and V of one decode step: from a recording (``.npz``) or synthetic."""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimspec.attention.shape import AttentionShape
from pimspec.errors import ParameterError, PimError, require
from pimspec.files import require_regular

__all__ = ["DecodeStep", "load_step", "parse_shape", "synthetic_step"]

MAX_TOKENS = 1 << 20
MAX_ARRAY_BYTES = 1 << 32
_HEADER_BYTES = 10_000
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_Q_NAME = re.compile(r"Q[0-9]{1,9}")


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
    q, k, v = _read_arrays(path, layer)
    num_steps = len(q)
    require(0 <= step < num_steps, "--step", step, f"0..{num_steps - 1}")
    require(k.shape == v.shape, f"shapes of K{layer} and V{layer}", (k.shape, v.shape), "equal")
    require(q.shape[2] == k.shape[2], f"head_dim of Q{layer}", q.shape[2], f"that of K{layer}, {k.shape[2]}")
    visible = k.shape[1] - num_steps + 1 + step
    require(visible >= 1, f"tokens of K{layer}", k.shape[1], f"at least the number of steps, {num_steps}")
    shape = AttentionShape(num_q_heads=q.shape[1], num_kv_heads=k.shape[0], head_dim=q.shape[2])
    source = f"{path.name}, layer {layer}, step {step}"
    return DecodeStep(shape=shape, q=q[step], k=k[:, :visible], v=v[:, :visible], source=source)


def _read_arrays(path: Path, layer: int) -> list[NDArray[np.float16]]:
    """Q, K and V of a layer."""
    try:
        require_regular(path, "--kv")
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            layers = sorted(int(name[1:]) for name in sizes if _Q_NAME.fullmatch(name))
            require(bool(layers), "--kv", path.name, "a file with arrays Q<layer>, K<layer> and V<layer>")
            require(layer in layers, "--layer", layer, f"one of {', '.join(map(str, layers))} of {path.name}")
            names = [f"{kind}{layer}" for kind in "QKV"]
            if missing := [name for name in names if name not in sizes]:
                raise ParameterError(f"{path} lacks the array {missing[0]!r}")
            return [_read_array(archive, sizes[name], name, path) for name in names]
    except FileNotFoundError:
        raise ParameterError(f"--kv must be an existing file, not {str(path)!r}") from None
    except (PimError, MemoryError):
        raise
    except Exception as error:  # whatever zipfile, zlib and NumPy make of damage
        raise ParameterError(f"{path} is not a readable .npz file: {error or type(error).__name__}") from None


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, path: Path) -> NDArray[np.float16]:
    """An array whose header says what there is, no more: memory is taken for what the file holds alone."""
    what = f"{name} of {path.name}"
    require(info.file_size <= MAX_ARRAY_BYTES, f"size of {what}", info.file_size, f"at most {MAX_ARRAY_BYTES} bytes")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        require(version in _HEADERS, f"version of {what}", version, "(1, 0) or (2, 0)")
        shape, in_columns, dtype = _HEADERS[version](file, max_header_size=_HEADER_BYTES)
        ok = len(shape) == 3 and dtype == np.float16
        require(ok, what, f"{dtype} with {len(shape)} axes", "float16 with 3 axes")
        require(min(shape) > 0, f"shape of {what}", shape, "without a 0")
        count = math.prod(shape)
        content = file.read(2 * count + 1) if 2 * count <= info.file_size else b""
        require(len(content) == 2 * count, f"bytes of {what}", len(content), f"{2 * count}, as its header says")
    array = np.frombuffer(content, np.dtype(dtype)).reshape(shape, order="F" if in_columns else "C")
    require(bool(np.isfinite(array).all()), what, "an array with NaN or infinity", "finite")
    return np.ascontiguousarray(array, np.float16)


def parse_shape(text: str) -> tuple[AttentionShape, int]:
    """``"q_heads,kv_heads,head_dim,tokens"`` to a shape and a token count; raises :class:`ParameterError`."""
    parts = text.split(",")
    ok = len(parts) == 4 and all(re.fullmatch(r"[0-9]{1,9}", part.strip()) for part in parts)
    require(ok, "--shape", text, "four numbers: q_heads,kv_heads,head_dim,tokens, none below 0")
    num_q_heads, num_kv_heads, head_dim, tokens = map(int, parts)
    require(1 <= tokens <= MAX_TOKENS, "tokens of --shape", tokens, f"1..{MAX_TOKENS}")
    return AttentionShape(num_q_heads=num_q_heads, num_kv_heads=num_kv_heads, head_dim=head_dim), tokens


def synthetic_step(shape: AttentionShape, tokens: int, seed: int) -> DecodeStep:
    """White K and V, and q such that scaled scores have a standard deviation of 2.5, as in recordings of models.

    Raises
    ------
    ParameterError
        If K and V take more than `MAX_ARRAY_BYTES` together.
    """
    num_bytes = shape.kv_bytes(tokens)
    require(num_bytes <= MAX_ARRAY_BYTES, "bytes of K and V", num_bytes, f"at most {MAX_ARRAY_BYTES}: fewer tokens")
    rng = np.random.default_rng(seed)
    k, v = (np.empty((shape.num_kv_heads, tokens, shape.head_dim), np.float16) for _ in "kv")
    for head in (*k, *v):  # one by one: float64 takes four times the memory
        head[:] = rng.standard_normal(head.shape)
    q = (2.5 * rng.standard_normal((shape.num_q_heads, shape.head_dim))).astype(np.float16)
    return DecodeStep(shape=shape, q=q, k=k, v=v, source=f"synthetic, seed {seed}")
