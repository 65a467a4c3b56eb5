"""Stimulus of the softmax unit: scores of all kinds, their order of arrival, and the expected results."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pimspec.attention.shape import score_scale_bits
from pimspec.formats import FP32
from pimspec.golden.softmax import MINUS_INF, softmax
from pimspec.params.rank_pu import SoftmaxParams

from .stimulus import corners, random_numbers

__all__ = ["Item", "Schedule", "make_item", "make_items"]

Bits = NDArray[np.int64]

SCALE = score_scale_bits(1 / 8)


@dataclass(kw_only=True)
class Item:
    """One segment of one kv_head; `scores` of shape (num_lines, num_group_lines, queries, lanes)."""

    scores: Bits
    last_keep: Bits
    scale: int = SCALE
    order: Bits = field(init=False)  # of arrival: line * num_group_lines + line of the group

    def __post_init__(self) -> None:
        self.order = np.arange(self.num_beats)

    @property
    def num_lines(self) -> int:
        return self.scores.shape[0]

    @property
    def num_group_lines(self) -> int:
        return self.scores.shape[1]

    @property
    def num_beats(self) -> int:
        return self.num_lines * self.num_group_lines

    def expected(self, params: SoftmaxParams) -> tuple[dict[str, Bits], dict[str, Bits]]:
        """Expected words and statistics."""
        lines, lines_per_group, queries_per_line, lanes = self.scores.shape
        keep = np.ones((lines, lanes), np.int64)
        keep[-1] = self.last_keep
        by_query = self.scores.transpose(1, 2, 0, 3).reshape(lines_per_group, queries_per_line, -1)
        got = softmax(by_query, self.scale, lanes, params.format, np.broadcast_to(keep.ravel(), by_query.shape))
        words = -(-lines // params.word_lines)
        probs = np.zeros((lines_per_group, queries_per_line, words * params.word_lines, lanes), np.int64)
        probs[:, :, :lines] = got.probs.reshape(lines_per_group, queries_per_line, lines, lanes)
        kept = np.zeros((words * params.word_lines, lanes), np.int64)
        kept[:lines] = keep
        probs = probs.reshape(lines_per_group, queries_per_line, words, params.word_lines, lanes).transpose(
            2, 0, 1, 4, 3
        )
        kept = kept.reshape(words, params.word_lines, lanes).transpose(0, 2, 1)
        num_words = words * lines_per_group
        return {
            "probs": probs.reshape(num_words, -1),
            "keep": kept.reshape(words, -1).repeat(lines_per_group, axis=0),
            "word": np.arange(words).repeat(lines_per_group),
            "group_line": np.tile(np.arange(lines_per_group), words),
            "group_end": np.tile(np.arange(lines_per_group) == lines_per_group - 1, words).astype(np.int64),
            "last": (np.arange(num_words) == num_words - 1).astype(np.int64),
        }, {
            "m": got.m,
            "l": got.l,
            "group_line": np.arange(lines_per_group),
            "last": (np.arange(lines_per_group) == lines_per_group - 1).astype(np.int64),
        }


def make_item(
    params: SoftmaxParams, rng: np.random.Generator, num_lines: int, num_group_lines: int, kind: int = 99
) -> Item:
    """Scores like those of attention, or by `kind` with specials, equal scores, huge spreads, and holes."""
    shape = (num_lines, num_group_lines, params.queries_per_line, params.lanes)
    size = int(np.prod(shape))
    scores = (rng.normal(size=shape) * 20).astype(np.float32).view(np.uint32).astype(np.int64)
    rare = rng.random(shape) < 0.02
    kinds = {
        0: lambda: rng.choice(corners(FP32), shape),
        1: lambda: random_numbers(rng, size, FP32).reshape(shape),
        2: lambda: np.full(shape, 0xC1230000),
        3: lambda: FP32.sign_mask | (rng.integers(0, 2, shape) * (130 << 23)),  # -0 and -8
        4: lambda: np.where(rare, MINUS_INF, scores),
        5: lambda: np.where(rare, FP32.inf, scores),
        6: lambda: np.where(rare, FP32.nan | 5, scores),
        7: lambda: np.full(shape, MINUS_INF),
        8: lambda: rng.integers(0, 2, shape) * FP32.sign_mask,
        9: lambda: rng.integers(0, 1 << 24, shape) | (rng.integers(0, 2, shape) * FP32.sign_mask),  # subnormal, small
    }
    last_keep = (np.arange(params.lanes) <= rng.integers(0, params.lanes)).astype(np.int64)
    if kind == 10:
        last_keep = rng.integers(0, 2, params.lanes)
    scale = int(random_numbers(rng, 1, FP32, 100, 140)[0]) if kind == 11 else SCALE
    return Item(scores=kinds.get(kind, lambda: scores)(), last_keep=last_keep, scale=scale)


def make_items(params: SoftmaxParams, count: int, seed: int) -> list[Item]:
    rng = np.random.default_rng(seed)
    most = params.max_lines
    lines = rng.permutation(np.concatenate([[1, 2, most, most - 1, 1, 1], rng.integers(1, most + 1, count - 6)]))
    items = [
        make_item(params, rng, int(n), int(rng.integers(1, params.lines_per_group + 1)), k % 16)
        for k, n in enumerate(lines)
    ]
    for item in items[seed % 2 :: 2]:
        item.order = rng.permutation(item.num_beats)
    return items


class Schedule:
    """Announcements and scores of items, beat by beat; scores of two items alternate by chance (`mix`)."""

    def __init__(self, params: SoftmaxParams, items: list[Item], seed: int = 0, mix: float = 0.5) -> None:
        self.params, self.items, self.seed = params, items, seed
        self.rows: list[tuple[int | None, tuple[int, int] | None]] = []  # item announced; item and beat of a score
        rng = np.random.default_rng(seed)
        left = [list(item.order[::-1]) for item in items]
        announced = 0
        while any(left):
            waiting = [n for n in range(max(0, announced - 2), announced) if left[n]]
            # Asked before a score is taken: its last score must not wait in the beat that waits for its slot.
            may = announced < len(items) and (announced < 2 or not left[announced - 2])
            score = None
            if waiting:
                n = waiting[-1] if rng.random() < mix else waiting[0]
                score = (n, int(left[n].pop()))
            announce = announced if may and (score is None or rng.random() < 0.3) else None
            announced += announce is not None
            self.rows.append((announce, score))

    @cached_property
    def last_score(self) -> list[int]:
        """Row of the last score of each item."""
        return [max(k for k, (_, s) in enumerate(self.rows) if s and s[0] == n) for n in range(len(self.items))]

    @cached_property
    def announced(self) -> list[int]:
        """Row that announces each item."""
        return [k for k, (n, _) in enumerate(self.rows) if n is not None]

    def operands(self, refuse: tuple[float, float]) -> dict[str, Bits]:
        p = self.params
        size = len(self.rows)
        tables = {"item_": p.items, "": p.inputs}
        columns = {
            prefix + f.name: np.zeros((size, f.count) if f.count else size, np.int64)
            for prefix, table in tables.items()
            for f in table.fields
        }
        for k, (n, score) in enumerate(self.rows):
            if n is not None:
                item = self.items[n]
                for name in ("num_lines", "num_group_lines", "scale", "last_keep"):
                    columns[f"item_{name}"][k] = getattr(item, name)
            if score is not None:
                of, place = score
                line, group_line = divmod(place, self.items[of].num_group_lines)
                columns["slot"][k], columns["line"][k], columns["group_line"][k] = of % 2, line, group_line
                columns["scores"][k] = self.items[of].scores[line, group_line].ravel()
        columns["has_item"] = np.array([n is not None for n, _ in self.rows], np.int64)
        columns["has_score"] = np.array([s is not None for _, s in self.rows], np.int64)
        for name, chance in zip(("refuse_o", "refuse_stats"), refuse, strict=True):
            columns[name] = np.full(size, round(chance * 256))
        return columns
