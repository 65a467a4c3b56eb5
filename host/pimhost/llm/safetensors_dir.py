"""Reader of Llama-architecture Hugging Face directories: config.json, *.safetensors and tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from tokenizers import Tokenizer

from pimspec.errors import ParameterError, require

from .config import LlamaConfig, LlamaWeights, Weight, llama3_rope_factors, to_interleaved
from .tokenizer import TextTokenizer

__all__ = ["HF_LAYER_NAMES", "HF_NAMES", "load_safetensors"]

HF_NAMES = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight", "output": "lm_head.weight"}
_LAYER = "model.layers.{}."
HF_LAYER_NAMES = {
    "attention_norm": _LAYER + "input_layernorm.weight",
    "q": _LAYER + "self_attn.q_proj.weight",
    "k": _LAYER + "self_attn.k_proj.weight",
    "v": _LAYER + "self_attn.v_proj.weight",
    "o": _LAYER + "self_attn.o_proj.weight",
    "ffn_norm": _LAYER + "post_attention_layernorm.weight",
    "gate": _LAYER + "mlp.gate_proj.weight",
    "up": _LAYER + "mlp.up_proj.weight",
    "down": _LAYER + "mlp.down_proj.weight",
}
_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def load_safetensors(directory: Path) -> tuple[LlamaConfig, LlamaWeights, TextTokenizer]:
    """Configuration, weights and tokenizer from a Hugging Face directory.

    Raises
    ------
    ParameterError
        If a file is missing or damaged, or the model is of another architecture.
    """
    settings = _read_json(directory / "config.json")
    config = _config(settings)
    tensors = _read_tensors(directory)

    def get(name: str) -> Weight:
        require(name in tensors, f"{directory.name}", f"one without {name}", "a directory with all tensors")
        return _to_float32(name, tensors[name])

    extra = sorted(name for name in tensors if name.endswith(".bias"))
    require(not extra, f"tensors of {directory.name}", extra[:3], "those of a Llama without biases")
    weights = LlamaWeights.load(
        config,
        get,
        HF_NAMES,
        HF_LAYER_NAMES,
        tied=HF_NAMES["output"] not in tensors,
        prepare_qk=lambda weight: to_interleaved(weight, config.head_dim),
    )
    return config, weights, _tokenizer(directory, settings)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ParameterError(f"{path.parent} must be a directory with {path.name}") from None
    except ValueError as error:
        raise ParameterError(f"{path} is not readable JSON: {error}") from None
    require(isinstance(document, dict), str(path), type(document).__name__, "a JSON object")
    return dict(document)


def _read_tensors(directory: Path) -> dict[str, dict[str, Any]]:
    files = sorted(directory.glob("*.safetensors"))
    require(len(files) > 0, str(directory), "one without", "a directory with *.safetensors")
    tensors: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            tensors.update(deserialize(file.read_bytes()))
        except SafetensorError as error:
            raise ParameterError(f"{file} is not a readable safetensors file, or is cut off ({error})") from None
    return tensors


def _to_float32(name: str, tensor: dict[str, Any]) -> Weight:
    kind = tensor["dtype"]
    require(kind in _TYPES, f"type of tensor {name}", kind, f"one of {', '.join(_TYPES)}")
    array = np.frombuffer(tensor["data"], _TYPES[kind]).reshape(tensor["shape"])
    if kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _config(settings: dict[str, Any]) -> LlamaConfig:
    def get(key: str, default: Any = None) -> Any:
        value = settings.get(key)
        require(value is not None or default is not None, "config.json", f"one without {key}", "complete")
        return default if value is None else value

    kind = settings.get("model_type")
    require(kind == "llama", "model_type in config.json", kind, "llama")
    activation = get("hidden_act", "silu")
    require(activation == "silu", "hidden_act in config.json", activation, "silu")
    hidden, heads = get("hidden_size"), get("num_attention_heads")
    require(isinstance(heads, int) and heads >= 1, "num_attention_heads", heads, "1 or more")
    head_dim = get("head_dim", hidden // heads)
    # Newer files keep both under rope_parameters.
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    base = settings.get("rope_theta") or rope.get("rope_theta", 10_000.0)
    return LlamaConfig(
        num_layers=get("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=get("intermediate_size"),
        num_q_heads=heads,
        num_kv_heads=get("num_key_value_heads", heads),
        head_dim=head_dim,
        vocab_size=get("vocab_size"),
        context_length=get("max_position_embeddings"),
        rope_base=base,
        norm_eps=get("rms_norm_eps", 1e-6),
        rope_factors=_rope_factors(rope, head_dim, base),
    )


def _rope_factors(rope: dict[str, Any], head_dim: int, base: float) -> tuple[float, ...] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    require(kind in ("default", "llama3"), "rope scaling in config.json", kind, "default or llama3")
    if kind == "default":
        return None
    try:
        return llama3_rope_factors(
            head_dim,
            base,
            factor=rope["factor"],
            low=rope["low_freq_factor"],
            high=rope["high_freq_factor"],
            original_length=rope["original_max_position_embeddings"],
        )
    except KeyError as error:
        raise ParameterError(f"rope scaling in config.json lacks {error}") from None


def _tokenizer(directory: Path, settings: dict[str, Any]) -> TextTokenizer:
    path = directory / "tokenizer.json"
    require(path.exists(), str(directory), "one without", f"a directory with {path.name}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ParameterError(f"{path} is not a readable tokenizer: {error}") from None
    eos = settings.get("eos_token_id")
    stops = [] if eos is None else eos if isinstance(eos, list) else [eos]
    return TextTokenizer(tokenizer, stop_token_ids=stops)
