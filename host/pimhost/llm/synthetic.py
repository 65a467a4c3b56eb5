"""Small models with random weights, written in both file formats, for tests and for trying the host."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import pre_tokenizers

from .config import LlamaConfig, Weight, to_interleaved
from .gguf_file import GGUF_LAYER_NAMES, GGUF_NAMES, ROPE_FACTORS
from .safetensors_dir import HF_LAYER_NAMES, HF_NAMES
from .tokenizer import END_OF_TURN, TURN, byte_level_tokenizer

__all__ = ["synthetic_config", "synthetic_weights", "write_gguf", "write_safetensors"]

_MERGES = ("h e", "l l", "he ll", "hell o")


def _vocabulary() -> list[str]:
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*tokens, *(merge.replace(" ", "") for merge in _MERGES), TURN, END_OF_TURN]


def synthetic_weights(config: LlamaConfig, seed: int, *, tied: bool = True) -> dict[str, Weight]:
    """Random tensors by Hugging Face name, rows of q and k half-split; `vocab_size` must be the byte vocabulary's."""
    rng = np.random.default_rng(seed)
    c = config

    def matrix(outputs: int, inputs: int) -> Weight:
        return (rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)

    def norm() -> Weight:
        return (1 + 0.1 * rng.standard_normal(c.hidden_size)).astype(np.float32)

    queries, keys = c.num_q_heads * c.head_dim, c.num_kv_heads * c.head_dim
    weights = {HF_NAMES["embedding"]: matrix(c.vocab_size, c.hidden_size), HF_NAMES["norm"]: norm()}
    if not tied:
        weights[HF_NAMES["output"]] = matrix(c.vocab_size, c.hidden_size)
    for n in range(c.num_layers):
        layer = {
            "attention_norm": norm(),
            "q": matrix(queries, c.hidden_size),
            "k": matrix(keys, c.hidden_size),
            "v": matrix(keys, c.hidden_size),
            "o": matrix(c.hidden_size, queries),
            "ffn_norm": norm(),
            "gate": matrix(c.intermediate_size, c.hidden_size),
            "up": matrix(c.intermediate_size, c.hidden_size),
            "down": matrix(c.hidden_size, c.intermediate_size),
        }
        weights |= {HF_LAYER_NAMES[field].format(n): weight for field, weight in layer.items()}
    return weights


def synthetic_config(
    *,
    num_layers: int = 2,
    hidden_size: int = 48,
    num_q_heads: int = 6,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    context_length: int = 512,
    rope_factors: tuple[float, ...] | None = None,
) -> LlamaConfig:
    """A small model with the byte vocabulary."""
    return LlamaConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_q_heads=num_q_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=len(_vocabulary()),
        context_length=context_length,
        rope_base=1e5,
        rope_factors=rope_factors,
    )


def write_gguf(path: Path, config: LlamaConfig, weights: dict[str, Weight]) -> None:
    """Write a GGUF file, unquantised, with the names and the interleaved order of that format."""
    c, tokens = config, _vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.num_layers)
    writer.add_context_length(c.context_length)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_q_heads)
    writer.add_head_count_kv(c.num_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    markers = (TURN, END_OF_TURN)
    writer.add_token_types([gguf.TokenType.CONTROL if t in markers else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges(list(_MERGES))
    writer.add_eos_token_id(tokens.index(END_OF_TURN))
    to_gguf = {HF_NAMES[field]: name for field, name in GGUF_NAMES.items()}
    for n in range(c.num_layers):
        to_gguf |= {HF_LAYER_NAMES[f].format(n): name.format(n) for f, name in GGUF_LAYER_NAMES.items()}
    for name, weight in weights.items():
        turned = to_interleaved(weight, c.head_dim) if name.endswith(("q_proj.weight", "k_proj.weight")) else weight
        writer.add_tensor(to_gguf[name], turned)
    if c.rope_factors is not None:
        writer.add_tensor(ROPE_FACTORS, np.array(c.rope_factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(directory: Path, config: LlamaConfig, weights: dict[str, Weight], **settings: object) -> None:
    """Write a Hugging Face directory with two weight files; `settings` are added to config.json."""
    c, tokens = config, _vocabulary()
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "model_type": "llama",
        "num_hidden_layers": c.num_layers,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_attention_heads": c.num_q_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "rope_theta": c.rope_base,
        "rms_norm_eps": c.norm_eps,
        "hidden_act": "silu",
        "eos_token_id": tokens.index(END_OF_TURN),
        **settings,
    }
    (directory / "config.json").write_text(json.dumps(document))
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: weights[name] for name in part}, directory / f"model-{number}.safetensors")
    tokenizer = byte_level_tokenizer(tokens, _MERGES, special=(TURN, END_OF_TURN), splitting="smollm")
    tokenizer.save(str(directory / "tokenizer.json"))
