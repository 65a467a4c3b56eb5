"""Batch decoding by a GPU and ranks in RTL that share a memory channel, coordinated as in L3.

Three things can overlap (:class:`~pimhost.batch.plan.Mode`): GPU phases for one sub-batch with the attention of the
other; transfers to one rank with the work of others; and transfers of a sub-batch with the work of the same rank for
the other one. The numbers are the same in every mode; only the clocks differ. Time is that of
:mod:`pimhost.batch.coordination`, and begins when all prompts are in the ranks and PIM owns their DRAM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from pimhost.batch.activity import RankActivity
from pimhost.batch.coordination import LOOK, Claim, Coordinator, Finish, Process, Resource, Routine
from pimhost.batch.gpu_phases import GpuPhases
from pimhost.batch.plan import Answer, BatchRun, Mode, Phase, deal
from pimhost.devices.stored import GoldenDevice
from pimhost.driver.program_rank import PATIENCE
from pimhost.driver.rank_device import RankDevice
from pimhost.driver.rank_host import RankHost
from pimhost.llm.generate import generate, require_room, top_two
from pimhost.llm.layerwise import LayerVectors, LayerwiseLlama
from pimhost.llm.llama import LayerDevices
from pimspec.errors import require
from pimspec.hostif.device import Float32s
from pimspec.hostif.port import RankPort
from pimspec.params.pim_rank import PimRankParams

if TYPE_CHECKING:  # its libraries are slow to import
    from pimhost.llm.load import LoadedModel

__all__ = ["golden_tokens", "run_batch"]


def golden_tokens(
    loaded: LoadedModel, prompts: Sequence[list[int]], num_tokens: int, rank: PimRankParams, *, stop: bool
) -> list[list[int]]:
    """Tokens that the same prompts give one by one with the golden model's attention."""
    config, stop_ids = loaded.model.config, loaded.tokenizer.stop_token_ids if stop else frozenset[int]()
    layers, found = range(config.num_layers), []
    with GoldenDevice(rank, config.shape, config.num_layers) as device:
        devices = LayerDevices(config.num_layers, layers, device, None)
        for prompt in prompts:
            tokens = generate(loaded.model, devices, prompt, num_tokens, stop_ids=stop_ids)
            found.append([token.token_id for token in tokens])
    return found


def run_batch(
    loaded: LoadedModel,
    prompts: Sequence[list[int]],
    num_tokens: int,
    *,
    mode: Mode,
    rank: PimRankParams,
    gpu: GpuPhases,
    open_rank: Callable[[PimRankParams], RankHost[RankPort]],
    stop: bool = True,
    watch: bool = False,
    on_open: Callable[[int, RankDevice], None] = lambda rank, device: None,
    on_token: Callable[[int], None] = lambda clocks: None,
) -> BatchRun:
    """Result of decoding a batch.

    Parameters
    ----------
    loaded : LoadedModel
    prompts : sequence of list of int
        Token ids of each prompt.
    num_tokens : int
        Most tokens of each answer.
    mode : Mode
    rank : PimRankParams
        Parameters of every rank; see :func:`~pimhost.batch.plan.fitted`.
    gpu : GpuPhases
    open_rank : callable
        Opens a rank with the parameters `rank`; it is closed at the end.
    stop : bool
        True to stop at the end of an answer.
    watch : bool
        True to collect the activity of the ranks.
    on_open : callable
        Called with each rank before it is used.
    on_token : callable
        Called with the clocks so far when a token is known.

    Raises
    ------
    PimError
    """
    config, begin = loaded.model.config, time.perf_counter()
    require(num_tokens >= 1, "number of tokens to generate", num_tokens, "1 or more")
    mode.require_prompts(len(prompts))
    with GoldenDevice(rank, config.shape, config.num_layers) as golden:  # as full as a rank, and there at once
        layers = LayerDevices(config.num_layers, range(config.num_layers), golden, None)
        for prompt in prompts:
            require(len(prompt) >= 1, "tokens of the prompt", len(prompt), "1 or more")
            require_room(loaded.model, layers, len(prompt), num_tokens)
    with ExitStack() as stack:
        ranks: list[RankDevice] = []
        for number in range(mode.ranks):
            device = stack.enter_context(RankDevice(open_rank(rank), config.shape, config.num_layers))
            on_open(number, device)
            ranks.append(device)
        stop_ids = loaded.tokenizer.stop_token_ids if stop else frozenset[int]()
        batch = _Batch(loaded, deal(prompts, mode), ranks, mode, gpu, num_tokens, stop_ids, on_token)
        batch.prefill()
        run = batch.run
        if watch:
            run.activity = [RankActivity() for _ in ranks]
            for activity, watched in zip(run.activity, ranks, strict=True):
                activity.watch(watched)
        batch.decode()
        run.simulated_clocks = sum(device.host.clock for device in ranks)
    run.wall_seconds = time.perf_counter() - begin
    return run


