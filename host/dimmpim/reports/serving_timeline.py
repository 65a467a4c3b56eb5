"""Timeline of a serving run for Perfetto and chrome://tracing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimmpim.reports.generation_timeline import name_event, span_event, trace_json
from pimhost.serving.outcome import Outcome
from pimhost.systems.base import ServingSystem

__all__ = ["serve_timeline"]

_PROCESS = 1
_TRACKS = ("iterations", "GPU at work", "attention device at work")


def serve_timeline(outcome: Outcome, system: type[ServingSystem]) -> str:
    """Trace Event Format, in simulated time: iterations, and beside them the busy times of GPU and PIM in each.

    Consecutive iterations with the same batch are one span, and work is drawn at its beginning: within an iteration,
    layers take turns. Counters show decoding requests, waiting requests, and the granted share of the memory.
    """
    tracks = _TRACKS if system.has_pim else _TRACKS[:2]
    left_out = f", first {len(outcome.spans):,} spans of {len(outcome.spans) + outcome.spans_left_out:,}"
    title = f"{system.name}, {outcome.workload.name}{left_out if outcome.spans_left_out else ''}"
    events: list[dict[str, Any]] = [name_event("process_name", _PROCESS, 0, title)]
    events += [name_event("thread_name", _PROCESS, number, track) for number, track in enumerate(tracks, 1)]
    capacity = max(1, outcome.geometry.num_pools * outcome.geometry.pool_units)
    for span in outcome.spans:
        begin = span.begin_ns / 1e3
        details = {
            "iterations": span.iterations, "decodes": span.decodes, "prefill_tokens": span.prefill_tokens,
            "waiting": span.waiting,
        }  # fmt: skip
        kind = "prefill and decode" if span.prefill_tokens and span.decodes else "decode" if span.decodes else "prefill"
        events.append(span_event(_PROCESS, 1, kind, begin, span.duration_ns / 1e3, details))
        for track, busy in ((2, span.gpu_ns), (3, span.pim_ns)):
            if busy and track <= len(tracks):
                events.append(span_event(_PROCESS, track, tracks[track - 1], begin, busy / 1e3, {}))
        counters = {"decoding": span.decodes, "waiting": span.waiting}
        events.append(_counter("requests", begin, counters))
        events.append(_counter("memory granted", begin, {"share": span.granted / capacity}))
    return trace_json(events)


def _counter(name: str, at: float, values: Mapping[str, float]) -> dict[str, Any]:
    return {"ph": "C", "name": name, "pid": _PROCESS, "tid": 0, "ts": at, "args": values}
