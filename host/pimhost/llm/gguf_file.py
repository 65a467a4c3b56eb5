"""Reader of Llama-architecture GGUF files: configuration, weights (dequantised to float32) and vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from pimspec.errors import ParameterError, PimError, require

from .config import LlamaConfig, LlamaWeights, Weight
from .gguf_check import check_gguf_header
from .tokenizer import TextTokenizer, byte_level_tokenizer

__all__ = ["GGUF_LAYER_NAMES", "GGUF_NAMES", "ROPE_FACTORS", "load_gguf"]

GGUF_NAMES = {"embedding": "token_embd.weight", "norm": "output_norm.weight", "output": "output.weight"}
GGUF_LAYER_NAMES = {
    "attention_norm": "blk.{}.attn_norm.weight",
    "q": "blk.{}.attn_q.weight",
    "k": "blk.{}.attn_k.weight",
    "v": "blk.{}.attn_v.weight",
    "o": "blk.{}.attn_output.weight",
    "ffn_norm": "blk.{}.ffn_norm.weight",
    "gate": "blk.{}.ffn_gate.weight",
    "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight",
}
ROPE_FACTORS = "rope_freqs.weight"
_CONTROL = 3
"""Token type of control markers such as the end of a turn."""


def load_gguf(path: Path) -> tuple[LlamaConfig, LlamaWeights, TextTokenizer]:
    """Configuration, weights and tokenizer from a GGUF file.

    Raises
    ------
    ParameterError
        If the file is damaged, truncated, of another architecture, or has tensors that the forward pass would ignore.
    """
    with _damage_told(path):
        check_gguf_header(path)
        reader = gguf.GGUFReader(path)
        meta = _Metadata(path, reader)
        architecture = meta.get("general.architecture")
        require(architecture == "llama", f"architecture of {path.name}", architecture, "llama")
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        scaling = meta.get("llama.rope.scaling.type", "none")
        require(scaling == "none", f"rope scaling of {path.name}", scaling, "none")

        def get(name: str) -> Weight:
            require(name in tensors, f"{path.name}", f"one without {name}", "a file with all tensors")
            tensor = tensors[name]
            return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)

        factors = tuple(get(ROPE_FACTORS).tolist()) if ROPE_FACTORS in tensors else None
        config = _config(meta, factors, vocab_size=len(meta.get("tokenizer.ggml.tokens")))
        tied = GGUF_NAMES["output"] not in tensors
        weights = LlamaWeights.load(config, get, GGUF_NAMES, GGUF_LAYER_NAMES, tied=tied)
        known = {ROPE_FACTORS, *GGUF_NAMES.values()}
        known |= {name.format(n) for name in GGUF_LAYER_NAMES.values() for n in range(config.num_layers)}
        extra = sorted(set(tensors) - known)
        require(not extra, f"tensors of {path.name}", extra[:3], "those of a plain Llama")
        return config, weights, _tokenizer(meta)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Report any parser exception as one ParameterError; damaged files make the parser fail in many ways."""
    try:
        yield
    except PimError:
        raise
    except FileNotFoundError:
        raise ParameterError(f"--model must be an existing file or directory, not {str(path)!r}") from None
    except Exception as error:  # anything the parser raises
        reason = " ".join(str(error).split())[:120]
        raise ParameterError(
            f"{path} is not a readable GGUF file, or is cut off ({type(error).__name__}: {reason})"
        ) from error


class _Metadata:
    """Metadata of a GGUF file, by key."""

    def __init__(self, path: Path, reader: gguf.GGUFReader) -> None:
        self._path, self._fields = path, reader.fields

    def get(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(key)
        require(field is not None or default is not None, self._path.name, f"one without {key}", "a file with all keys")
        return default if field is None else field.contents()


def _config(meta: _Metadata, factors: tuple[float, ...] | None, vocab_size: int) -> LlamaConfig:
    hidden, heads = meta.get("llama.embedding_length"), meta.get("llama.attention.head_count")
    require(isinstance(heads, int) and heads >= 1, "llama.attention.head_count", heads, "1 or more")
    head_dim = meta.get("llama.attention.key_length", hidden // heads)
    rotated = meta.get("llama.rope.dimension_count", head_dim)
    require(rotated == head_dim, "llama.rope.dimension_count", rotated, f"head_dim, {head_dim}")
    return LlamaConfig(
        num_layers=meta.get("llama.block_count"),
        hidden_size=hidden,
        intermediate_size=meta.get("llama.feed_forward_length"),
        num_q_heads=heads,
        num_kv_heads=meta.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=vocab_size,
        context_length=meta.get("llama.context_length"),
        rope_base=meta.get("llama.rope.freq_base", 10_000.0),
        norm_eps=meta.get("llama.attention.layer_norm_rms_epsilon"),
        rope_factors=factors,
    )


def _tokenizer(meta: _Metadata) -> TextTokenizer:
    model = meta.get("tokenizer.ggml.model")
    require(model == "gpt2", "tokenizer.ggml.model", model, "gpt2 (byte-level BPE); or give a safetensors directory")
    tokens, types = meta.get("tokenizer.ggml.tokens"), meta.get("tokenizer.ggml.token_type")
    eos = meta.get("tokenizer.ggml.eos_token_id")
    require(0 <= eos < len(tokens), "tokenizer.ggml.eos_token_id", eos, f"0..{len(tokens) - 1}")
    bos = meta.get("tokenizer.ggml.bos_token_id", 0) if meta.get("tokenizer.ggml.add_bos_token", False) else None
    return TextTokenizer(
        byte_level_tokenizer(
            tokens,
            meta.get("tokenizer.ggml.merges"),
            special=[token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL],
            splitting=meta.get("tokenizer.ggml.pre", "default"),
        ),
        stop_token_ids=[eos],
        first_token_id=bos,
    )
