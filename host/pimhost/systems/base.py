"""Interface of a serving system, and its view of the simulation in each iteration.

A system is a class that states its memory, the prompts that begin (:meth:`ServingSystem.plan`), and the times of an
iteration (:meth:`ServingSystem.times`). The simulator (:mod:`pimhost.serving.simulator`) does the rest. Users can add a
system in a file of their own: ``dimmpim serve --system FILE.py:CLASS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pimspec.errors import require

from ..gpu.llm_cost import LlmCost
from ..gpu.power import GpuWork, attention_work, dense_work, head_work, power_of
from ..models import ModelShape
from ..serving.batch import Load, Prefill, SubBatch, Times
from ..serving.energy import EnergyModel
from ..serving.memory import MemoryGeometry
from .memory_energy import MemoryEnergy
from .node import Node

__all__ = ["VLLM_BLOCK_TOKENS", "VLLM_CHUNK_TOKENS", "ServingSystem", "Turn", "spread_chunks"]

IntArray = NDArray[np.int64]

VLLM_BLOCK_TOKENS = 16
"""Tokens in a block of a GPU's paged KV cache: vLLM's default ``block_size``."""
VLLM_CHUNK_TOKENS = 2048
"""New tokens in an iteration of chunked prefill: vLLM's default ``max_num_batched_tokens``."""


class Turn(Protocol):
    """View and actions that :meth:`ServingSystem.plan` has before an iteration."""

    @property
    def sub_batches(self) -> Sequence[SubBatch]:
        """Requests that generate a token in this iteration."""

    @property
    def prefills(self) -> Sequence[Prefill]:
        """Prompts in prefill, in the order of their admission."""

    @property
    def waiting(self) -> int:
        """Number of requests that have arrived and not begun."""

    @property
    def blocked(self) -> bool:
        """True if memory has no room for the first waiting request."""

    def admit(self, sub_batch: int) -> Prefill | None:
        """Begin the first waiting request, with memory for its prompt; None if there is no request or no room."""

    def chunk(self, prefill: Prefill, tokens: int) -> None:
        """Compute `tokens` tokens of a prompt in this iteration; a second call replaces the first."""


