"""Llama forward pass in float32 NumPy ("the GPU side"); devices compute its decode attention.

Prefill computes its attention here, from K and V as rounded to float16. It writes them to the devices and keeps nothing
of them. Decode writes K and V of the new token, then asks for attention: q, K and V go to a device as float16, and o
comes back as float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pimspec.errors import ParameterError, require
from pimspec.hostif.device import Float16s, Float32s, PimDevice

from .config import LayerWeights, LlamaConfig, LlamaWeights

__all__ = ["LayerDevices", "Llama"]

_QUERIES_AT_ONCE = 256


class LayerDevices:
    """Assignment of a model's layers to the devices that hold their K and V.

    Parameters
    ----------
    num_layers : int
        Layers of the model.
    pim_layers : sequence of int
        Layers on `pim`; layer i of that device is the i-th of them.
    pim, host : PimDevice or None
        `host` holds the other layers; a device without layers may be None.
    """

    def __init__(
        self, num_layers: int, pim_layers: Sequence[int], pim: PimDevice | None, host: PimDevice | None
    ) -> None:
        chosen = sorted(set(pim_layers))
        others = [n for n in range(num_layers) if n not in set(chosen)]
        self.devices = [device for device, layers in ((pim, chosen), (host, others)) if device is not None and layers]
        self._of: dict[int, tuple[PimDevice, int]] = {}
        for device, layers in ((pim, chosen), (host, others)):
            require(device is not None or not layers, "device", None, f"one for layers {layers[:3]}")
            if device is not None and layers:
                require(device.num_layers == len(layers), "layers of the device", device.num_layers, f"{len(layers)}")
                self._of |= {layer: (device, n) for n, layer in enumerate(layers)}

    @property
    def max_tokens(self) -> int:
        """Most tokens of one request that has the devices to itself."""
        return min(device.max_tokens for device in self.devices)

    def open(self, request: int) -> None:
        for device in self.devices:
            device.open(request)

    def release(self, request: int) -> None:
        for device in self.devices:
            device.release(request)

    def write_kv(self, request: int, layer: int, first_token: int, k: Float16s, v: Float16s) -> None:
        device, number = self._of[layer]
        device.write_kv(request, number, first_token, k, v)

    def attend(self, request: int, layer: int, q: Float16s) -> Float32s:
        device, number = self._of[layer]
        return device.attend(number, {request: q}).outputs[request]


class Llama:
    """A Llama with its forward pass.

    Parameters
    ----------
    config : LlamaConfig
    weights : LlamaWeights
    """

    def __init__(self, config: LlamaConfig, weights: LlamaWeights) -> None:
        self.config, self.weights = config, weights
        frequency = config.rope_base ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
        self._frequency = frequency / (1.0 if config.rope_factors is None else np.array(config.rope_factors))

    def prefill(self, token_ids: Sequence[int], devices: LayerDevices, request: int) -> Float32s:
        """Logits after the last token of a prompt, shape (vocab_size,); K and V of all layers go to the devices."""
        c, count = self.config, len(token_ids)
        require(count >= 1, "tokens of the prompt", count, "1 or more")
        turns = self._turns(np.arange(count))
        x = self.weights.embedding[np.asarray(token_ids)]
        for number, layer in enumerate(self.weights.layers):
            q, k, v = self._project(layer, x, turns)
            k16, v16 = _to_float16(k, "K", number), _to_float16(v, "V", number)
            devices.write_kv(request, number, 0, k16, v16)
            o = _causal_attention(q, k16.astype(np.float32), v16.astype(np.float32), c.head_dim**-0.5)
            x = self._finish_layer(layer, x, o)
        return self._logits(x[-1:])[0]

    def decode(self, token_id: int, position: int, devices: LayerDevices, request: int) -> Float32s:
        """Logits after one more token at `position`, shape (vocab_size,)."""
        turns = self._turns(np.array([position]))
        x = self.weights.embedding[[token_id]]
        for number, layer in enumerate(self.weights.layers):
            q, k, v = self._project(layer, x, turns)
            devices.write_kv(request, number, position, _to_float16(k, "K", number), _to_float16(v, "V", number))
            o = devices.attend(request, number, _to_float16(q, "Q", number)[:, 0])
            x = self._finish_layer(layer, x, o.reshape(1, -1))
        return self._logits(x)[0]

    def _turns(self, positions: np.ndarray) -> tuple[Float32s, Float32s]:
        """Rotary cosine and sine of each pair, shape (n, head_dim / 2)."""
        angle = positions[:, None] * self._frequency
        return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def _project(
        self, layer: LayerWeights, x: Float32s, turns: tuple[Float32s, Float32s]
    ) -> tuple[Float32s, Float32s, Float32s]:
        """q, k, v of shape (heads, n, head_dim), with q and k rotated by their positions."""
        h = _rms_norm(x, layer.attention_norm, self.config.norm_eps)
        q, k, v = (
            (h @ w.T).reshape(len(x), -1, self.config.head_dim).swapaxes(0, 1) for w in (layer.q, layer.k, layer.v)
        )
        return _rotate(q, *turns), _rotate(k, *turns), v

    def _finish_layer(self, layer: LayerWeights, x: Float32s, o: Float32s) -> Float32s:
        """Hidden state after output projection and feed-forward; `o` has shape (n, num_q_heads * head_dim)."""
        x = x + o @ layer.o.T
        h = _rms_norm(x, layer.ffn_norm, self.config.norm_eps)
        gate = h @ layer.gate.T
        with np.errstate(over="ignore"):  # exp of a large number: the gate is 0
            gate = gate / (1 + np.exp(-gate))
        return x + (gate * (h @ layer.up.T)) @ layer.down.T

    def _logits(self, x: Float32s) -> Float32s:
        return _rms_norm(x, self.weights.norm, self.config.norm_eps) @ self.weights.output.T


def _rms_norm(x: Float32s, weight: Float32s, eps: float) -> Float32s:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * weight


def _rotate(x: Float32s, cos: Float32s, sin: Float32s) -> Float32s:
    """x with each pair (2i, 2i + 1) rotated; shape (heads, n, head_dim)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def _to_float16(x: Float32s, what: str, layer: int) -> Float16s:
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        raise ParameterError(f"{what} of layer {layer} has a number beyond the range of FP16")
    return half


def _causal_attention(q: Float32s, k: Float32s, v: Float32s, scale: float) -> Float32s:
    """Causal attention: (num_q_heads, n, d), (num_kv_heads, n, d) to (n, num_q_heads * d); token t sees tokens 0..t."""
    heads, count, dim = q.shape
    grouped = q.reshape(len(k), -1, count, dim) * np.float32(scale)
    output = np.empty((count, heads, dim), np.float32)
    for first in range(0, count, _QUERIES_AT_ONCE):
        end = min(first + _QUERIES_AT_ONCE, count)
        scores = grouped[:, :, first:end] @ k[:, None, :end].swapaxes(-1, -2)
        scores[..., np.arange(end) > np.arange(first, end)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        output[first:end] = (weights @ v[:, None, :end]).reshape(heads, end - first, dim).swapaxes(0, 1)
    return output.reshape(count, -1)
