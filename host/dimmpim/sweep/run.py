"""Runner of a sweep's configurations, here or on a cluster; finished rows are kept whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from dimmpim.processes import as_done
from dimmpim.sweep.studies import Point, Study, guarded
from dimmpim.sweep.table import Row, TableLayout, read_rows, table_bytes
from pimspec.errors import ToolError, require
from pimspec.files import write_atomically

__all__ = ["Executor", "SweepTable", "here", "on_ray", "partial_path"]

Executor = Callable[[Study, Sequence[Callable[[], Point]]], Generator[Row, None, None]]
"""Generator of rows as a study's points are done; a point is made when its turn comes."""
SAVE_EVERY_S = 10.0


def partial_path(out: Path) -> Path:
    """Path of the rows of a sweep until all are there."""
    return out.with_name(f"{out.stem}.partial{out.suffix}")


class SweepTable:
    """Rows that exist: those of files, if a sweep is resumed, and new ones.

    Parameters
    ----------
    layout : TableLayout
    out : Path
        Path that is written when the sweep is complete; until then :func:`partial_path` is, at most some seconds old.
    resume : bool
        True to begin with the rows of both files.

    Raises
    ------
    ParameterError
        If a file is not from such a sweep, or an unfinished one would be lost.
    """

    def __init__(self, layout: TableLayout, out: Path, *, resume: bool) -> None:
        self._layout, self._out, self._partial = layout, out, partial_path(out)
        self._rows: dict[tuple[Any, ...], Row] = {}
        self._saved = time.monotonic()
        self.has_new_rows = False
        exists = self._partial.exists()
        require(resume or not exists, "--out", str(out), f"continued with --resume, or {self._partial} deleted")
        for path in (out, self._partial) if resume else ():
            if path.exists():
                self._rows |= {layout.key(row): row for row in read_rows(layout, path)}

    def missing(self, configurations: Sequence[Row]) -> list[Row]:
        """Configurations without a row."""
        return [row for row in configurations if self._layout.key(row) not in self._rows]

    def rows(self, configurations: Sequence[Row]) -> list[Row]:
        """Rows of these configurations, as far as they exist, in their order; then the others in that of the file."""
        first = {key: self._rows[key] for row in configurations if (key := self._layout.key(row)) in self._rows}
        return list((first | self._rows).values())

    def add(self, row: Row) -> None:
        self._rows[self._layout.key(row)] = row
        self.has_new_rows = True
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def save(self) -> Path:
        """Write the existing rows as a partial table, and return its path."""
        self._write(self._partial, list(self._rows.values()))
        self._saved = time.monotonic()
        return self._partial

    def finish(self, configurations: Sequence[Row]) -> None:
        self._write(self._out, self.rows(configurations))
        self._partial.unlink(missing_ok=True)

    def _write(self, path: Path, rows: Sequence[Row]) -> None:
        write_atomically(path, table_bytes(self._layout, rows, path.suffix))


def here(processes: int) -> Executor:
    """Executor on this machine with `processes` processes; with one, in this process."""

    def run(study: Study, points: Sequence[Callable[[], Point]]) -> Generator[Row, None, None]:
        given = (point() for point in points)
        with closing(as_done(partial(guarded, study), given, min(processes, len(points)))) as done:
            for _, row in done:
                yield row

    return run


def on_ray(address: str, tasks: int | None) -> Executor:
    """Executor on an existing Ray cluster, whose nodes have this version of dimmpim.

    Parameters
    ----------
    address : str
        Address as for ``ray.init``.
    tasks : int, optional
        Tasks at a time; by default twice the cluster's CPUs, so that none waits.

    Raises
    ------
    ToolError
        If Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise ToolError("--ray needs Ray, which is not installed: pip install ray") from None
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # of many kinds, also ValueError and RuntimeError
        raise ToolError(f"--ray {address}: {type(error).__name__}: {_first_line(error)}") from None

    def run(study: Study, points: Sequence[Callable[[], Point]]) -> Generator[Row, None, None]:
        task = ray.remote(guarded)
        most = tasks or max(1, 2 * int(ray.cluster_resources().get("CPU", 1)))
        pending: list[Any] = []
        turn = iter(points)
        try:
            while True:
                taken = zip(range(most - len(pending)), turn, strict=False)
                pending += [task.remote(study, point()) for _, point in taken]
                if not pending:
                    break
                done, pending = ray.wait(pending, num_returns=1)
                yield from ray.get(done)
        except ray.exceptions.RayError as error:
            raise ToolError(f"--ray {address}: a task failed: {_first_line(error)}") from None
        finally:
            for left in pending:
                ray.cancel(left, force=True)
            ray.shutdown()

    return run


def _first_line(error: Exception) -> str:
    """First line of an error text, and the last one of a text with a traceback, which has the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}") if lines else "no reason given"
