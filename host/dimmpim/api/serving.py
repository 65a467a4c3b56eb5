"""Serving systems under requests: one of them, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dimmpim.api.models import model as model_named
from dimmpim.api.serving_results import Comparison, ServeResult
from dimmpim.studies.comparison import Job, faults_told, run_jobs
from pimhost.models import ModelShape
from pimhost.serving.figures import ServeFigures
from pimhost.serving.outcome import Outcome
from pimhost.serving.replicas import serve as run_serve
from pimhost.serving.simulator import Admission
from pimhost.systems.base import ServingSystem
from pimhost.systems.node import DGX_A100, Node
from pimhost.systems.registry import SYSTEMS, system_named
from pimhost.workloads.lengths import synthetic_workload
from pimhost.workloads.readers import read_trace
from pimhost.workloads.workload import Workload, with_arrival_rate
from pimspec.errors import require

__all__ = ["Comparison", "ServeResult", "compare", "run_comparison", "run_serving", "serve", "systems", "until_ns_of"]
__all__ += ["workload"]


def systems() -> tuple[str, ...]:
    """Names of the serving systems of this package.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> import dimmpim
    >>> "L3" in dimmpim.systems()
    True
    """
    return tuple(SYSTEMS)


def workload(
    *,
    trace: Path | str | None = None,
    trace_format: str | None = None,
    lengths: str | None = None,
    num_requests: int | None = None,
    rate: float | None = None,
    seed: int = 1,
) -> Workload:
    """Requests from a trace, or with synthetic lengths.

    Parameters
    ----------
    trace : path, optional
        A trace, plain or gzip; either this or `lengths`.
    trace_format : str, optional
        Recognised if left out.
    lengths : str, optional
        A data set whose mean and deviation of lengths are drawn: ``"OpenR1"``, ``"Dolphin-r1"``, ``"OpenThoughts"``.
    num_requests : int, optional
        All of a trace, or 1000, if left out.
    rate : float, optional
        Requests a second of a Poisson process, instead of the recorded arrivals.
    seed : int
        Of lengths and arrivals, 0 or more.

    Raises
    ------
    ParameterError
    UnknownNameError

    Examples
    --------
    >>> import dimmpim
    >>> requests = dimmpim.workload(lengths="OpenR1", num_requests=10, rate=2.0)
    >>> len(requests), requests.synthetic
    (10, True)
    """
    given = [name for name in (trace, lengths) if name is not None]
    require(len(given) == 1, "source", "both" if given else "none", "one of trace and lengths")
    require(num_requests is None or num_requests >= 1, "num_requests", num_requests, "1 or more")
    require(rate is None or 0 < rate < float("inf"), "rate", rate, "a number above 0")
    require(seed >= 0, "seed", seed, "0 or more")
    rng = np.random.default_rng(seed)
    if trace is not None:
        requests = read_trace(Path(trace), trace_format, most_requests=num_requests)
    else:
        require(trace_format is None, "trace_format", trace_format, "given with a trace only")
        requests = synthetic_workload(str(lengths), 1000 if num_requests is None else num_requests, rng)
    return requests if rate is None else with_arrival_rate(requests, rate, rng)


def until_ns_of(until_s: float | None) -> int | None:
    """Nanoseconds of a time in seconds, 0 to 1e9; None of None."""
    require(until_s is None or 0 < until_s < 1e9, "until_s", until_s, "above 0 and less than 1e9 seconds")
    return None if until_s is None else round(until_s * 1e9)


def _admission(name: str) -> Admission:
    allowed = [admission.value for admission in Admission]
    require(name in allowed, "admission", name, f"one of {', '.join(allowed)}")
    return Admission(name)


def serve(
    system: str | type[ServingSystem],
    model: ModelShape | str,
    requests: Workload | None = None,
    *,
    trace: Path | str | None = None,
    lengths: str | None = None,
    num_requests: int | None = None,
    rate: float | None = None,
    seed: int = 1,
    node: Node = DGX_A100,
    admission: str = "grow",
    until_s: float | None = None,
) -> ServeResult:
    """Simulate a serving system.

    Parameters
    ----------
    system : str or type of ServingSystem
        A name of :func:`systems`, ``"FILE.py:CLASS"``, or a class of your own.
    model : ModelShape or str
    requests : Workload, optional
        Otherwise they follow from `trace`, `lengths`, `num_requests`, `rate` and `seed`, as in :func:`workload`.
    node : Node
        GPUs and memory channels; 8 A100 and 64 ranks of DDR4-3200 if left out.
    admission : {"grow", "reserve"}
        A request begins with memory for its prompt, or for all it will need.
    until_s : float, optional
        Simulated seconds after which to stop.

    Returns
    -------
    ServeResult

    Raises
    ------
    ParameterError
        If the system cannot serve the model.
    UnknownNameError
    ToolError
        If a system of your own raises something else.

    Examples
    --------
    >>> import dimmpim
    >>> result = dimmpim.serve("L3", "GPT-175B", lengths="OpenR1", num_requests=4, until_s=5)
    >>> result.figures.output_tokens_per_s > 0
    True
    """
    chosen = system_named(system) if isinstance(system, str) else system
    served, _ = run_serving(
        chosen,
        model_named(model) if isinstance(model, str) else model,
        node,
        _requests(requests, trace, lengths, num_requests, rate, seed),
        admission=admission,
        until_s=until_s,
        seed=seed,
    )
    return served


def _requests(
    given: Workload | None,
    trace: Path | str | None,
    lengths: str | None,
    num_requests: int | None,
    rate: float | None,
    seed: int,
) -> Workload:
    if given is None:
        return workload(trace=trace, lengths=lengths, num_requests=num_requests, rate=rate, seed=seed)
    others = {"trace": trace, "lengths": lengths, "num_requests": num_requests, "rate": rate}
    for name, value in others.items():
        require(value is None, name, value, "left out where requests are given")
    return given


def run_serving(
    system: type[ServingSystem],
    model: ModelShape,
    node: Node,
    requests: Workload,
    *,
    admission: str,
    until_s: float | None,
    seed: int,
    most_spans: int = 0,
    on_progress: Callable[[int], None] = lambda ended: None,
) -> tuple[ServeResult, list[Outcome]]:
    """As :func:`serve`, with the outcomes of the replicas.

    Parameters
    ----------
    system, model, node, requests, admission, until_s, seed
        As for :func:`serve`, looked up.
    most_spans : int
        Spans of the timeline to keep.
    on_progress : callable
        Told the number of requests that have ended.
    """
    with faults_told(system.name):
        figures, outcomes = run_serve(
            system,
            model,
            node,
            requests,
            admission=_admission(admission),
            until_ns=until_ns_of(until_s),
            most_spans=most_spans,
            on_progress=on_progress,
        )
    served = ServeResult(
        system=system.name,
        model=model,
        node=node,
        workload=requests,
        admission=admission,
        until_s=until_s,
        seed=seed,
        has_pim=system.has_pim,
        figures=figures,
    )
    return served, outcomes


def compare(
    systems: Sequence[str],
    model: str,
    requests: Workload | None = None,
    *,
    trace: Path | str | None = None,
    lengths: str | None = None,
    num_requests: int | None = None,
    rate: float | None = None,
    seed: int = 1,
    node: Node = DGX_A100,
    admission: str = "grow",
    until_s: float | None = None,
    processes: int = 1,
) -> Comparison:
    """Serve the same requests with several systems.

    Parameters
    ----------
    systems : sequence of str
        Names of :func:`systems`, or ``"FILE.py:CLASS"``.
    model : str
    requests, trace, lengths, num_requests, rate, seed, node, admission, until_s
        As for :func:`serve`.
    processes : int
        Systems at a time, each in a process of its own; a script needs ``if __name__ == "__main__"`` then.

    Returns
    -------
    Comparison
        A system that cannot serve the model is among its failures.

    Raises
    ------
    ParameterError
    UnknownNameError

    Examples
    --------
    >>> import dimmpim
    >>> table = dimmpim.compare(["GPU", "L3"], "GPT-175B", lengths="OpenR1", num_requests=4, until_s=5)
    >>> list(table.runs)
    ['GPU', 'L3']
    """
    require(not isinstance(systems, str) and len(systems) >= 1, "systems", systems, "a list of one or more names")
    return run_comparison(
        systems,
        model,
        node,
        _requests(requests, trace, lengths, num_requests, rate, seed),
        admission=admission,
        until_s=until_s,
        seed=seed,
        processes=processes,
    )


def run_comparison(
    systems: Sequence[str],
    model: str,
    node: Node,
    requests: Workload,
    *,
    admission: str,
    until_s: float | None,
    seed: int,
    processes: int,
    on_done: Callable[[int], None] = lambda number: None,
) -> Comparison:
    """As :func:`compare`; `on_done` is told the number of each system that is done."""
    shape, until_ns, allowed = model_named(model), until_ns_of(until_s), _admission(admission)
    require(processes >= 1, "processes", processes, "1 or more")
    named: dict[str, str] = {}
    has_pim: dict[str, bool] = {}
    for given in systems:
        chosen = system_named(given)
        require(chosen.name not in named, "systems", ", ".join(systems), "different systems")
        named[chosen.name], has_pim[chosen.name] = given, chosen.has_pim
    jobs = [
        Job(system=name, model=model, node=node, workload=requests, admission=allowed, until_ns=until_ns)
        for name in named.values()
    ]
    results = dict(zip(named, run_jobs(jobs, processes=processes, on_done=on_done), strict=True))
    runs = {
        label: ServeResult(
            system=label,
            model=shape,
            node=node,
            workload=requests,
            admission=admission,
            until_s=until_s,
            seed=seed,
            has_pim=has_pim[label],
            figures=figures,
        )
        for label, figures in results.items()
        if isinstance(figures, ServeFigures)
    }
    failures = {label: reason for label, reason in results.items() if isinstance(reason, str)}
    return Comparison(runs=runs, failures=failures, has_pim=has_pim)
