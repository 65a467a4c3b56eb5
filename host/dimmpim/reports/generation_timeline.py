"""Timeline of a generation for Perfetto and chrome://tracing."""

from __future__ import annotations

import json
from typing import Any

from dimmpim.studies.generation import GenerateRun
from pimhost.batch.activity import RankActivity

__all__ = ["activity_events", "name_event", "span_event", "timeline_json", "trace_json"]

_HOST, _DEVICE = 1, 2


def timeline_json(run: GenerateRun) -> str:
    """Trace Event Format, one event a line.

    Process "host" has wall time: a span for each token, and beside it one for each call of the device, with its costs.
    Process "device", if the backend has time, has simulated time: the same calls one after another, as if the host took
    none. Beside them it has the spans of :class:`~pimhost.batch.activity.RankActivity`.
    """
    events: list[dict[str, Any]] = [
        name_event("process_name", _HOST, 0, "host (wall time)"),
        name_event("thread_name", _HOST, 1, "tokens"),
        name_event("thread_name", _HOST, 2, "calls of the device"),
    ]
    if run.clock and any(step.cycles is not None for step in run.steps):
        events += [name_event("process_name", _DEVICE, 0, "device (simulated time)")]
        events += [name_event("thread_name", _DEVICE, 1, "calls")]
    end = 0.0
    for number, step in enumerate(run.steps):
        title = "prefill" if number == 0 else f"token {number}"
        begin = (step.token.start - run.start) * 1e6
        events.append(span_event(_HOST, 1, title, begin, step.token.seconds * 1e6, {"text": step.text}))
        for call in step.calls:
            name = f"{call.kind}, layer {run.layers[call.layer]}"
            details = {"tokens": call.tokens, "cycles": call.cost.cycles, "bytes_streamed": call.cost.bytes_streamed}
            details["host_bus_bytes"] = call.cost.host_bus_bytes
            events.append(span_event(_HOST, 2, name, (call.start - run.start) * 1e6, call.seconds * 1e6, details))
            if run.clock and call.cost.cycles is not None:
                duration = call.cost.cycles * run.clock.cycle_ps / 1e6
                events.append(span_event(_DEVICE, 1, name, end, duration, details))
                end += duration
    if run.clock and run.activity:
        events += activity_events(run.activity, run.clock.cycle_ps, _DEVICE, 2)
    return trace_json(events)


def activity_events(activity: RankActivity, cycle_ps: int, process: int, first_thread: int) -> list[dict[str, Any]]:
    """Events of a rank's activity, a thread for each track."""
    tracks = {track: number for number, track in enumerate(activity.tracks, first_thread)}
    events = [name_event("thread_name", process, number, track) for track, number in tracks.items()]
    for span in activity.spans:
        start, duration = (n * cycle_ps / 1e6 for n in (span.start, span.end - span.start))
        name = span.track.rsplit(": ", 1)[-1]
        events.append(span_event(process, tracks[span.track], name, start, duration, {"count": span.count}))
    return events


def trace_json(events: list[dict[str, Any]]) -> str:
    """Content of the file: names first, then spans in order of time."""
    ordered = sorted(events, key=lambda event: event.get("ts", -1.0))
    return '{"traceEvents": [\n' + ",\n".join(map(json.dumps, ordered)) + "\n]}\n"


def name_event(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    """Event that names a process or thread."""
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def span_event(
    process: int, thread: int, name: str, start: float, duration: float, details: dict[str, Any]
) -> dict[str, Any]:
    """Event of a span; times in microseconds."""
    return {"ph": "X", "name": name, "pid": process, "tid": thread, "ts": start, "dur": duration, "args": details}
