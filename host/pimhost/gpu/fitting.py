"""Fit of the GPU model's constants on measured rows, and its error on rows that were held back.

Each operator and GPU has one set of constants, the same for all shapes. The fit minimises the Huber loss of the
logarithm of (model / measured): a factor counts alike at 5 us and at 5 s, and outliers count little. Constants are
varied in the logarithm, so they stay positive. The method is Levenberg-Marquardt with numerical derivatives. The split
is seeded: the same rows give the same constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import ParameterError

from .operators import Constants
from .profiles import OPERATORS, SOURCE, Operator, Rows, read_rows
from .specs import GPUS, GpuSpec

__all__ = ["FitError", "Fitted", "document", "fit_all", "fit_rows", "measure_error", "split"]

SPLIT_SEED = 1
TRAINING_SHARE = 0.7
MOST_TRAINING_ROWS = 4000
HUBER = 0.1
STEP = 1e-3
SMALLEST = 1e-9
"""Smallest value of a constant; a smaller one would have no influence."""
JSON_VERSION = 1

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FitError:
    """Relative errors |model / measured - 1| of a fit.

    Parameters
    ----------
    median, p90 : float
        Over the held-back rows that are trusted.
    median_all : float
        Over all held-back rows, also those read from a warm cache.
    held_back_rows, held_back_trusted : int
    """

    median: float
    p90: float
    median_all: float
    held_back_rows: int
    held_back_trusted: int


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Constants of one operator on one GPU."""

    gpu: str
    operator: str
    file: str
    constants: Constants
    training_rows: int
    error: FitError


def split(num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the rows to fit on and of those to hold back, shuffled with a fixed seed."""
    order = np.random.default_rng(SPLIT_SEED).permutation(num_rows)
    border = int(num_rows * TRAINING_SHARE)
    return order[:border], order[border:]


def _loss(residual: Array) -> float:
    size = np.abs(residual)
    return float(np.where(size < HUBER, size**2 / 2, HUBER * (size - HUBER / 2)).sum())


def _minimise(residual_of: Callable[[Array], Array], x: Array, *, iterations: int = 200) -> Array:
    """Levenberg-Marquardt minimum with Huber weights; `x` holds logarithms of the constants."""
    residual = residual_of(x)
    loss, damping = _loss(residual), 1e-2
    for _ in range(iterations):
        steps = STEP * np.eye(len(x))
        jacobian = np.stack([(residual_of(x + s) - residual_of(x - s)) / (2 * STEP) for s in steps], axis=1)
        weights = np.minimum(1, HUBER / np.maximum(np.abs(residual), 1e-12))
        normal = jacobian.T @ (jacobian * weights[:, None])
        gradient = jacobian.T @ (weights * residual)
        for _ in range(10):
            damped = normal + np.diag(damping * np.diag(normal) + 1e-9)
            candidate = np.maximum(x + np.clip(np.linalg.solve(damped, -gradient), -0.7, 0.7), np.log(SMALLEST))
            new_residual = residual_of(candidate)
            new_loss = _loss(new_residual)
            if new_loss < loss:
                break
            damping *= 4
        else:
            break
        gain = loss - new_loss
        x, residual, loss, damping = candidate, new_residual, new_loss, damping / 3
        if gain < 1e-6 * loss:
            break
    return x


def fit_rows(operator: Operator, gpu: GpuSpec, rows: Rows, chosen: NDArray[np.int64]) -> Constants:
    """Constants that fit the `chosen` rows."""
    kind = type(operator.initial)
    shape = [values[chosen] for values in rows.shape]
    log_time = np.log(rows.time_s[chosen])

    def constants_of(x: Array) -> Constants:
        return kind(**dict(zip((f.name for f in fields(kind)), np.exp(x).tolist(), strict=True)))

    def residual_of(x: Array) -> Array:
        return np.log(operator.time_s(constants_of(x), gpu, *shape)) - log_time

    fitted = constants_of(_minimise(residual_of, np.log(astuple(operator.initial))))
    return kind(**{f.name: float(f"{getattr(fitted, f.name):.4g}") for f in fields(kind)})


def measure_error(constants: Constants, operator: Operator, gpu: GpuSpec, rows: Rows) -> FitError:
    """Error on the rows that a fit holds back."""
    _, held_back = split(len(rows.time_s))
    predicted = operator.time_s(constants, gpu, *(values[held_back] for values in rows.shape))
    error = np.abs(predicted / rows.time_s[held_back] - 1)
    trusted = error[rows.trusted[held_back]]
    return FitError(
        median=round(float(np.median(trusted)), 4),
        p90=round(float(np.percentile(trusted, 90)), 4),
        median_all=round(float(np.median(error)), 4),
        held_back_rows=len(error),
        held_back_trusted=len(trusted),
    )


def fit_all(
    directory: Path,
    *,
    gpus: Iterable[str] = tuple(GPUS),
    operators: Iterable[str] = tuple(OPERATORS),
    on_progress: Callable[[str], None] = lambda what: None,
) -> list[Fitted]:
    """Fit each operator on each GPU for which `directory` has rows.

    Parameters
    ----------
    directory : Path
    gpus, operators : iterable of str
    on_progress : callable
        Called with the name of each fit when it is done.

    Raises
    ------
    ParameterError
        If there is no table at all, or one is malformed.
    """
    results: list[Fitted] = []
    names = tuple(operators)
    for gpu in (GPUS[name] for name in gpus):
        for name in names:
            operator, rows = OPERATORS[name], read_rows(directory, name, gpu)
            if rows is not None:
                training, _ = split(len(rows.time_s))
                chosen = training[rows.trusted[training]][:MOST_TRAINING_ROWS]
                constants = fit_rows(operator, gpu, rows, chosen)
                results.append(
                    Fitted(
                        gpu=gpu.name,
                        operator=name,
                        file=rows.file,
                        constants=constants,
                        training_rows=len(chosen),
                        error=measure_error(constants, operator, gpu, rows),
                    )
                )
            on_progress(f"{gpu.name} {name}")
    if not results:
        raise ParameterError(f"{directory} has no table that fits, such as aic_h100_sxm_gemm_bf16.csv.gz")
    return results


def document(results: Iterable[Fitted]) -> dict[str, object]:
    """Content of ``constants.json``."""
    gpus: dict[str, dict[str, object]] = {}
    for r in results:
        constants = {f.name: getattr(r.constants, f.name) for f in fields(r.constants)}
        error = {f.name: getattr(r.error, f.name) for f in fields(r.error)}
        entry = {"constants": constants, "file": r.file, "training_rows": r.training_rows, "error": error}
        gpus.setdefault(r.gpu, {})[r.operator] = entry
    return {"version": JSON_VERSION, "made_by": "dimmpim fit-gpu", "source": SOURCE, "gpus": gpus}
