"""The time that the attention of a model takes on ranks with PIM, by the timing model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from dimmpim.api.models import model as model_named
from dimmpim.api.presets import Preset, attention_shape, preset_of
from dimmpim.ranks import open_timing
from pimhost.driver.decode_step import RankTime, legal_limit, time_step
from pimhost.models import ModelShape
from pimspec.attention.shape import ELEMENT_BYTES, AttentionShape
from pimspec.dram import limits
from pimspec.dram.commands import COMMANDS, Bus, Command
from pimspec.errors import require
from pimspec.params.pim_rank import PimRankParams

__all__ = ["AttentionTime", "attention_time"]

JSON_VERSION = 1
AT_ITS_LIMIT = 0.8
"""Share of what a resource can reach from which on it is said to bound the attention."""
BOUNDS = {
    "banks": "the banks: rows opened, columns read, refresh",
    "data bus": "the data bus of the rank: queries, scores, probabilities and sums",
    "latency": "the start and the end of each kv_head: the context is too short to keep the banks busy",
    "static order": "the static order: banks and data bus wait for one another",
}


@dataclass(frozen=True, kw_only=True)
class AttentionTime:
    """Time of decode attention: one new token for each request of a batch.

    The kv_heads of a layer are dealt over the ranks; the rank with the most of them decides. With more ranks than
    kv_heads, layers are dealt over sets of ranks: that adds memory, and no speed, as layers follow one another.

    Parameters
    ----------
    model, preset : str
    tokens : int
        Tokens of the context of each request.
    batch : int
        Requests, which a rank handles one after the other.
    ranks, tp : int
        Ranks of all tensor-parallel GPUs together, and the number of these GPUs.
    num_layers, num_q_heads, num_kv_heads, head_dim : int
        Of the model.
    kv_heads_of_ranks : tuple of int
        kv_heads of a layer in each rank that works on the layer, over all tp_ranks.
    layer_sets : int
        Sets of ranks, each with its share of the layers.
    passes : int
        Times that a rank reads K and V; 2 or more if more queries share a kv_head than a bank PU has lanes for.
    layer_clocks, token_clocks : int
        Controller clocks of one layer, and of all layers: those of one token of every request.
    layer_ns, token_ns : float
        The same as time.
    utilization_of_peak : float
        Bytes of K and V over what all banks of the fullest rank could have read.
    utilization_of_legal_limit : float
        The same over what the DRAM timing allows.
    bus_utilization : float
        Share of the time in which the data bus of the fullest rank carries data.
    rank_balance : float
        Mean over greatest number of kv_heads in the ranks of a layer; idle ranks count.
    bound : str
        ``"banks"``, ``"data bus"``, ``"latency"`` or ``"static order"``.
    layer_kv_bytes, token_kv_bytes : int
        K and V of all requests in one layer, and in all; each pass reads them once.
    kv_bytes_of_rank, capacity_bytes_of_rank : int
        K and V of all layers in the fullest rank, and the memory of a rank.
    """

    model: str
    preset: str
    tokens: int
    batch: int
    ranks: int
    tp: int
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    kv_heads_of_ranks: tuple[int, ...]
    layer_sets: int
    passes: int
    layer_clocks: int
    token_clocks: int
    layer_ns: float
    token_ns: float
    utilization_of_peak: float
    utilization_of_legal_limit: float
    bus_utilization: float
    rank_balance: float
    bound: str
    layer_kv_bytes: int
    token_kv_bytes: int
    kv_bytes_of_rank: int
    capacity_bytes_of_rank: int

    @property
    def clocks(self) -> int:
        """Controller clocks of one token of every request: `token_clocks`."""
        return self.token_clocks

    @property
    def ns(self) -> float:
        """Nanoseconds of one token of every request: `token_ns`."""
        return self.token_ns

    @property
    def fits_in_memory(self) -> bool:
        """Whether K and V of all layers fit into the ranks."""
        return self.kv_bytes_of_rank <= self.capacity_bytes_of_rank

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain numbers and texts: what ``dimmpim attention --model --json`` writes."""
        document = asdict(self) | {"kv_heads_of_ranks": list(self.kv_heads_of_ranks)}
        return {"version": JSON_VERSION, **document, "fits_in_memory": self.fits_in_memory}


@dataclass(frozen=True, kw_only=True)
class _Shares:
    """How a layer lies over ranks."""

    kv_heads: tuple[int, ...]
    layer_sets: int
    rank_balance: float


