"""Layerwise decode: the caller supplies the attention output of each layer when it is ready."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from pimspec.hostif.device import Float16s, Float32s

from .llama import Llama, _to_float16

__all__ = ["LayerVectors", "LayerwiseLlama"]


class LayerVectors(NamedTuple):
    """Attention inputs of a new token in one layer, in the format sent to a device.

    Parameters
    ----------
    q : array of shape (num_q_heads, head_dim)
    k, v : arrays of shape (num_kv_heads, 1, head_dim)
    """

    q: Float16s
    k: Float16s
    v: Float16s


class LayerwiseLlama(Llama):
    """A Llama whose :meth:`decode_layers` gives the same numbers as :meth:`decode`, one layer at a time."""

    def decode_layers(self, token_id: int, position: int) -> Generator[LayerVectors, Float32s, Float32s]:
        """Generator that decodes one token at `position`.

        It yields the vectors of each layer. After each, it must be sent the attention output, of shape (num_q_heads,
        head_dim). It returns the logits, shape (vocab_size,).
        """
        turns = self._turns(np.array([position]))
        x = self.weights.embedding[[token_id]]
        for number, layer in enumerate(self.weights.layers):
            q, k, v = self._project(layer, x, turns)
            vectors = (_to_float16(a, what, number) for a, what in ((q, "Q"), (k, "K"), (v, "V")))
            q16, k16, v16 = vectors
            o = yield LayerVectors(q16[:, 0], k16, v16)
            x = self._finish_layer(layer, x, o.reshape(1, -1))
        return self._logits(x)[0]
