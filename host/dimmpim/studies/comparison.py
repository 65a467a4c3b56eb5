"""Comparison of serving runs, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from dimmpim.processes import as_done
from pimhost.models import shape_named
from pimhost.serving.figures import ServeFigures
from pimhost.serving.replicas import serve
from pimhost.serving.simulator import Admission
from pimhost.systems.node import Node
from pimhost.systems.registry import system_named
from pimhost.workloads.workload import Workload
from pimspec.errors import PimError, ToolError

__all__ = ["Job", "faults_told", "reason_of", "run_job", "run_jobs"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A serving run, by names, so that a process can do it alone.

    Parameters
    ----------
    system, model : str
    node : Node
    workload : Workload
    admission : Admission
    until_ns : int or None
    """

    system: str
    model: str
    node: Node
    workload: Workload
    admission: Admission = Admission.GROW
    until_ns: int | None = None


def reason_of(error: BaseException) -> str:
    """What to say of a run that gave no figures; the error may come from a system of the user's own."""
    return (str(error) if isinstance(error, PimError) else f"{type(error).__name__}: {error}") or type(error).__name__


@contextmanager
def faults_told(system: str) -> Iterator[None]:
    """Turn an exception of a user's system into a :class:`ToolError`."""
    try:
        yield
    except PimError:
        raise
    except (Exception, SystemExit) as error:
        raise ToolError(f"{system}: {reason_of(error)}") from error


def run_job(job: Job) -> ServeFigures | str:
    """Figures of a run, or the reason why there are none: the system cannot serve the model, or has a fault."""
    try:
        figures, _ = serve(
            system_named(job.system),
            shape_named(job.model),
            job.node,
            job.workload,
            admission=job.admission,
            until_ns=job.until_ns,
        )
    except (Exception, SystemExit) as error:
        return reason_of(error)
    return figures


def run_jobs(
    jobs: Sequence[Job], *, processes: int, on_done: Callable[[int], None] = lambda number: None
) -> list[ServeFigures | str]:
    """Results of all jobs, in the order of the jobs.

    Parameters
    ----------
    jobs : sequence of Job
    processes : int
        Processes at a time; with one, this process does all the work.
    on_done : callable
        Called with the index of each job that is done.
    """
    results: list[ServeFigures | str] = [""] * len(jobs)
    with closing(as_done(run_job, jobs, min(processes, len(jobs)))) as done:
        for number, result in done:
            results[number] = result
            on_done(number)
    return results