def _shares(num_kv_heads: int, ranks: int, tp: int) -> _Shares:
    """Deal kv_heads over tp_ranks, and those of a tp_rank over its ranks.

    A kv_head is kept by several tp_ranks if there are more of them, as serving engines do.
    """
    per_tp_rank, own = -(-num_kv_heads // tp), ranks // tp
    used = min(own, per_tp_rank)
    sets = max(1, own // per_tp_rank)
    heads: list[int] = []
    for tp_rank in range(tp):
        count = 1 if tp > num_kv_heads else len(range(tp_rank, num_kv_heads, tp))
        heads += [len(range(rank, count, used)) for rank in range(used)]
    return _Shares(
        kv_heads=tuple(sorted(heads, reverse=True)),
        layer_sets=sets,
        rank_balance=sum(heads) * sets / (ranks * max(heads)),
    )


def _bus_utilization(run: RankTime) -> float:
    """Share of the clocks of a step in which data is on the bus."""
    assert run.counts is not None, "of the timing model"
    bursts = sum(n for command, n in run.counts.commands.items() if COMMANDS[command].bus is not Bus.NONE)
    return bursts * run.params.timing.nBL / (run.clocks * run.params.ck_per_clock)


def _bus_occupation(run: RankTime) -> float:
    """Share of the clocks in which the bus carries data, or waits for the distance of two PIM_WR_SB."""
    assert run.counts is not None, "of the timing model"
    p = run.params
    distance = p.timing.nCCD_L if p.bus_tccd == "long" else p.timing.nCCD_S
    waits = run.counts.commands.get(Command.PIM_WR_SB, 0) * (distance - p.timing.nBL)
    return _bus_utilization(run) + waits / (run.clocks * p.ck_per_clock)


def _bound(params: PimRankParams, utilization: float, bus: float) -> str:
    """What the attention waits for: a key of BOUNDS."""
    timing = params.timing
    row = limits.row_efficiency(timing, params.organization.column_accesses_per_row)
    streaming = min(row, params.engine.streaming_limit / params.num_banks)
    banks = utilization / (streaming * (1 - params.refresh_rate * timing.nRFC / timing.nREFI))
    if max(banks, bus) < AT_ITS_LIMIT:
        return "latency"
    return "banks" if banks >= bus else "data bus"


def attention_time(
    model: ModelShape | str,
    tokens: int,
    *,
    ranks: int = 1,
    preset: Preset | str = "ddr4-3200-x8-8gb",
    tp: int = 1,
    batch: int = 1,
    static_order: bool = False,
) -> AttentionTime:
    """Time of the decode attention of a model: clocks of the RTL, from its timing model.

    Parameters
    ----------
    model : ModelShape or str
    tokens : int
        Tokens of the context of each request.
    ranks : int
        Ranks of all GPUs together, a multiple of `tp`.
    preset : Preset or str
        Its rank is fitted to the model.
    tp : int
        Tensor-parallel GPUs, over which the kv_heads are dealt first.
    batch : int
        Requests of `tokens` tokens each.
    static_order : bool
        No overlap of banks and bus, for comparison.

    Returns
    -------
    AttentionTime

    Raises
    ------
    ParameterError
        If a number is out of range, or one layer does not fit into the ranks.
    UnknownNameError

    Examples
    --------
    >>> import dimmpim
    >>> one = dimmpim.attention_time("Llama-3.1-8B", tokens=8192)
    >>> eight = dimmpim.attention_time("Llama-3.1-8B", tokens=8192, ranks=8)
    >>> one.kv_heads_of_ranks, eight.kv_heads_of_ranks
    ((8,), (1, 1, 1, 1, 1, 1, 1, 1))
    >>> 7 < one.ns / eight.ns < 8
    True
    >>> eight.bound
    'banks'
    """
    chosen = preset_of(preset)
    shape = model_named(model) if isinstance(model, str) else model
    for name, given in (("tokens", tokens), ("ranks", ranks), ("tp", tp), ("batch", batch)):
        require(isinstance(given, int) and given >= 1, name, given, "1 or more")
    require(ranks % tp == 0, "ranks", ranks, f"a multiple of {tp} tensor-parallel GPUs")
    shares, params = _shares(shape.num_kv_heads, ranks, tp), chosen.rank_for(shape)
    attended = attention_shape(shape, params)
    group, most = attended.gqa_group_size, shares.kv_heads[0] * batch
    rank_shape = replace(attended, num_q_heads=group * most, num_kv_heads=most)
    passes = -(-shape.gqa_group_size // group)
    run = _step_time(params, rank_shape, tokens, static_order)
    layer_clocks = run.clocks * passes
    layer_ns, utilization, bus = run.ns * passes, run.utilization_of_peak, _bus_utilization(run)
    layer_bytes = tokens * batch * 2 * sum(shares.kv_heads) * shape.head_dim * ELEMENT_BYTES
    layers_of_rank = -(-shape.num_layers // shares.layer_sets)
    return AttentionTime(
        model=shape.name,
        preset=chosen.name,
        tokens=tokens,
        batch=batch,
        ranks=ranks,
        tp=tp,
        num_layers=shape.num_layers,
        num_q_heads=shape.num_q_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        kv_heads_of_ranks=shares.kv_heads,
        layer_sets=shares.layer_sets,
        passes=passes,
        layer_clocks=layer_clocks,
        token_clocks=layer_clocks * shape.num_layers,
        layer_ns=layer_ns,
        token_ns=layer_ns * shape.num_layers,
        utilization_of_peak=utilization,
        utilization_of_legal_limit=utilization / legal_limit(params, rank_shape),
        bus_utilization=bus,
        rank_balance=shares.rank_balance,
        bound="static order" if static_order else _bound(params, utilization, _bus_occupation(run)),
        layer_kv_bytes=layer_bytes,
        token_kv_bytes=layer_bytes * shape.num_layers,
        kv_bytes_of_rank=rank_shape.kv_bytes(tokens) * layers_of_rank,
        capacity_bytes_of_rank=chosen.capacity_bytes,
    )


def _step_time(params: PimRankParams, shape: AttentionShape, tokens: int, static_order: bool) -> RankTime:
    with open_timing(params) as host:
        return time_step(host, shape, tokens, static_order=static_order)
