"""PIM device interface of a host, for any backend: a formula, the golden model, or the RTL of a rank.

A device holds K and V of *requests* (numbered slots) of one model: `num_layers` layers of one
:class:`~pimspec.attention.shape.AttentionShape`. Tokens are appended, layer by layer. A query attends to all tokens
that have been written in its layer, so K and V of the current token are written first. All vectors are float16, as on
the bus.

A decode step of several requests is one call of :meth:`PimDevice.attend` for each layer. A request takes part with one
query token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..attention.shape import AttentionShape
from ..params.pim_rank import PimRankParams

__all__ = ["Attention", "DeviceClock", "DeviceCost", "Float16s", "Float32s", "PimDevice"]

Float16s = NDArray[np.float16]
Float32s = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DeviceCost:
    """Cost of one call or of many; costs add up.

    Parameters
    ----------
    cycles : int or None
        Controller clocks from the first beat on the bus to the last; None where the backend has no time.
    bytes_streamed : int
        Bytes of K and V that the bank PUs have read, with padding beside the last token.
    host_bus_bytes : int
        Bytes that have crossed the bus between host and device. A backend without a bus counts the vectors alone.
    """

    cycles: int | None = None
    bytes_streamed: int = 0
    host_bus_bytes: int = 0

    def __add__(self, other: DeviceCost) -> DeviceCost:
        known = [c for c in (self.cycles, other.cycles) if c is not None]
        return DeviceCost(
            cycles=sum(known) if known else None,
            bytes_streamed=self.bytes_streamed + other.bytes_streamed,
            host_bus_bytes=self.host_bus_bytes + other.host_bus_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class DeviceClock:
    """Clock of a device, which converts cycles to time and to a share of the peak.

    Parameters
    ----------
    cycle_ps : int
    peak_bytes_per_cycle : float
        Bytes that all banks could read in a cycle.
    """

    cycle_ps: int
    peak_bytes_per_cycle: float

    @staticmethod
    def of_rank(params: PimRankParams) -> DeviceClock:
        """Controller clock of a rank; its peak is a column access of every bank each nCCD of a MAC."""
        p = params
        return DeviceClock(
            cycle_ps=int(p.timing.time_ps(p.ck_per_clock)),
            peak_bytes_per_cycle=p.num_banks * p.line_bytes * p.ck_per_clock / p.timing.nCCD_MAC,
        )


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention results of one layer.

    Parameters
    ----------
    outputs : mapping of int to array of shape (num_q_heads, head_dim)
        Normalised output of each request, as float32 of the value that the device delivers (16 bits from hardware).
    cost : DeviceCost
    """

    outputs: Mapping[int, Float32s]
    cost: DeviceCost


@runtime_checkable
class PimDevice(Protocol):
    """A device that keeps K and V and computes decode attention.

    Every method raises :class:`~pimspec.errors.ParameterError` for an unknown layer, arrays of a wrong shape or type,
    tokens out of turn, or a query of a layer without tokens. It raises :class:`~pimspec.errors.UnknownNameError` for a
    request that is not open. The state is unchanged then.
    """

    @property
    def name(self) -> str:
        """Name of the backend, such as ``"golden"``."""
        ...

    @property
    def shape(self) -> AttentionShape: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """Most tokens of one request that has the device to itself."""
        ...

    @property
    def clock(self) -> DeviceClock: ...

    @property
    def total(self) -> DeviceCost:
        """Cost of all calls so far."""
        ...

    def open(self, request: int) -> None:
        """Open a new request without tokens."""
        ...

    def write_kv(self, request: int, layer: int, first_token: int, k: Float16s, v: Float16s) -> DeviceCost:
        """Append tokens to a layer of a request, and return the cost.

        Parameters
        ----------
        request, layer : int
        first_token : int
            Number of tokens that the layer has.
        k, v : arrays of shape (num_kv_heads, n, head_dim)
            New tokens, with RoPE applied; n is 1 or more.

        Raises
        ------
        OutOfMemoryError
            If the tokens do not fit.
        """
        ...

    def attend(self, layer: int, queries: Mapping[int, Float16s]) -> Attention:
        """Attention of one query token of each request, over all its tokens in the layer.

        Parameters
        ----------
        layer : int
        queries : mapping of int to array of shape (num_q_heads, head_dim)
            Queries by request, with RoPE applied and not scaled.
        """
        ...

    def release(self, request: int) -> None:
        """Close a request and free its memory."""
        ...

    def close(self) -> None:
        """Release the device's resources on this machine; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
