"""Models: the shapes of language models by name."""

from __future__ import annotations

from collections.abc import Mapping

from pimhost.models import MODELS, ModelShape, shape_named

__all__ = ["model", "models"]


def model(name: str) -> ModelShape:
    """The shape of a model.

    Parameters
    ----------
    name : str
        A name of :func:`models`, an alias, or the path of a Hugging Face ``config.json`` or of its folder.

    Raises
    ------
    UnknownNameError
        The text lists the names that exist.
    ParameterError
        If the file does not describe a dense decoder.

    Examples
    --------
    >>> import dimmpim
    >>> llama = dimmpim.model("Llama-3.1-8B")
    >>> llama.num_layers, llama.num_q_heads, llama.num_kv_heads, llama.head_dim
    (32, 32, 8, 128)
    """
    return shape_named(name)


def models() -> Mapping[str, ModelShape]:
    """All models that have a name.

    Returns
    -------
    mapping of str to ModelShape

    Examples
    --------
    >>> import dimmpim
    >>> dimmpim.models()["GPT-175B"].num_layers
    96
    """
    return MODELS
