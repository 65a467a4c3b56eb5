"""Options that several commands take, and their values."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dimmpim.ranks import RANKS
from pimspec.errors import ParameterError, require

__all__ = ["model_path_option", "require_folder", "step_backend_option", "token_counts"]

model_path_option = click.option(
    "--model",
    "model_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Llama-architecture GGUF file, or directory with safetensors; by default SmolLM2-135M-Instruct as installed.",
)


step_backend_option = click.option(
    "--backend",
    type=click.Choice(RANKS),
    default="rtl",
    show_default=True,
    help="The RTL with its data, or its timing model: the same clocks in seconds.",
)


def require_folder(option: str, path: Path | None) -> None:
    """That a file can be written there: before the work, not after it."""
    if path is not None:
        ok = path.parent.is_dir() and os.access(path.parent, os.W_OK)
        require(ok, option, str(path), "a file in a folder that exists and can be written to")


def token_counts(text: str) -> list[int]:
    """Numbers of tokens, with commas between them."""
    try:
        tokens = [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"--tokens must be numbers with commas between them, not {text!r}") from None
    for count in tokens:
        require(count >= 1, "--tokens", count, "1 or more")
    return tokens
