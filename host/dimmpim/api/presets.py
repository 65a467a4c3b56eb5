"""Presets: ranks with PIM that have a name, and their figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from dimmpim.api.models import model as model_named
from pimhost.models import ModelShape
from pimspec.attention.shape import MAX_GQA_GROUP_SIZE, AttentionShape
from pimspec.dram import limits
from pimspec.dram.organization import DramPreset, dram_preset
from pimspec.params import presets as presets_of_ranks
from pimspec.params.pim_rank import PimRankParams

__all__ = ["Preset", "attention_shape", "preset", "preset_of", "preset_under", "presets"]


@dataclass(frozen=True, kw_only=True)
class Preset(presets_of_ranks.Preset):
    """A rank with PIM that has a name, and its figures.

    Parameters
    ----------
    name : str
    description : str
        One line.
    rank : PimRankParams
        Parameters of the rank; ``dataclasses.replace`` changes some of them.
    other_units : mapping of str to UnitParams, optional
        Arithmetic units instead of those that follow from the rank.

    Examples
    --------
    >>> import dimmpim
    >>> tiny = dimmpim.preset("tiny")
    >>> tiny.chips, tiny.banks_per_chip, tiny.lanes
    (2, 4, 4)
    >>> tiny.bank_bytes_per_s / tiny.host_bytes_per_s
    2.0
    """

    description: str = ""

    @cached_property
    def _part(self) -> DramPreset:
        """The DRAM part, with the chips, banks and columns that the rank has of it."""
        return replace(dram_preset(self.rank.dram), organization=self.rank.organization)

    @property
    def chips(self) -> int:
        """DRAM chips of the rank."""
        return self.rank.num_chips

    @property
    def banks_per_chip(self) -> int:
        """Banks of a chip; each has a bank PU."""
        return self.rank.num_banks

    @property
    def lanes(self) -> int:
        """Elements of a column access of a bank, and so products of a bank PU per access and query."""
        return self.rank.lanes

    @property
    def head_dim(self) -> int:
        """Elements of a K or V vector that the bank PUs are built for."""
        return self.rank.head_dim

    @property
    def queries_at_once(self) -> int:
        """Queries of a kv_head that a bank PU handles in one pass."""
        return self.rank.queries_at_once

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all chips of the rank."""
        return self.rank.organization.rank_bytes

    @property
    def host_bytes_per_s(self) -> float:
        """Peak bandwidth of the data bus between host and rank."""
        return limits.external_bandwidth_bytes_per_s(self._part)

    @property
    def bank_bytes_per_s(self) -> float:
        """Peak bandwidth of all banks together: what the bank PUs read."""
        return limits.rank_bandwidth_bytes_per_s(self._part)

    @property
    def clock_ns(self) -> float:
        """Period of the clock of controller and bank PUs."""
        return float(self.rank.timing.time_ps(self.rank.ck_per_clock)) / 1000

    def rank_for(self, model: ModelShape | AttentionShape | str) -> PimRankParams:
        """The same rank with bank PUs fitted to a model: its head_dim, and lanes for all queries of a kv_head.

        Parameters
        ----------
        model : ModelShape, AttentionShape or str
            A model, the shape of its attention, or the name of a model.

        Raises
        ------
        ParameterError
            If no such bank PU can be built.
        UnknownNameError

        Examples
        --------
        >>> import dimmpim
        >>> rank = dimmpim.preset("ddr4-3200-x8-8gb").rank_for("Llama-3.1-8B")
        >>> rank.head_dim, rank.queries_at_once
        (128, 4)
        """
        return self.rank.for_shape(attention_shape(model, self.rank))

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain numbers and texts, for JSON; `rank` holds the parameters."""
        names = (
            "chips", "banks_per_chip", "lanes", "head_dim", "queries_at_once", "capacity_bytes",
            "host_bytes_per_s", "bank_bytes_per_s", "clock_ns",
        )  # fmt: skip
        return {
            "name": self.name,
            "description": self.description,
            "dram": self.dram,
            "format": self.format.name,
            "ck_per_clock": self.rank.ck_per_clock,
            **{name: getattr(self, name) for name in names},
            "rank": {**asdict(self.rank), "format": self.format.name},
        }


def attention_shape(model: ModelShape | AttentionShape | str, rank: PimRankParams) -> AttentionShape:
    """The attention of one layer as one pass of the bank PUs takes it.

    Parameters
    ----------
    model : ModelShape, AttentionShape or str
    rank : PimRankParams
        Gives the format of the numbers of a model.

    Returns
    -------
    AttentionShape
        With more queries a kv_head than a bank PU has lanes for, those of one pass.
    """
    if isinstance(model, AttentionShape):
        return model
    shape = model_named(model) if isinstance(model, str) else model
    passes = -(-shape.gqa_group_size // MAX_GQA_GROUP_SIZE)
    return AttentionShape(
        num_q_heads=-(-shape.gqa_group_size // passes) * shape.num_kv_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        format=rank.format,
    )


def presets() -> Mapping[str, Preset]:
    """All presets, by name.

    Returns
    -------
    mapping of str to Preset

    Examples
    --------
    >>> import dimmpim
    >>> "ddr4-3200-x8-8gb" in dimmpim.presets()
    True
    """
    return {name: preset(name) for name in presets_of_ranks.PRESETS}


def preset(name: str) -> Preset:
    """The preset of a name.

    Parameters
    ----------
    name : str
        Such as ``"tiny"`` or ``"ddr4-3200-x8-8gb"``.

    Raises
    ------
    UnknownNameError
        The text lists the names that exist.

    Examples
    --------
    >>> import dimmpim
    >>> dimmpim.preset("ddr4-3200-x8-8gb").capacity_bytes / 2**30
    8.0
    """
    found = presets_of_ranks.preset_named(name)
    return Preset(**{field.name: getattr(found, field.name) for field in fields(found)})


def preset_of(given: Preset | str) -> Preset:
    """The preset itself, or that of a name."""
    return given if isinstance(given, Preset) else preset(given)


def preset_under(
    given: Preset | str,
    *,
    bus_tccd: str | None = None,
    max_streaming_banks: int | None = None,
    max_current_ma: float | None = None,
    refresh: int | None = None,
) -> Preset:
    """The preset, with other rules for its DRAM; what is None stays as the preset has it.

    Parameters
    ----------
    given : Preset or str
    bus_tccd : {"long", "short"}, optional
        Whether lines to and from the bank PUs keep tCCD_L, since they use the data paths of the bank_groups. "short" is
        an older assumption.
    max_streaming_banks : int, optional
        Most banks of a chip that may stream at once; 0 for no limit.
    max_current_ma : float, optional
        Most supply current of a chip, kept as a number of banks that may stream; 0 for no limit.
    refresh : {1, 2}, optional
        Refresh rate: 2 for twice the rate, as above 85 degC.

    Raises
    ------
    ParameterError
    UnknownNameError
        If there is a limit of current for a part without documented currents.

    Examples
    --------
    >>> import dimmpim
    >>> from dimmpim.api.presets import preset_under
    >>> preset_under("ddr4-3200-x8-8gb", max_current_ma=540).rank.engine.streaming_limit
    9
    """
    chosen = preset_of(given)
    changes = {
        "bus_tccd": bus_tccd,
        "max_streaming_banks": max_streaming_banks,
        "max_current_ma": max_current_ma,
        "refresh_rate": refresh,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        return chosen
    rank = replace(chosen.rank, **changes)  # type: ignore[arg-type]
    _ = rank.engine  # its limits are checked
    return replace(chosen, rank=rank)
