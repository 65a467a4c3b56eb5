"""KV-cache memory in units that are granted as tokens come: blocks of a GPU, or chunks of PIM ranks.

A *pool* is memory that holds a request as a whole: all of a GPU's, or that of the ranks over which one request is
spread. A request of t tokens takes ``ceil(ceil(t / block_tokens) * regions / unit_rows)`` units of its pool. A block
holds the tokens of one row step, and takes a row in each region (K and V of each kv_head and layer in a rank). A unit
is a chunk of the DPA controller and has `unit_rows` rows. A GPU's block is a unit by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import require

__all__ = ["InvariantError", "KvMemory", "MemoryGeometry", "check"]

IntArray = NDArray[np.int64]


class InvariantError(RuntimeError):
    """A contradiction inside the simulator: a fault of the program, not of its input."""


def check(holds: bool, what: str) -> None:
    """Raise :class:`InvariantError` unless `holds`."""
    if not holds:
        raise InvariantError(what)


@dataclass(frozen=True, kw_only=True)
class MemoryGeometry:
    """Conversion of tokens to memory units.

    Parameters
    ----------
    num_pools : int
    pool_units : int
        Units of one pool.
    block_tokens : int
        Tokens for which memory is granted at once.
    regions : int
        Rows of a block.
    unit_rows : int
        Rows of a unit.
    unit_bytes : int
        Bytes of one unit, over all devices over which a request of the pool is spread.
    token_bytes : int
        Bytes of K and V of one token in all layers.

    Raises
    ------
    ParameterError
    """

    num_pools: int
    pool_units: int
    block_tokens: int
    unit_bytes: int
    token_bytes: int
    regions: int = 1
    unit_rows: int = 1

    def __post_init__(self) -> None:
        for name in ("num_pools", "block_tokens", "unit_bytes", "token_bytes", "regions", "unit_rows"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.pool_units >= 0, "pool_units", self.pool_units, "0 or more")

    def units(self, tokens: IntArray) -> IntArray:
        """Units of requests with the given numbers of tokens."""
        blocks = -(-tokens // self.block_tokens)
        return blocks if self.regions == self.unit_rows == 1 else -(-blocks * self.regions // self.unit_rows)

    def units_of(self, tokens: int) -> int:
        """Units of one request of `tokens` tokens."""
        return -(-(-(-tokens // self.block_tokens) * self.regions) // self.unit_rows)

    @property
    def capacity_bytes(self) -> int:
        return self.num_pools * self.pool_units * self.unit_bytes


class KvMemory:
    """Granted and free units of each pool.

    Parameters
    ----------
    geometry : MemoryGeometry
    """

    def __init__(self, geometry: MemoryGeometry) -> None:
        self.geometry = geometry
        self._free = np.full(geometry.num_pools, geometry.pool_units, np.int64)

    @property
    def free(self) -> IntArray:
        """Free units of each pool; read-only."""
        return self._free

    @property
    def granted(self) -> int:
        """Units granted in all pools."""
        return self.geometry.num_pools * self.geometry.pool_units - int(self._free.sum())

    def grant(self, pool: int, units: int) -> None:
        """Take free units of a pool; a negative number gives units back."""
        self._free[pool] -= units
        self._verify()

    def grant_each(self, pools: IntArray, units: IntArray) -> None:
        """Take ``units[i]`` units of pool ``pools[i]``."""
        self._free -= self.by_pool(pools, units)
        self._verify()

    def by_pool(self, pools: IntArray, units: IntArray) -> IntArray:
        """Sum of `units` in each pool."""
        if self.geometry.num_pools == 1:
            return np.array([units.sum()], np.int64)
        return np.bincount(pools, weights=units, minlength=self.geometry.num_pools).astype(np.int64)

    def _verify(self) -> None:
        check(bool((self._free >= 0).all()), "memory granted beyond what a pool has")
        check(bool((self._free <= self.geometry.pool_units).all()), "memory given back that was not granted")
