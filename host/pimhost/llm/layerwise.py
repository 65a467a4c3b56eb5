"""Decode one layer at a time: whoever drives it fetches the attention of a layer when and where it likes."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from pimspec.hostif.device import Float16s, Float32s

from .llama import Llama, _to_float16

__all__ = ["LayerVectors", "LayerwiseLlama"]


class LayerVectors(NamedTuple):
    """Of a new token in one layer, as they go to a device.

    Parameters
    ----------
    q : array of shape (num_q_heads, head_dim)
    k, v : arrays of shape (num_kv_heads, 1, head_dim)
    """

    q: Float16s
    k: Float16s
    v: Float16s


class LayerwiseLlama(Llama):
    """The same model; :meth:`decode_layers` computes what :meth:`decode` does, number for number."""

    def decode_layers(self, token_id: int, position: int) -> Generator[LayerVectors, Float32s, Float32s]:
        """One more token at `position`.

        Yields the vectors of each layer, for each of which it must be sent the output of attention, of shape
        (num_q_heads, head_dim); returns the logits, shape (vocab_size,).
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
