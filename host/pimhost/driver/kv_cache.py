"""KV cache of a rank with a DPA controller: chunks of requests, and the operations that tell the device of them.

A request needs ``ceil(tokens / row_step_tokens) * regions`` virtual rows (:mod:`pimcompiler.attention`), and as many
chunks as hold them. :class:`LazyKvCache` grants a chunk when a token needs it. :class:`StaticKvCache` grants at once
all chunks that the longest context would need. Both return the configuration operations as *interventions*: one for
each new chunk, and one for each release. With SET_REQUEST and SET_SCALE of a new request, that is all the host has to
do: starts follow the data, and the device counts tokens by itself.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from pimspec.errors import OutOfMemoryError, PimError, require
from pimspec.params.dpa import ConfigOp, ConfigOperation, DpaParams

__all__ = ["CacheStatistics", "Intervention", "KvCache", "LazyKvCache", "OutOfMemoryError", "StaticKvCache"]


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """Operations of the host that belong together, for one new chunk or one release.

    Parameters
    ----------
    slot : int
    chunk : int or None
        New physical chunk; None for a release.
    operations : tuple of ConfigOperation
        Operations in order. A chunk's owner comes last, so that a half-written entry is never valid.
    """

    slot: int
    chunk: int | None
    operations: tuple[ConfigOperation, ...]


@dataclass(frozen=True, kw_only=True)
class CacheStatistics:
    """Use of the KV-cache memory.

    Parameters
    ----------
    requests : int
        Resident requests.
    live_bytes : int
        Bytes of K and V of live tokens.
    allocated_bytes : int
        Bytes of granted chunks.
    capacity_bytes : int
        Bytes of all chunks of the rank.
    """

    requests: int
    live_bytes: int
    allocated_bytes: int
    capacity_bytes: int

    @property
    def utilization(self) -> float:
        """Live over allocated bytes; 1 if nothing is allocated."""
        return self.live_bytes / self.allocated_bytes if self.allocated_bytes else 1.0

    @property
    def utilization_of_capacity(self) -> float:
        """Live bytes over the capacity of the rank."""
        return self.live_bytes / self.capacity_bytes


@dataclass(kw_only=True)
class _Request:
    tokens: int
    chunks: list[int] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)


class KvCache(ABC):
    """Chunks of the requests of one rank.

    Parameters
    ----------
    params : DpaParams
    regions : int
        Regions of each request: twice the kv_heads of all its layers in this rank.

    Raises
    ------
    ParameterError
    """

    def __init__(self, params: DpaParams, regions: int) -> None:
        require(regions >= 2 and regions % 2 == 0, "regions", regions, "an even number, 2 or more")
        self.params, self.regions = params, regions
        self._requests: dict[int, _Request] = {}
        # Heaps: the lowest free number first.
        self._free_chunks = list(range(params.num_chunks))
        self._free_leaves = list(range(params.leaves))

    @abstractmethod
    def _provided_tokens(self, tokens: int) -> int:
        """Tokens for which a request of `tokens` tokens has memory."""

    @property
    def chunk_bytes(self) -> int:
        return self.params.chunk_rows * self.params.row_step_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes of K and V of one token."""
        return self.regions * self.params.row_step_bytes // self.params.row_step_tokens

    def chunks_for(self, tokens: int) -> int:
        """Number of chunks that hold `tokens` tokens of one request."""
        blocks = -(-tokens // self.params.row_step_tokens)
        return -(-blocks * self.regions // self.params.chunk_rows)

    def open(self, slot: int, tokens: int) -> list[Intervention]:
        """Open a request of `tokens` tokens in an empty slot; returns one intervention for each chunk.

        Raises
        ------
        ParameterError
        OutOfMemoryError
        """
        require(0 <= slot < self.params.num_slots, "slot", slot, f"0..{self.params.num_slots - 1}")
        require(slot not in self._requests, "slot", slot, "one without a request")
        require(tokens >= 1, "tokens", tokens, "1 or more")
        self._requests[slot] = _Request(tokens=0)
        try:
            return self.grow(slot, tokens)
        except PimError:
            del self._requests[slot]
            raise

    def grow(self, slot: int, tokens: int) -> list[Intervention]:
        """Grow a request to `tokens` tokens; returns one intervention for each new chunk, mostly none.

        Raises
        ------
        ParameterError
            If it is not longer than before, or longer than a slot can be.
        OutOfMemoryError
        """
        request = self._request(slot)
        require(tokens >= request.tokens, "tokens", tokens, f"{request.tokens} or more, for requests do not shrink")
        wanted = self.chunks_for(self._provided_tokens(tokens))
        p = self.params
        most = p.directory_entries * p.leaf_entries
        require(wanted <= most, "chunks of a request", wanted, f"at most {most}")
        new_chunks = wanted - len(request.chunks)
        new_leaves = -(-wanted // p.leaf_entries) - len(request.leaves)
        if new_chunks > len(self._free_chunks) or new_leaves > len(self._free_leaves):
            raise OutOfMemoryError(
                f"slot {slot} needs {new_chunks} chunks and {max(0, new_leaves)} leaves more, "
                f"{len(self._free_chunks)} and {len(self._free_leaves)} are free"
            )
        request.tokens = tokens
        return [self._grant(slot, request) for _ in range(new_chunks)]

    def _grant(self, slot: int, request: _Request) -> Intervention:
        p, chunk = self.params, heapq.heappop(self._free_chunks)
        entry, place = divmod(len(request.chunks), p.leaf_entries)
        operations = []
        if entry == len(request.leaves):
            leaf = heapq.heappop(self._free_leaves)
            request.leaves.append(leaf)
            value = p.directory_entry.pack_int(valid=1, leaf=leaf)
            operations.append(ConfigOperation(op=ConfigOp.SET_DIRECTORY, slot=slot, index=entry, value=value))
        index = request.leaves[entry] * p.leaf_entries + place
        value = p.leaf_entry.pack_int(valid=1, chunk=chunk)
        operations.append(ConfigOperation(op=ConfigOp.SET_LEAF, index=index, value=value))
        owner = p.owner_entry.pack_int(valid=1, slot=slot, readable=1)
        operations.append(ConfigOperation(op=ConfigOp.SET_OWNER, index=chunk, value=owner))
        request.chunks.append(chunk)
        return Intervention(slot=slot, chunk=chunk, operations=tuple(operations))

    def release(self, slot: int) -> Intervention:
        """Close a request and free its chunks and leaves; the slot must have no waiting starts."""
        request, p = self._request(slot), self.params
        operations = [ConfigOperation(op=ConfigOp.RELEASE, slot=slot)]
        for number, chunk in enumerate(request.chunks):
            entry, place = divmod(number, p.leaf_entries)
            index = request.leaves[entry] * p.leaf_entries + place
            operations.append(ConfigOperation(op=ConfigOp.SET_OWNER, index=chunk))
            operations.append(ConfigOperation(op=ConfigOp.SET_LEAF, index=index))
            heapq.heappush(self._free_chunks, chunk)
        for leaf in request.leaves:
            heapq.heappush(self._free_leaves, leaf)
        del self._requests[slot]
        return Intervention(slot=slot, chunk=None, operations=tuple(operations))

    def physical_row(self, slot: int, token: int, region: int) -> int:
        """Physical row that holds a token of a region (:func:`pimspec.attention.regions.region_of`)."""
        request, p = self._request(slot), self.params
        require(0 <= region < self.regions, "region", region, f"0..{self.regions - 1}")
        require(0 <= token < request.tokens, "token", token, f"0..{request.tokens - 1}")
        row = token // p.row_step_tokens * self.regions + region
        number, within = divmod(row, p.chunk_rows)
        return request.chunks[number] * p.chunk_rows + within

    def chunks_of(self, slot: int) -> tuple[int, ...]:
        """Physical chunks of a request, in the order of its virtual rows."""
        return tuple(self._request(slot).chunks)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            requests=len(self._requests),
            live_bytes=self.token_bytes * sum(r.tokens for r in self._requests.values()),
            allocated_bytes=self.chunk_bytes * sum(len(r.chunks) for r in self._requests.values()),
            capacity_bytes=self.chunk_bytes * self.params.num_chunks,
        )

    def _request(self, slot: int) -> _Request:
        require(slot in self._requests, "slot", slot, "one with a request")
        return self._requests[slot]


class LazyKvCache(KvCache):
    """KV cache that grants a chunk when a token needs it."""

    def _provided_tokens(self, tokens: int) -> int:
        return tokens


class StaticKvCache(KvCache):
    """KV cache that grants every request the chunks of `max_tokens` tokens at once: the baseline.

    Parameters
    ----------
    max_tokens : int
        Greatest length of a request.
    """

    def __init__(self, params: DpaParams, regions: int, *, max_tokens: int) -> None:
        super().__init__(params, regions)
        require(max_tokens >= 1, "max_tokens", max_tokens, "1 or more")
        self.max_tokens = max_tokens

    def _provided_tokens(self, tokens: int) -> int:
        require(tokens <= self.max_tokens, "tokens", tokens, f"at most {self.max_tokens}")
        return self.max_tokens