_T = TypeVar("_T")
_URGENCY = {"collect": 0, "start": 1, "look": 1, "q": 2, "kv": 2}
"""Urgency of transfers: those that let the GPU go on, then those that let a rank go on; of equals, the oldest job's."""

_LONGEST_PAUSE = 8 * LOOK
"""Longest pause, in clocks, between two looks whether writes are done."""


class _Batch:
    """Processes of the host: one for each sub-batch, and where ranks overlap, one for each of its ranks."""

    def __init__(
        self,
        loaded: LoadedModel,
        answers: list[Answer],
        ranks: list[RankDevice],
        mode: Mode,
        gpu: GpuPhases,
        num_tokens: int,
        stop_ids: frozenset[int],
        on_token: Callable[[int], None],
    ) -> None:
        self.model = LayerwiseLlama(loaded.model.config, loaded.model.weights)
        self.answers, self.ranks, self.mode, self.phases_of = answers, ranks, mode, gpu
        self.num_tokens, self.stop_ids, self.on_token = num_tokens, stop_ids, on_token
        self.run = BatchRun(mode=mode, cycle_ps=ranks[0].clock.cycle_ps, answers=answers)
        rank = ranks[0].rank
        self.turnaround = -(-rank.timing.nRTRS // rank.ck_per_clock)
        self.last_rank: int | None = None
        self._jobs = 0
        self.attended = [0] * len(ranks)  # until when each rank was at work

    def prefill(self) -> None:
        """Write the prompts to the ranks, which then belong to PIM and have the same clock."""
        layers = range(self.model.config.num_layers)
        devices = [LayerDevices(len(layers), layers, device, None) for device in self.ranks]
        for answer in self.answers:
            at, slot = devices[answer.rank], answer.slot
            at.open(slot)
            self._token(answer, top_two(self.model.prefill(answer.prompt_ids, at, slot)).token_id, 0)
        for device in self.ranks:
            device.host.take()
        self.run.begin = max(device.host.clock for device in self.ranks)
        for device in self.ranks:
            device.run_until(self.run.begin)

    def decode(self) -> None:
        """Decode all tokens but the first."""
        self.loop = Coordinator(self.run.begin)
        self.gpu, self.channel = Resource(self.loop, "gpu"), Resource(self.loop, "channel")
        self.locks = [Resource(self.loop, f"rank {n}") for n in range(len(self.ranks))]
        for number in range(self.mode.sub_batches):
            self.loop.spawn(self._sub_batch(number))
        self.loop.run()
        self.run.clocks = max(answer.ended_at[-1] for answer in self.answers)

    # Processes.

    def _sub_batch(self, sub: int) -> Routine[None]:
        step, layers = 0, self.model.config.num_layers
        while alive := [a for a in self.answers if a.sub_batch == sub and not a.done]:
            step, count = step + 1, len(alive)
            passes = [self.model.decode_layers(a.token_ids[-1], self._position(a)) for a in alive]
            yield from self._on_gpu("first", self.phases_of.first_ns(count), sub, step, 0)
            vectors = {a.number: next(p) for a, p in zip(alive, passes, strict=True)}
            for layer in range(layers):
                o = yield from self._attend(sub, step, layer, alive, vectors)
                last = layer == layers - 1
                ns = self.phases_of.last_ns(count) if last else self.phases_of.middle_ns(count)
                yield from self._on_gpu("last" if last else "middle", ns, sub, step, layer)
                for answer, decoding in zip(alive, passes, strict=True):
                    try:
                        vectors[answer.number] = decoding.send(o[answer.number])
                    except StopIteration as logits:
                        self._token(answer, top_two(logits.value).token_id, self.loop.now - self.run.begin)

    def _attend(
        self, sub: int, step: int, layer: int, alive: Sequence[Answer], vectors: Mapping[int, LayerVectors]
    ) -> Routine[dict[int, Float32s]]:
        """Attention of a layer of a sub-batch; outputs by number of the answer."""
        outputs: dict[int, Float32s] = {}
        groups = {n: [a for a in alive if a.rank == n] for n in range(len(self.ranks))}
        jobs = [_Job(self, (sub, step, layer, n), group, vectors) for n, group in groups.items() if group]
        if self.mode.overlap_ranks:
            yield from self._joined([self.loop.spawn(job.whole()) for job in jobs])
        else:
            for part in (_Job.send, _Job.start, _Job.wait, _Job.collect):
                for job in jobs:
                    yield from part(job)
        for job in jobs:
            outputs |= job.outputs
        return outputs

    @staticmethod
    def _joined(processes: Sequence[Process]) -> Routine[None]:
        """Wait until all processes have ended."""
        for n in range(len(processes)):
            yield processes[n]

    def _on_gpu(self, kind: str, ns: int, sub: int, step: int, layer: int) -> Routine[None]:
        yield Claim(self.gpu)
        start = self.loop.now
        yield start + -(-ns * 1000 // self.run.cycle_ps)
        self.note("gpu", kind, (sub, step, layer, None), start, self.loop.now)
        self.gpu.release()

    # Accounting.

    def number_of_job(self) -> int:
        self._jobs += 1
        return self._jobs

    def _token(self, answer: Answer, token_id: int, clock: int) -> None:
        answer.token_ids.append(token_id)
        answer.ended_at.append(clock)
        answer.done = token_id in self.stop_ids or len(answer.token_ids) == self.num_tokens
        self.on_token(clock)

    def _position(self, answer: Answer) -> int:
        return len(answer.prompt_ids) + len(answer.token_ids) - 1

    def note(
        self,
        resource: Literal["gpu", "channel", "rank"],
        kind: str,
        place: tuple[int, int, int, int | None],
        start: int,
        end: int,
    ) -> None:
        """Record a phase; `place`: sub-batch, step, layer, rank."""
        sub, step, layer, rank = place
        start, end = start - self.run.begin, end - self.run.begin
        self.run.phases.append(
            Phase(resource=resource, kind=kind, sub_batch=sub, step=step, layer=layer, rank=rank, start=start, end=end)
        )


class _Job:
    """Attention of one layer for the requests of a sub-batch in one rank."""

    def __init__(
        self,
        batch: _Batch,
        place: tuple[int, int, int, int],  # sub-batch, step, layer, rank
        group: Sequence[Answer],
        vectors: Mapping[int, LayerVectors],
    ) -> None:
        self._batch, self._place, self._group, self._vectors = batch, place, group, vectors
        self._layer, self._rank = place[2:]
        self._device = batch.ranks[self._rank]
        self._slots = [answer.slot for answer in group]
        self._count = self._started = 0
        self._number = batch.number_of_job()
        self.outputs: dict[int, Float32s] = {}

    def whole(self) -> Routine[None]:
        """All four parts, each as early as possible."""
        batch = self._batch
        lock = None if batch.mode.early_transfers else batch.locks[self._rank]
        if lock:
            yield Claim(lock)
        for part in (self.send, self.start, self.wait, self.collect):
            yield from part()
        if lock:
            lock.release()

    def send(self) -> Routine[None]:
        """Send K and V of the new tokens, request by request, then q and the operations for the slots.

        Writes wait in the rank until its banks have time for them; the channel is free between looks.
        """
        device, layer = self._device, self._layer
        for answer in self._group:
            _, k, v = self._vectors[answer.number]
            write = partial(device.write_kv, answer.slot, layer, device.tokens(answer.slot, layer), k, v)
            yield from self._on_channel("kv", write)
        queries = {answer.slot: self._vectors[answer.number].q for answer in self._group}
        places, pause = {slot: slot for slot in queries}, LOOK
        yield from self._on_channel("q", lambda: device.send(layer, queries, places))
        while not (yield from self._on_channel("look", device.writes_done)):
            yield self._batch.loop.now + pause
            pause = min(2 * pause, _LONGEST_PAUSE)

    def start(self) -> Routine[None]:
        self._count, _ = yield from self._on_channel("start", lambda: self._device.start(self._slots))
        self._started = self._batch.loop.now

    def wait(self) -> Routine[None]:
        """Wait until the host knows that the work is done."""
        batch, device, patience = self._batch, self._device, PATIENCE
        while True:
            yield Finish(rank=device, count=self._count, until=batch.loop.now + patience)
            done = device.finished_at(self._count)
            if done is not None and done <= batch.loop.now:
                break
            yield from self._on_channel("look", device.ask_whether_running)
            patience *= 2
        begin = max(self._started, batch.attended[self._rank])
        batch.attended[self._rank] = done
        batch.note("rank", "attend", self._place, min(begin, done), done)

    def collect(self) -> Routine[None]:
        """Read the outputs."""
        attention = yield from self._on_channel("collect", lambda: self._device.collect(self._layer, self._slots))
        self.outputs = {answer.number: attention.outputs[answer.slot] for answer in self._group}

    def _on_channel(self, kind: str, work: Callable[[], _T]) -> Routine[_T]:
        """A transfer, alone on the channel."""
        batch, device = self._batch, self._device
        yield Claim(batch.channel, (_URGENCY[kind], self._number))
        if batch.last_rank not in (None, self._rank):
            yield batch.loop.now + batch.turnaround
        batch.last_rank, begin = self._rank, batch.loop.now
        device.run_until(begin)
        if device.host.clock != begin:
            raise RuntimeError(f"rank {self._rank} is at clock {device.host.clock}, not {begin}")
        result = work()
        yield device.host.clock
        batch.note("channel", kind, self._place, begin, batch.loop.now)
        batch.channel.release()
        return result
