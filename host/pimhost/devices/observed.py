"""Observed device: the cost and time of each call, and the error of its outputs against float64."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pimspec.attention.shape import AttentionShape
from pimspec.hostif.device import Attention, DeviceClock, DeviceCost, Float16s, PimDevice

from ..reference import relative_l2_error

__all__ = ["DeviceCall", "ObservedDevice"]


@dataclass(frozen=True, kw_only=True)
class DeviceCall:
    """One call of :meth:`~pimspec.hostif.device.PimDevice.write_kv` or :meth:`~pimspec.hostif.device.PimDevice.attend`.

    Parameters
    ----------
    kind : str
        ``"write_kv"`` or ``"attend"``.
    layer : int
    tokens : int
        Tokens written, or attended to, over all requests.
    start, seconds : float
        Wall-clock time.
    cost : DeviceCost
    errors : tuple of float
        Relative L2 error of each head's output against float64, if it was computed.
    """

    kind: str
    layer: int
    tokens: int
    start: float
    seconds: float
    cost: DeviceCost
    errors: tuple[float, ...] = ()


class ObservedDevice:
    """Wrapper that forwards all calls to `device`, and reports each to `observe`.

    Parameters
    ----------
    device : PimDevice
    observe : callable
    shadow : PimDevice, optional
        A second device that gets the same vectors, for a comparison of outputs; `device` does not know of it.
    """

    def __init__(
        self, device: PimDevice, observe: Callable[[DeviceCall], None], shadow: PimDevice | None = None
    ) -> None:
        self.device, self.shadow, self._observe = device, shadow, observe
        self._tokens: dict[tuple[int, int], int] = {}

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def shape(self) -> AttentionShape:
        return self.device.shape

    @property
    def num_layers(self) -> int:
        return self.device.num_layers

    @property
    def max_tokens(self) -> int:
        return self.device.max_tokens

    @property
    def clock(self) -> DeviceClock:
        return self.device.clock

    @property
    def total(self) -> DeviceCost:
        return self.device.total

    def open(self, request: int) -> None:
        self.device.open(request)
        if self.shadow:
            self.shadow.open(request)

    def write_kv(self, request: int, layer: int, first_token: int, k: Float16s, v: Float16s) -> DeviceCost:
        start = time.perf_counter()
        cost = self.device.write_kv(request, layer, first_token, k, v)
        seconds = time.perf_counter() - start
        if self.shadow:
            self.shadow.write_kv(request, layer, first_token, k, v)
        self._tokens[request, layer] = first_token + k.shape[1]
        call = DeviceCall(kind="write_kv", layer=layer, tokens=k.shape[1], start=start, seconds=seconds, cost=cost)
        self._observe(call)
        return cost

    def attend(self, layer: int, queries: Mapping[int, Float16s]) -> Attention:
        start = time.perf_counter()
        result = self.device.attend(layer, queries)
        seconds = time.perf_counter() - start
        errors: list[float] = []
        if self.shadow:
            expected = self.shadow.attend(layer, queries).outputs
            for request, output in result.outputs.items():
                errors += relative_l2_error(output, expected[request]).tolist()
        call = DeviceCall(
            kind="attend",
            layer=layer,
            tokens=sum(self._tokens[request, layer] for request in queries),
            start=start,
            seconds=seconds,
            cost=result.cost,
            errors=tuple(errors),
        )
        self._observe(call)
        return result

    def release(self, request: int) -> None:
        self.device.release(request)
        if self.shadow:
            self.shadow.release(request)
        self._tokens = {key: n for key, n in self._tokens.items() if key[0] != request}

    def close(self) -> None:
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
