"""cocotb driver and monitor for a valid/ready stream with one payload port."""

from __future__ import annotations

import random
from typing import Any

from cocotb.triggers import ReadOnly, RisingEdge

__all__ = ["StreamDriver", "StreamMonitor", "StreamProtocolError"]


class StreamProtocolError(AssertionError):
    """A stream that dropped `valid` or changed its payload while a beat waited."""


class StreamDriver:
    """Driver that offers beats on an input stream, with pauses between them by chance.

    Parameters
    ----------
    dut : handle
        With ports ``clk`` and ``<name>__payload/valid/ready``.
    name : str
    idle : float
        Chance per clock of not offering the next beat.
    rng : random.Random
    """

    def __init__(self, dut: Any, name: str, *, idle: float, rng: random.Random) -> None:
        self._clock = dut.clk
        self._payload, self._valid, self._ready = (getattr(dut, f"{name}__{s}") for s in ("payload", "valid", "ready"))
        self._idle, self._rng = idle, rng
        self._valid.value = 0
        self._payload.value = 0

    async def send(self, beats: list[int], max_idle_clocks: int = 1000) -> None:
        """Transfer all `beats`; returns after the clock edge that takes the last.

        Raises TimeoutError if one is not taken for `max_idle_clocks`.
        """
        for number, beat in enumerate(beats):
            while self._rng.random() < self._idle:
                await RisingEdge(self._clock)
            self._payload.value = beat
            self._valid.value = 1
            for _ in range(max_idle_clocks):
                await ReadOnly()
                taken = bool(self._ready.value)
                await RisingEdge(self._clock)
                if taken:
                    break
            else:
                raise TimeoutError(f"beat {number} of {len(beats)} was not taken for {max_idle_clocks} clocks")
            self._valid.value = 0


class StreamMonitor:
    """Monitor that takes beats from an output stream, refuses by chance, and checks the stream rules at every clock.

    Parameters
    ----------
    refuse : float
        Chance per clock of holding `ready` low.
    """

    def __init__(self, dut: Any, name: str, *, refuse: float, rng: random.Random) -> None:
        self._clock = dut.clk
        self._payload, self._valid, self._ready = (getattr(dut, f"{name}__{s}") for s in ("payload", "valid", "ready"))
        self._refuse, self._rng = refuse, rng
        self._ready.value = 0
        self.beats: list[int] = []

    async def collect(self, count: int, max_idle_clocks: int = 1000) -> list[int]:
        """The next `count` beats; raises :class:`StreamProtocolError`, or TimeoutError after `max_idle_clocks`."""
        held: int | None = None
        quiet = 0
        while len(self.beats) < count:
            ready = self._rng.random() >= self._refuse
            self._ready.value = int(ready)
            await ReadOnly()
            valid = bool(self._valid.value)
            payload = self._payload.value.to_unsigned() if valid else None
            if held is not None and payload != held:
                raise StreamProtocolError(f"beat {len(self.beats)}: {held:#x} waited, then {payload!r} was seen")
            held = payload if valid and not ready else None
            if payload is not None and ready:
                self.beats.append(payload)
            quiet = 0 if valid else quiet + 1
            if quiet > max_idle_clocks:
                raise TimeoutError(f"no beat for {max_idle_clocks} clocks after {len(self.beats)} of {count}")
            await RisingEdge(self._clock)
        self._ready.value = 0
        return self.beats
