"""Configuration and weights of a Llama-architecture model, in one layout for all file formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pimspec.attention.shape import AttentionShape
from pimspec.errors import require

__all__ = ["LayerWeights", "LlamaConfig", "LlamaWeights", "Weight", "llama3_rope_factors", "to_interleaved"]

Weight = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Configuration of a model with RMS norm, rotary positions, grouped queries and gated SiLU.

    Parameters
    ----------
    num_layers, hidden_size, intermediate_size : int
    num_q_heads, num_kv_heads, head_dim : int
    vocab_size : int
    context_length : int
        Positions that the model was trained for.
    rope_base : float
    norm_eps : float
    rope_factors : tuple of float, optional
        Divisor of each pair's frequency; shape (head_dim / 2,).

    Raises
    ------
    ParameterError
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    rope_factors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field in fields(self)[:8]:
            given = getattr(self, field.name)
            require(isinstance(given, int) and given >= 1, field.name, given, "a whole number, 1 or more")
        for what in ("rope_base", "norm_eps"):
            given = getattr(self, what)
            require(isinstance(given, int | float) and 0 < given < math.inf, what, given, "positive and finite")
        require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "even")
        multiple = self.num_q_heads % self.num_kv_heads == 0
        require(multiple, "num_q_heads", self.num_q_heads, f"a multiple of num_kv_heads ({self.num_kv_heads})")
        count = self.head_dim // 2 if self.rope_factors is None else len(self.rope_factors)
        require(count == self.head_dim // 2, "number of rope_factors", count, f"{self.head_dim // 2}")

    @property
    def shape(self) -> AttentionShape:
        """Attention shape of one layer; raises ParameterError if no rank could compute it."""
        return AttentionShape(num_q_heads=self.num_q_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_dim)


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """Weights of one layer, as (outputs, inputs); rows of `q` and `k` are interleaved (:func:`to_interleaved`)."""

    attention_norm: Weight  # (hidden_size,)
    q: Weight  # (num_q_heads * head_dim, hidden_size)
    k: Weight  # (num_kv_heads * head_dim, hidden_size)
    v: Weight  # (num_kv_heads * head_dim, hidden_size)
    o: Weight  # (hidden_size, num_q_heads * head_dim)
    ffn_norm: Weight  # (hidden_size,)
    gate: Weight  # (intermediate_size, hidden_size)
    up: Weight  # (intermediate_size, hidden_size)
    down: Weight  # (hidden_size, intermediate_size)


@dataclass(frozen=True, kw_only=True)
class LlamaWeights:
    """All weights of a model, float32."""

    embedding: Weight  # (vocab_size, hidden_size)
    layers: Sequence[LayerWeights]
    norm: Weight  # (hidden_size,)
    output: Weight  # (vocab_size, hidden_size); the embedding itself if tied

    @staticmethod
    def load(
        config: LlamaConfig,
        get: Callable[[str], Weight],
        names: dict[str, str],
        layer_names: dict[str, str],
        *,
        tied: bool,
        prepare_qk: Callable[[Weight], Weight] = lambda weight: weight,
    ) -> LlamaWeights:
        """Weights fetched by their names in a file; each is checked for its shape and for finite numbers.

        Parameters
        ----------
        config : LlamaConfig
        get : callable
            Returns the weight of a name.
        names, layer_names : dict
            Names in the file, by field of this class and of :class:`LayerWeights` (with ``{}`` for the layer).
        tied : bool
            True if the output weights are the embedding.
        prepare_qk : callable
            Reorders the rows of `q` and `k` to interleaved order.
        """
        c = config
        queries, keys = c.num_q_heads * c.head_dim, c.num_kv_heads * c.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "attention_norm": (c.hidden_size,),
            "q": (queries, c.hidden_size),
            "k": (keys, c.hidden_size),
            "v": (keys, c.hidden_size),
            "o": (c.hidden_size, queries),
            "ffn_norm": (c.hidden_size,),
            "gate": (c.intermediate_size, c.hidden_size),
            "up": (c.intermediate_size, c.hidden_size),
            "down": (c.hidden_size, c.intermediate_size),
            "embedding": (c.vocab_size, c.hidden_size),
            "norm": (c.hidden_size,),
            "output": (c.vocab_size, c.hidden_size),
        }

        def fetch(field: str, name: str) -> Weight:
            weight = np.ascontiguousarray(get(name), np.float32)
            require(weight.shape == shapes[field], f"shape of tensor {name}", weight.shape, str(shapes[field]))
            require(bool(np.isfinite(weight).all()), f"tensor {name}", "one with NaN or infinity", "finite")
            return prepare_qk(weight) if field in ("q", "k") else weight

        embedding = fetch("embedding", names["embedding"])
        return LlamaWeights(
            embedding=embedding,
            layers=[
                LayerWeights(**{field: fetch(field, name.format(n)) for field, name in layer_names.items()})
                for n in range(c.num_layers)
            ],
            norm=fetch("norm", names["norm"]),
            output=embedding if tied else fetch("output", names["output"]),
        )


def to_interleaved(weight: Weight, head_dim: int) -> Weight:
    """A projection's rows, reordered from half-split (pairs i, i + head_dim/2) to interleaved (pairs 2i, 2i + 1).

    Scores do not change, for q and k are permuted alike. GGUF files hold the interleaved order; Hugging Face's hold the
    half-split one.
    """
    split = weight.reshape(-1, 2, head_dim // 2, weight.shape[-1])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(weight.shape)


def llama3_rope_factors(
    head_dim: int, rope_base: float, *, factor: float, low: float, high: float, original_length: float
) -> tuple[float, ...]:
    """Frequency divisors of Llama 3.1's context extension: `factor` for long wavelengths, 1 for short ones.

    Between ``original_length / low`` and ``original_length / high`` the frequency is interpolated linearly in
    ``original_length / wavelength``.
    """
    frequency = rope_base ** (-np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original_length * frequency / (2 * np.pi) - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - smooth) / factor + smooth)).tolist())