class ServingSystem(ABC):
    """A way to serve a model on a node.

    Parameters
    ----------
    shape : ModelShape
    node : Node
        Node of one replica (:meth:`pimhost.systems.node.Node.replica`).

    Raises
    ------
    ParameterError
        If the model cannot be split over the GPUs, or its weights do not fit.
    """

    name: ClassVar[str]
    num_sub_batches: ClassVar[int] = 1
    has_pim: ClassVar[bool] = False
    """True if attention runs outside the GPU, so that its busy share is meaningful."""

    def __init__(self, shape: ModelShape, node: Node) -> None:
        self.shape, self.node = shape, node
        self.cost = LlmCost(gpu=node.gpu_times, shape=shape, tp_size=node.tp_size)
        self._prefill_ns: dict[tuple[int, int], int] = {}
        self._dense_work: dict[int, GpuWork] = {}
        self._gpu_power = power_of(node.gpu)
        weights, memory = self.cost.weight_bytes, node.gpu_bytes
        require(weights <= memory, "weights of a GPU", f"{weights / 1e9:.1f} GB", f"at most {memory / 1e9:.1f} GB")

    @property
    def lanes_per_pool(self) -> int:
        """Number of lanes that share the memory of a pool."""
        return 1

    @abstractmethod
    def geometry(self) -> MemoryGeometry:
        """Geometry of the memory for K and V."""

    @abstractmethod
    def plan(self, turn: Turn) -> None:
        """Choose the prompts to compute in this iteration.

        If it chooses none, it is called again only after a request has arrived, ended, or lost its memory. The
        iterations until then are computed together.
        """

    @abstractmethod
    def times(self, loads: Sequence[Load], steps: int) -> Times:
        """Times of `steps` consecutive iterations.

        In the k-th, each decoding request has k tokens more than in `loads`. If there are chunks, `steps` is 1.
        """

    def memory_energy(self) -> MemoryEnergy:
        """Energy of the KV-cache memory outside the GPUs and of the links to it; zero if attention is on the GPU."""
        if not self.has_pim:
            return MemoryEnergy()
        parts = (field.name for field in fields(MemoryEnergy) if field.name != "missing")
        return MemoryEnergy().unknown(f"{self.name} does not say what its memory takes", *parts)

    # Shared by all systems: the GPU's part.

    def gpu_geometry(self) -> MemoryGeometry:
        """Geometry of a paged KV cache in the GPU memory that the weights leave free."""
        tp, cost = self.node.tp_size, self.cost
        # A GPU holds at least one kv_head, so small models on many GPUs hold some K and V twice.
        held = 2 * self.shape.num_layers * cost.tp_kv_heads * self.shape.head_dim * 2 * tp
        return self.paged_geometry(tp * (self.node.gpu_bytes - cost.weight_bytes), held)

    def paged_geometry(self, pool_bytes: int, held_bytes: int) -> MemoryGeometry:
        """Geometry of one memory in blocks of tokens of `held_bytes` each; a memory below one block has no units."""
        block_bytes = VLLM_BLOCK_TOKENS * held_bytes
        return MemoryGeometry(
            num_pools=1,
            pool_units=max(0, pool_bytes // block_bytes),
            block_tokens=VLLM_BLOCK_TOKENS,
            unit_bytes=block_bytes,
            token_bytes=self.shape.kv_bytes_per_token(),
        )

    def dense_layer_ns(self, load: Load) -> int:
        """Time of one layer on the GPU, without the attention of decoding requests."""
        if not load.new_tokens:
            return 0
        return self.cost.layer_ns(load.new_tokens) + sum(self._chunk_ns(*chunk) for chunk in load.chunks)

    def _chunk_ns(self, tokens: int, prefix: int) -> int:
        key = (tokens, prefix)
        if key not in self._prefill_ns:
            self._prefill_ns[key] = self.cost.prefill_attention_ns(tokens, prefix=prefix)
        return self._prefill_ns[key]

    def energy_model(self) -> EnergyModel:
        """Energy constants of a replica; :mod:`pimhost.serving.energy` does the sums."""
        shape, node = self.shape, self.node
        return EnergyModel(
            gpus=node.tp_size,
            gpu_name=node.gpu,
            gpu=self._gpu_power,
            memory=self.memory_energy(),
            kv_heads=shape.num_layers * shape.num_kv_heads,
        )

    def gpu_work_nj(self, loads: Sequence[Load], busy_ns: IntArray) -> tuple[IntArray, IntArray]:
        """Energy of arithmetic and bytes of all GPUs in consecutive iterations, without their static power.

        Parameters
        ----------
        loads : sequence of Load
            Loads as in :meth:`times`.
        busy_ns : array, (iterations,)
            GPU busy time.
        """
        if self._gpu_power is None:
            nothing = np.zeros_like(busy_ns)
            return nothing, nothing
        steps = np.arange(len(busy_ns), dtype=float)
        work = GpuWork(np.zeros_like(steps), np.zeros_like(steps))
        for load in loads:
            work += self._load_work(load, steps)
        arithmetic, moved = self._gpu_power.work_nj(work, busy_ns, self.node.spec.tdp_w)
        return self.node.tp_size * arithmetic, self.node.tp_size * moved

    def _load_work(self, load: Load, steps: NDArray[np.float64]) -> GpuWork:
        """Work of one GPU; in iteration k each decoding request has k tokens more."""
        cost, work = self.cost, GpuWork(0.0, 0.0)
        if load.new_tokens:
            if load.new_tokens not in self._dense_work:
                self._dense_work[load.new_tokens] = dense_work(cost, load.new_tokens)
            work += self._dense_work[load.new_tokens]
        for tokens, prefix in load.chunks:
            work += attention_work(cost, tokens, tokens * (prefix + (tokens + 1) / 2), float(prefix + tokens))
        if load.decodes and not self.has_pim:
            context = load.context_sum + load.decodes * steps
            work += attention_work(cost, load.decodes, context, context)
        sequences = load.decodes + load.completed
        return work.times(self.shape.num_layers) + (head_work(cost, sequences) if sequences else GpuWork(0.0, 0.0))

    def head_ns(self, load: Load) -> int:
        """Time of the lm_head for all requests that get a token."""
        sequences = load.decodes + load.completed
        return self.cost.lm_head_ns(sequences) if sequences else 0


def spread_chunks(turn: Turn, budget: int, num_sub_batches: int = 1) -> None:
    """Apply vLLM's chunked prefill: decoding requests first, then prompts in order, up to the budget.

    A new request goes to the sub-batch with the fewest tokens in memory.

    Parameters
    ----------
    turn : Turn
    budget : int
        New tokens of one iteration.
    num_sub_batches : int
    """
    left = max(budget - sum(len(batch) for batch in turn.sub_batches), VLLM_BLOCK_TOKENS)
    tokens = [batch.tokens for batch in turn.sub_batches]
    for prefill in turn.prefills:
        tokens[prefill.sub_batch] += prefill.target
        if left:
            taken = min(left, prefill.left)
            turn.chunk(prefill, taken)
            left -= taken
    while left:
        target = min(range(num_sub_batches), key=tokens.__getitem__)
        new = turn.admit(target)
        if new is None:
            return
        tokens[target] += new.target
        taken = min(left, new.left)
        turn.chunk(new, taken)
        left -= taken
