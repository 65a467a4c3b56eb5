"""Process pool: work spread over processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from pimspec.errors import ToolError

__all__ = ["as_done", "available_cores"]

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block Ctrl-C for processes started meanwhile; this process ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def as_done(
    work: Callable[[_Given], _Result], given: Iterable[_Given], processes: int
) -> Generator[tuple[int, _Result], None, None]:
    """Index and result of each item, in the order of completion.

    If it is closed early, interrupted, or an item fails, it ends all processes.

    Parameters
    ----------
    work : callable
        Function of a module, as other processes find it by its name.
    given : iterable
        Items; each is taken when its turn is near.
    processes : int
        Processes at a time; with one, this process does all the work.

    Raises
    ------
    ToolError
        If a process ends abruptly.
    """
    if processes <= 1:
        for number, item in enumerate(given):
            yield number, work(item)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    pending: dict[Future[_Result], int] = {}
    turn = enumerate(given)
    try:
        while True:
            for number, item in islice(turn, 2 * processes - len(pending)):
                with _interrupts_held():
                    pending[pool.submit(work, item)] = number
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
        pool.shutdown()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        if isinstance(error, BrokenProcessPool):
            raise ToolError("a process ended abruptly, maybe for lack of memory: try fewer --jobs") from None
        raise
