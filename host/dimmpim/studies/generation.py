"""Measured generation: tokens with the device's calls for each, and figures over all."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from dimmpim.ranks import open_device
from pimhost.batch.activity import RankActivity
from pimhost.devices.observed import DeviceCall, ObservedDevice
from pimhost.devices.stored import ReferenceDevice
from pimhost.driver.rank_device import RankDevice
from pimhost.llm.generate import GeneratedToken, generate
from pimhost.llm.llama import LayerDevices
from pimspec.attention.shape import AttentionShape
from pimspec.errors import require
from pimspec.hostif.device import DeviceClock, DeviceCost
from pimspec.params.pim_rank import PimRankParams
from pimspec.params.presets import Preset

if TYPE_CHECKING:  # its libraries are slow to import
    from pimhost.llm.load import LoadedModel

__all__ = ["GenerateRun", "Step", "parse_layers", "run_generate"]


def parse_layers(text: str, num_layers: int) -> tuple[int, ...]:
    """Layer numbers from ``"all"``, ``"none"``, or numbers and ranges such as ``"0-3,7"``."""
    if text in ("all", "none"):
        return tuple(range(num_layers)) if text == "all" else ()
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        require(first <= last, "--layers-on-pim", text, "all, none, or such as 0-3,7")
        require(last < num_layers, "a layer of --layers-on-pim", last, f"0..{num_layers - 1}")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


@dataclass(frozen=True, kw_only=True)
class Step:
    """A token, and the calls of the device that led to it; the first step is prefill."""

    token: GeneratedToken
    text: str
    calls: Sequence[DeviceCall]

    def cost(self, kind: str | None = None) -> DeviceCost:
        """Cost of all calls, or of those of a kind."""
        return reduce(add, (c.cost for c in self.calls if kind in (None, c.kind)), DeviceCost())

    @property
    def cycles(self) -> int | None:
        return self.cost().cycles


@dataclass(kw_only=True)
class GenerateRun:
    """Result of a generation; figures "per token" are means over the decode steps.

    Parameters
    ----------
    layers : tuple of int
        Layers on the device.
    prompt_ids : list of int
    stop_ids : frozenset of int
    clock : DeviceClock or None
        Clock of the device; None if no layer is on a device.
    kv_token_bytes : int
        Bytes of K and V of one token in one layer.
    start : float
        Wall-clock start.
    shape : AttentionShape or None
        Shape of a layer.
    rank : PimRankParams or None
        Rank of the device, or that the backend stands for.
    activity : RankActivity or None
        Activity of the device, if it was requested and there is a rank.
    steps : list of Step
    wall_seconds : float
        Time from the first token of the prompt to the last one of the answer, the check against float64 included.
    """

    layers: tuple[int, ...]
    prompt_ids: list[int]
    stop_ids: frozenset[int]
    clock: DeviceClock | None
    kv_token_bytes: int
    start: float
    shape: AttentionShape | None = None
    rank: PimRankParams | None = None
    activity: RankActivity | None = None
    steps: list[Step] = field(default_factory=list)
    wall_seconds: float = 0.0

    @property
    def output_ids(self) -> list[int]:
        return [step.token.token_id for step in self.steps]

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)

    def figures(self) -> dict[str, Any]:
        """All figures, as in ``docs/generate-json.md``."""
        prefill, decodes = self.steps[0], self.steps[1:]
        zero, count = DeviceCost(), len(decodes)
        cost = reduce(add, (step.cost() for step in decodes), zero)
        attend = reduce(add, (step.cost("attend") for step in decodes), zero)
        calls = [call for step in self.steps for call in step.calls]
        total = reduce(add, (call.cost for call in calls), zero)
        device_seconds = sum(call.seconds for call in calls)
        decode_seconds = sum(step.token.seconds for step in decodes)
        live = self.kv_token_bytes * sum(c.tokens for step in decodes for c in step.calls if c.kind == "attend")
        cycle_ps = self.clock.cycle_ps if self.clock else None

        def per_token(number: float | None) -> float | None:
            return number / count if count and number is not None else None

        cycles_per_token = per_token(cost.cycles)
        utilization = None
        if attend.cycles and self.clock:
            utilization = live / (attend.cycles * self.clock.peak_bytes_per_cycle)
        return {
            "prompt_tokens": len(self.prompt_ids),
            "output_tokens": len(self.steps),
            "stop_reason": "end" if self.output_ids[-1] in self.stop_ids else "length",
            "cycles_per_token": cycles_per_token,
            "ns_per_token": None if cycles_per_token is None or not cycle_ps else cycles_per_token * cycle_ps / 1000,
            "utilization_of_peak": utilization,
            "bytes_streamed_per_token": per_token(cost.bytes_streamed),
            "host_bus_bytes_per_token": per_token(cost.host_bus_bytes),
            "prefill_cycles": prefill.cycles,
            "prefill_host_bus_bytes": prefill.cost().host_bus_bytes,
            "simulated_cycles": total.cycles,
            "simulated_cycles_per_second": total.cycles / device_seconds if total.cycles and device_seconds else None,
            "tokens_per_second": count / decode_seconds if count else None,
            "prefill_seconds": prefill.token.seconds,
            "wall_seconds": self.wall_seconds,
        }

    def layer_errors(self) -> list[dict[str, Any]]:
        """Relative L2 error of a head's output against float64, for each layer on the device."""
        errors: dict[int, list[float]] = {}
        for step in self.steps:
            for call in step.calls:
                errors.setdefault(call.layer, []).extend(call.errors)
        return [
            {
                "layer": self.layers[number],
                "median_rel_l2_error": float(np.median(found)),
                "max_rel_l2_error": float(np.max(found)),
            }
            for number, found in sorted(errors.items())
            if found
        ]


