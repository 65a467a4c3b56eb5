"""Cost of a decoder layer on GPUs: GEMMs, elementwise kernels counted as bytes, all-reduces, and attention.

Tensor parallelism splits a layer as Megatron-LM does: q_heads, kv_heads and the FFN width over `tp_size` GPUs, with two
all-reduces a layer. Each GPU holds at least one kv_head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pimspec.errors import require

from ..models import ModelShape
from .base import GpuTimes
from .operators import ELEMENT_BYTES

__all__ = ["LlmCost"]


@dataclass(frozen=True, kw_only=True)
class LlmCost:
    """Times of the parts of a model on `tp_size` tensor-parallel GPUs, in ns.

    Parameters
    ----------
    gpu : GpuTimes
    shape : ModelShape
    tp_size : int

    Raises
    ------
    ParameterError
        If the heads or the FFN cannot be split over `tp_size` GPUs.
    """

    gpu: GpuTimes
    shape: ModelShape
    tp_size: int = 1
    _layer_ns: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _head_ns: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        s, tp = self.shape, self.tp_size
        require(1 <= tp <= 8, "tp_size", tp, "1..8")
        for name, value in (("q_heads", s.num_q_heads), ("FFN width", s.ffn_size)):
            require(value % tp == 0, "tp_size", tp, f"a divisor of the {name}, {value}")
        even = s.num_kv_heads % tp == 0 or tp % s.num_kv_heads == 0
        require(even, "tp_size", tp, f"a divisor or a multiple of {s.num_kv_heads} kv_heads")

    @property
    def tp_kv_heads(self) -> int:
        """Number of kv_heads on one GPU."""
        return max(1, self.shape.num_kv_heads // self.tp_size)

    @property
    def tp_q_heads(self) -> int:
        """Number of q_heads on one GPU."""
        return self.shape.num_q_heads // self.tp_size

    @property
    def weight_bytes(self) -> int:
        """Weight bytes of one GPU: its part of the layers, the embeddings and the lm_head."""
        s = self.shape
        embeddings = 2 * s.vocab_size * s.hidden_size
        return ELEMENT_BYTES * (s.num_layers * s.layer_parameters + embeddings) // self.tp_size

    def gemm_shapes(self, tokens: int) -> tuple[tuple[str, int, int, int], ...]:
        """(name, m, n, k) of each GEMM of one layer on one GPU: QKV, O, FFN in (gate and up together), FFN out."""
        s, tp = self.shape, self.tp_size
        qkv = (self.tp_q_heads + 2 * self.tp_kv_heads) * s.head_dim
        ffn = s.ffn_size // tp
        return (
            ("qkv", tokens, qkv, s.hidden_size),
            ("o", tokens, s.hidden_size, self.tp_q_heads * s.head_dim),
            ("ffn_in", tokens, ffn * (2 if s.gated_ffn else 1), s.hidden_size),
            ("ffn_out", tokens, s.hidden_size, ffn),
        )

    def elementwise_bytes(self, tokens: int) -> tuple[int, int, int, int]:
        """Bytes moved by the elementwise kernels of a layer: norm with residual (twice), rotary embedding, activation.

        A norm reads the residual and the new part, and writes their sum and its norm.
        """
        s, ffn = self.shape, self.shape.ffn_size // self.tp_size
        norm = 4 * tokens * s.hidden_size * ELEMENT_BYTES
        rotation = 2 * tokens * (self.tp_q_heads + self.tp_kv_heads) * s.head_dim * ELEMENT_BYTES
        activation = (3 if s.gated_ffn else 2) * tokens * ffn * ELEMENT_BYTES
        return norm, norm, rotation, activation

    def layer_ns(self, tokens: int) -> int:
        """Time of one layer without its attention, for `tokens` new tokens of any requests."""
        require(tokens >= 1, "tokens", tokens, "1 or more")
        if tokens not in self._layer_ns:
            gemms = sum(self.gpu.gemm_ns(m, n, k) for _, m, n, k in self.gemm_shapes(tokens))
            small = sum(self.gpu.elementwise_ns(num_bytes) for num_bytes in self.elementwise_bytes(tokens))
            message = tokens * self.shape.hidden_size * ELEMENT_BYTES
            self._layer_ns[tokens] = gemms + small + 2 * self.gpu.all_reduce_ns(message, self.tp_size)
        return self._layer_ns[tokens]

    def lm_head_ns(self, sequences: int) -> int:
        """Time of the logits of each sequence's last token: a GEMM over this GPU's part of the vocabulary."""
        if sequences not in self._head_ns:
            part = -(-self.shape.vocab_size // self.tp_size)
            self._head_ns[sequences] = self.gpu.gemm_ns(sequences, part, self.shape.hidden_size)
        return self._head_ns[sequences]

    def decode_attention_ns(self, batch: int, tokens: int) -> int:
        """Attention time of one layer: one new token of each of `batch` sequences, `tokens` tokens in total."""
        return self.gpu.decode_attention_ns(batch, tokens, self.tp_q_heads, self.tp_kv_heads, self.shape.head_dim)

    def prefill_attention_ns(self, tokens: int, *, prefix: int = 0, batch: int = 1) -> int:
        """Attention time of one layer: `tokens` new tokens of each of `batch` sequences, after `prefix` cached ones."""
        heads = (self.tp_q_heads, self.tp_kv_heads, self.shape.head_dim)
        return self.gpu.prefill_attention_ns(batch, tokens, *heads, prefix=prefix)

    def decode_step_ns(self, batch: int, tokens: int) -> int:
        """Time of a decode step of `batch` sequences of `tokens` tokens in total, attention on the GPU included."""
        return self._model_ns(batch, batch, self.decode_attention_ns(batch, tokens))

    def prefill_ns(self, tokens: int, *, prefix: int = 0) -> int:
        """Time to prefill a whole prompt, or a chunk that follows `prefix` tokens."""
        return self._model_ns(tokens, 1, self.prefill_attention_ns(tokens, prefix=prefix))

    def _model_ns(self, tokens: int, sequences: int, attention_ns: int) -> int:
        return self.shape.num_layers * (self.layer_ns(tokens) + attention_ns) + self.lm_head_ns(sequences)
