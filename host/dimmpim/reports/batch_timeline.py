"""Timeline of a batch for Perfetto and chrome://tracing: overlaps in simulated time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dimmpim.reports.generation_timeline import activity_events, name_event, span_event, trace_json
from pimhost.batch.plan import BatchRun, Phase

__all__ = ["batch_timeline_json"]

_GPU, _CHANNEL, _WORK = 1, 2, 1


def batch_timeline_json(runs: Sequence[BatchRun]) -> str:
    """Trace Event Format; each run has a process with GPU and channel, and one for each rank; all begin at 0.

    The first thread of a rank shows the sub-batch that it works for. The others show the rank's
    :class:`~pimhost.batch.activity.RankActivity`.
    """
    events: list[dict[str, Any]] = []
    process = 0
    for run in runs:
        process += 1
        host, count = process, run.mode.ranks
        title = f"{run.mode.name}, {count} rank{'s' if count > 1 else ''}"
        events.append(name_event("process_name", host, 0, f"{title}: host"))
        events += [name_event("thread_name", host, _GPU, "GPU"), name_event("thread_name", host, _CHANNEL, "channel")]
        for number in range(count):
            process += 1
            events.append(name_event("process_name", process, 0, f"{title}: rank {number}"))
            events.append(name_event("thread_name", process, _WORK, "attention"))
            if run.activity:
                events += activity_events(run.activity[number], run.cycle_ps, process, _WORK + 1)
        for phase in run.phases:
            place = {"gpu": (host, _GPU), "channel": (host, _CHANNEL)}.get(phase.resource)
            process_of, thread = place or (host + 1 + (phase.rank or 0), _WORK)
            start, duration = (n * run.cycle_ps / 1e6 for n in (phase.start, phase.end - phase.start))
            events.append(span_event(process_of, thread, _name(phase), start, duration, _details(phase)))
    return trace_json(events)


def _name(phase: Phase) -> str:
    where = f", rank {phase.rank}" if phase.resource == "channel" else ""
    kind = "" if phase.resource == "rank" else f"{phase.kind}, "
    return f"{kind}sub-batch {phase.sub_batch}, layer {phase.layer}{where}"


def _details(phase: Phase) -> dict[str, Any]:
    return {"sub_batch": phase.sub_batch, "step": phase.step, "layer": phase.layer, "clocks": phase.end - phase.start}