def run_generate(
    loaded: LoadedModel,
    prompt_ids: list[int],
    num_tokens: int,
    *,
    backend: str,
    preset: Preset,
    layers: tuple[int, ...],
    stop: bool = True,
    check: bool = True,
    watch: bool = False,
    on_open: Callable[[], None] = lambda: None,
    on_step: Callable[[Step], None] = lambda step: None,
    on_call: Callable[[DeviceCall], None] = lambda call: None,
) -> GenerateRun:
    """Record of a generation.

    Parameters
    ----------
    loaded : LoadedModel
    prompt_ids : list of int
    num_tokens : int
        Most tokens of the answer.
    backend : str
        Backend name: see :mod:`dimmpim.ranks`.
    preset : Preset
        Preset; its rank is fitted to the model.
    layers : tuple of int
        Layers on the device; the host computes the others in float64, with K and V of its own.
    stop : bool
        True to stop at the end of the answer.
    check : bool
        True to compute the device's layers in float64 as well.
    watch : bool
        True to collect the activity of the device's rank.
    on_open, on_step, on_call : callable
        Called once the device is open, with each token, and after each call of the device.

    Raises
    ------
    PimError
    """
    config, tokenizer = loaded.model.config, loaded.tokenizer
    shape = config.shape
    require(preset.format == shape.format, "format of the preset", preset.format.name, "fp16, that of K and V")
    rank = preset.rank.for_shape(shape).with_dpa()
    calls: list[DeviceCall] = []

    def observe(call: DeviceCall) -> None:
        calls.append(call)
        on_call(call)

    with ExitStack() as stack:
        pim = host = activity = None
        if layers:
            shadow = ReferenceDevice(rank, shape, len(layers)) if check else None
            device = stack.enter_context(open_device(backend, rank, shape, len(layers)))
            if watch and isinstance(device, RankDevice):
                activity = RankActivity()
                activity.watch(device)
            pim = ObservedDevice(device, observe, shadow)
        if len(layers) < config.num_layers:
            host = ReferenceDevice(rank, shape, config.num_layers - len(layers))
        on_open()
        run = GenerateRun(
            layers=layers,
            prompt_ids=prompt_ids,
            stop_ids=tokenizer.stop_token_ids,
            clock=pim.clock if pim else None,
            kv_token_bytes=shape.kv_bytes(1),
            start=time.perf_counter(),
            shape=shape,
            rank=rank,
            activity=activity,
        )
        devices = LayerDevices(config.num_layers, layers, pim, host)
        stream, stop_ids = tokenizer.stream(), tokenizer.stop_token_ids if stop else frozenset[int]()
        for token in generate(loaded.model, devices, prompt_ids, num_tokens, stop_ids=stop_ids):
            step = Step(token=token, text=stream.add(token.token_id), calls=tuple(calls))
            calls.clear()
            run.steps.append(step)
            on_step(step)
        run.wall_seconds = time.perf_counter() - run.start
    return run
