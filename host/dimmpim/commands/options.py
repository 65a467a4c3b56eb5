"""Values of options that several commands take."""

from __future__ import annotations

from pimspec.errors import ParameterError, require

__all__ = ["token_counts"]


def token_counts(text: str) -> list[int]:
    """Numbers of tokens, with commas between them."""
    try:
        tokens = [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"--tokens must be numbers with commas between them, not {text!r}") from None
    for count in tokens:
        require(count >= 1, "--tokens", count, "1 or more")
    return tokens
