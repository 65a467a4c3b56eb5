"""Plan and result of a batch: overlap modes, placement of requests, and figures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pimhost.batch.activity import RankActivity
from pimhost.batch.coordination import covered
from pimspec.attention.shape import AttentionShape
from pimspec.errors import ParameterError, require
from pimspec.params.dpa import DpaSizes
from pimspec.params.pim_rank import PimRankParams
from pimspec.params.presets import Preset

__all__ = ["Answer", "BatchRun", "Mode", "Phase", "all_modes", "deal", "fitted"]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """Overlap mode of a batch.

    Parameters
    ----------
    ranks : int
        Ranks on the channel; each request is in one of them.
    sub_batches : int
        1 or 2: GPU phases of one overlap the attention of the other.
    overlap_ranks : bool
        A rank starts as soon as it has all it needs, and is read as soon as it is done. Otherwise all ranks wait until
        all transfers to them are done, and are read when the last one is done.
    early_transfers : bool
        A sub-batch is sent to a rank, and started there, while the rank still works for the other one.

    Raises
    ------
    ParameterError
    """

    ranks: int = 1
    sub_batches: int = 1
    overlap_ranks: bool = False
    early_transfers: bool = False

    def __post_init__(self) -> None:
        require(self.ranks >= 1, "ranks", self.ranks, "1 or more")
        require(self.sub_batches in (1, 2), "sub-batches", self.sub_batches, "1 or 2")
        early_alone = self.early_transfers and self.sub_batches == 1
        require(not early_alone, "sub-batches with early transfers", self.sub_batches, "2")
        strict = self.sub_batches == 2 and not self.overlap_ranks
        require(not strict, "sub-batches without overlap of ranks", self.sub_batches, "1")

    @property
    def name(self) -> str:
        if self.sub_batches == 2:
            return "sub-batches, early transfers" if self.early_transfers else "sub-batches"
        return "ranks overlap" if self.overlap_ranks else "serial"

    def require_prompts(self, prompts: int) -> None:
        """Raise ParameterError unless there is a prompt for each sub-batch in each rank."""
        least = self.ranks * self.sub_batches
        text = f"{least} or more: one for each of {self.sub_batches} sub-batches in each of {self.ranks} ranks"
        require(prompts >= least, "number of prompts", prompts, text)

    def requests_of_rank(self, prompts: int) -> int:
        """Most requests of one rank, out of `prompts` prompts."""
        return self.sub_batches * -(-prompts // (self.ranks * self.sub_batches))


def all_modes(ranks: int) -> list[Mode]:
    """All modes worth comparing: with one rank, and with `ranks`."""
    modes = []
    for count in sorted({1, ranks}):
        modes.append(Mode(ranks=count))
        if count > 1:
            modes.append(Mode(ranks=count, overlap_ranks=True))
        modes.append(Mode(ranks=count, sub_batches=2, overlap_ranks=True))
        modes.append(Mode(ranks=count, sub_batches=2, overlap_ranks=True, early_transfers=True))
    return modes


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Work of one resource, from clock `start` to clock `end`; clocks count from the first token that is decoded.

    Parameters
    ----------
    resource : str
        ``"gpu"``, ``"channel"`` or ``"rank"``.
    kind : str
        For the GPU ``"first"``, ``"middle"`` and ``"last"`` of a token. For the channel ``"kv"``, ``"q"``, ``"look"``
        (whether writes are done, or programs still at work), ``"start"`` and ``"collect"``. For a rank ``"attend"``.
    sub_batch, step, layer : int
        Indices; steps count from 1, as the first token comes from prefill.
    rank : int or None
    start, end : int
    """

    resource: Literal["gpu", "channel", "rank"]
    kind: str
    sub_batch: int
    step: int
    layer: int
    rank: int | None
    start: int
    end: int


@dataclass(kw_only=True)
class Answer:
    """One prompt: its place, and its tokens.

    Parameters
    ----------
    number : int
        Index of the prompt.
    prompt_ids : list of int
    sub_batch, rank, slot : int
        Place of the request. Slots of a rank are dealt sub-batch by sub-batch: its dispatcher serves waiting slots in
        turns, so it is done with one sub-batch before it begins the other.
    token_ids : list of int
    ended_at : list of int
        Clock at which each token was known; 0 for the first, which prefill gives.
    done : bool
    """

    number: int
    prompt_ids: list[int]
    sub_batch: int
    rank: int
    slot: int
    token_ids: list[int] = field(default_factory=list)
    ended_at: list[int] = field(default_factory=list)
    done: bool = False


