"""Results of serving runs: of one system, and of several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

from rich.console import Console

from dimmpim.reports.serving import figures_table
from pimhost.models import ModelShape
from pimhost.serving.figures import ServeFigures
from pimhost.systems.node import Node
from pimhost.workloads.workload import Workload

__all__ = ["Comparison", "ServeResult"]

SERVE_VERSION = 2
COMPARE_VERSION = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class ServeResult:
    """One serving run: what was served on what, and its figures.

    Parameters
    ----------
    system : str
    model : ModelShape
    node : Node
    workload : Workload
    admission : str
    until_s : float or None
        Simulated seconds after which the run was stopped.
    seed : int
        Of synthetic lengths and arrivals.
    has_pim : bool
    figures : ServeFigures
        Throughput in tokens and requests a second, TTFT, TPOT and latency in ms, energy in J; see its docstring.
    """

    system: str
    model: ModelShape
    node: Node
    workload: Workload
    admission: str
    until_s: float | None
    seed: int
    has_pim: bool
    figures: ServeFigures

    def to_dict(self) -> dict[str, Any]:
        """The run as plain numbers and texts: what ``dimmpim serve --json`` writes (``docs/serve-json.md``).

        It holds no wall-clock times, so that a run repeated gives the same.
        """
        workload = self.workload
        return {
            "version": SERVE_VERSION,
            "system": self.system,
            "model": self.model.name,
            "node": asdict(self.node),
            "gpu_times": self.node.gpu_times.source,
            "workload": {
                "name": workload.name,
                "source": workload.source,
                "synthetic": workload.synthetic,
                "seed": self.seed,
            },
            "admission": self.admission,
            "until_s": self.until_s,
            "figures": self.figures.document(),
        }

    def __str__(self) -> str:
        """A table of the figures."""
        return _text({self.system: self.figures}, {self.system: self.has_pim})


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Several systems under the same requests.

    Parameters
    ----------
    runs : mapping of str to ServeResult
        By name of the system, in the order in which they were given.
    failures : mapping of str to str
        The reason for each system that gave no figures.
    has_pim : mapping of str to bool
        For every system, in the order in which they were given.
    """

    runs: Mapping[str, ServeResult]
    failures: Mapping[str, str]
    has_pim: Mapping[str, bool]

    @property
    def figures(self) -> dict[str, ServeFigures | str]:
        """Figures of every system in order, or the reason why there are none."""
        return {name: self.runs[name].figures if name in self.runs else self.failures[name] for name in self.has_pim}

    def to_dict(self) -> dict[str, Any]:
        """All runs as plain numbers and texts: what ``dimmpim compare --json`` writes."""
        runs = [
            self.runs[name].to_dict() if name in self.runs else {"system": name, "error": self.failures[name]}
            for name in self.has_pim
        ]
        return {"version": COMPARE_VERSION, "runs": runs}

    def __str__(self) -> str:
        """A table with a column for each system."""
        return _text(self.figures, self.has_pim)


def _text(runs: Mapping[str, ServeFigures | str], has_pim: Mapping[str, bool]) -> str:
    out = StringIO()
    Console(file=out, width=1000).print(figures_table(runs, has_pim))
    reasons = [f"{name}: {figures}\n" for name, figures in runs.items() if isinstance(figures, str)]
    lines = (line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join(line for line in lines if line) + "\n" + "".join(reasons)
