"""Serving on a whole node: model replicas, each with its share of the machine and of the requests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..models import ModelShape
from ..systems.base import ServingSystem
from ..systems.node import Node
from ..workloads.workload import Workload
from .figures import ServeFigures, measure
from .outcome import Outcome
from .simulator import Admission, simulate

__all__ = ["serve"]


def serve(
    system: type[ServingSystem],
    shape: ModelShape,
    node: Node,
    workload: Workload,
    *,
    admission: Admission = Admission.GROW,
    until_ns: int | None = None,
    most_spans: int = 0,
    on_progress: Callable[[int], None] = lambda ended: None,
) -> tuple[ServeFigures, list[Outcome]]:
    """Serve a workload on all replicas of a node; request i goes to replica ``i % dp_size``.

    Parameters
    ----------
    system : type of ServingSystem
    shape : ModelShape
    node : Node
    workload : Workload
    admission, until_ns, most_spans, on_progress
        As in :func:`~pimhost.serving.simulator.simulate`; spans are kept for the first replica only.

    Raises
    ------
    ParameterError
        If the model does not fit the system.
    """
    outcomes: list[Outcome] = []
    one, ended = system(shape, node.replica()), 0
    for number in range(min(node.dp_size, len(workload))):
        part = slice(number, None, node.dp_size)
        share = Workload.of(
            workload.name,
            workload.source,
            synthetic=workload.synthetic,
            arrival_ns=np.array(workload.arrival_ns[part]),
            prompt_tokens=np.array(workload.prompt_tokens[part]),
            output_tokens=np.array(workload.output_tokens[part]),
        )
        before = ended

        def told(of_replica: int, before: int = before) -> None:
            on_progress(before + of_replica)

        outcomes.append(
            simulate(
                one,
                share,
                admission=admission,
                until_ns=until_ns,
                most_spans=0 if number else most_spans,
                on_progress=told,
            )
        )
        ended += len(share)
    return measure(outcomes, one.energy_model()), outcomes