def deal(prompts: Sequence[list[int]], mode: Mode) -> list[Answer]:
    """Answers with prompts dealt evenly to sub-batches and ranks: the longest first, each to the fewest tokens."""
    cells = [(sub, rank) for sub in range(mode.sub_batches) for rank in range(mode.ranks)]
    most = -(-len(prompts) // len(cells))
    dealt: dict[tuple[int, int], list[int]] = {cell: [] for cell in cells}
    for number in sorted(range(len(prompts)), key=lambda n: -len(prompts[n])):
        open_cells = [cell for cell in cells if len(dealt[cell]) < most]
        chosen = min(open_cells, key=lambda cell: sum(len(prompts[n]) for n in dealt[cell]))
        dealt[chosen].append(number)
    slots, answers = dict.fromkeys(range(mode.ranks), 0), []
    for (sub, rank), numbers in dealt.items():
        for number in sorted(numbers):
            answers.append(
                Answer(number=number, prompt_ids=prompts[number], sub_batch=sub, rank=rank, slot=slots[rank])
            )
            slots[rank] += 1
    return sorted(answers, key=lambda answer: answer.number)


def fitted(preset: Preset, shape: AttentionShape, requests: int, context_length: int) -> PimRankParams:
    """Rank of a preset with bank PUs for the model, and buffer entries for the queries of `requests` requests at once.

    Buffer entries are named in the word of a request. If that would be too wide, its token count is no wider than the
    longest context needs.

    Raises
    ------
    ParameterError
    """
    require(preset.format == shape.format, "format of the preset", preset.format.name, "fp16, that of K and V")
    rank = preset.rank.for_shape(shape).with_dpa()
    dpa = rank.require_dpa()
    require(requests <= dpa.num_slots, "requests of a rank", requests, f"at most {dpa.num_slots}, its slots")
    needed = requests * shape.num_kv_heads * rank.queries_at_once
    queries, least = max(rank.queries, 1 << (needed - 1).bit_length()), max(8, context_length.bit_length())
    for bits in range(dpa.max_tokens_bits, least, -1):
        with suppress(ParameterError):
            return _with_entries(rank, queries, bits)
    return _with_entries(rank, queries, least)


def _with_entries(rank: PimRankParams, queries: int, max_tokens_bits: int) -> PimRankParams:
    """The rank with `queries` buffer entries, and token counts of `max_tokens_bits` bits."""
    sizes = replace(rank.dpa_sizes or DpaSizes(), max_tokens_bits=max_tokens_bits)
    return replace(rank, queries=queries, dpa_sizes=sizes)


@dataclass(kw_only=True)
class BatchRun:
    """Result of a batch.

    Parameters
    ----------
    mode : Mode
    cycle_ps : int
        Period of a controller clock.
    answers : list of Answer
    begin : int
        Clock of the ranks at which time begins.
    phases : list of Phase
    clocks : int
        Clocks until the last token was known.
    activity : list of RankActivity
        Activity of each rank, if it was requested.
    simulated_clocks : int
        Clocks of all ranks together, prefill included.
    wall_seconds : float
    """

    mode: Mode
    cycle_ps: int
    answers: list[Answer]
    begin: int = 0
    phases: list[Phase] = field(default_factory=list)
    clocks: int = 0
    activity: list[RankActivity] = field(default_factory=list)
    simulated_clocks: int = 0
    wall_seconds: float = 0.0

    def spans(self, resource: str, rank: int | None = None) -> list[tuple[int, int]]:
        """Intervals in which a resource was at work."""
        return [(p.start, p.end) for p in self.phases if p.resource == resource and rank in (None, p.rank)]

    @property
    def steps(self) -> int:
        """Decode steps of the longest answer."""
        return max(len(answer.token_ids) for answer in self.answers) - 1

    def figures(self) -> dict[str, Any]:
        """All figures, as in ``docs/batch-json.md``; None where nothing was decoded."""
        tokens = sum(len(answer.token_ids) - 1 for answer in self.answers)
        gpu, channel, ranks = (self.spans(resource) for resource in ("gpu", "channel", "rank"))
        busy = [covered(self.spans("rank", n), [(0, self.clocks)]) for n in range(self.mode.ranks)]
        transfers = covered(channel, channel)

        def share(part: float, whole: float) -> float | None:
            return part / whole if whole else None

        seconds = self.clocks * self.cycle_ps * 1e-12
        return {
            "clocks": self.clocks,
            "clocks_per_token": share(self.clocks, self.steps),
            "us_per_token": share(seconds * 1e6, self.steps),
            "tokens_per_second": share(tokens, seconds),
            "gpu_busy": share(covered(gpu, gpu), self.clocks),
            "pim_busy": share(sum(busy) / len(busy), self.clocks),
            "channel_busy": share(transfers, self.clocks),
            "transfers_hidden": share(covered(channel, gpu + ranks), transfers),
            "transfers_hidden_by_pim": share(covered(channel, ranks), transfers),
        }
