"""Programs of the compiler: their micro-ops, their size, and the few actions of the host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pimcompiler.assembler import assemble, disassemble
from pimcompiler.attention import compile_attention
from pimhost.driver.kv_cache import LazyKvCache
from pimspec.attention.regions import num_regions, region_of
from pimspec.attention.shape import AttentionShape
from pimspec.errors import ParameterError
from pimspec.golden.dpa import DpaDevice
from pimspec.isa import Fault, MicroKind, MicroOp
from pimspec.params.dpa import ConfigOp, ConfigRefusal
from pimspec.params.presets import PRESETS


def tiny(shape, queries=64):
    return replace(PRESETS["tiny"].rank.for_shape(shape), queries=queries).with_dpa(chunk_bytes=4096)


def started(program, slot, tokens, *, cache=None, **settings):
    """A device with the program, and a request with memory in `slot`."""
    cache = cache or LazyKvCache(program.params, program.regions)
    device = DpaDevice(program.params)
    operations = [*program.load(settings.get("address", 0)), *program.request(slot, tokens, **settings)]
    for intervention in cache.open(slot, tokens):
        operations += intervention.operations
    assert set(device.apply(operations)) == {ConfigRefusal.NONE}
    return device, cache


def step(device, slot):
    assert device.configure(ConfigOp.START, slot) is ConfigRefusal.NONE
    return device.run_next()


def expected(params, shape, layers, chunks, tokens, regions, *, slot, first_entry, normalise):
    """Expected micro-ops, in plain loops: segments, then row steps, as the rank's own descriptor expander cuts them."""
    rank, params, ops = params, params.require_dpa(), []
    step_tokens = rank.row_lines * rank.num_chips
    common = {"slot": slot, "last_query": shape.gqa_group_size - 1}

    def row(token, region):
        virtual = token // step_tokens * regions + region
        return chunks[virtual // params.chunk_rows] * params.chunk_rows + virtual % params.chunk_rows

    def lines(count):
        return (count + rank.num_chips - 1) // rank.num_chips

    place = first_entry
    for layer in layers:
        for head in range(shape.num_kv_heads):
            k_region = (layer * shape.num_kv_heads + head) * 2
            ops.append(MicroOp(kind=MicroKind.WR_QUERIES, buffer_entry=place, **common))
            for begin in range(0, tokens, rank.segment_tokens):
                end = min(tokens, begin + rank.segment_tokens)
                ends = {"first": int(begin == 0), "final": int(end == tokens)}
                rest = (end - begin) % rank.num_chips
                keep = (1 << (rest or rank.num_chips)) - 1
                ops.append(
                    MicroOp(
                        kind=MicroKind.SOFTMAX,
                        lines=lines(end - begin),
                        last_keep=keep,
                        scale=shape.scale_bits,
                        **common,
                        **ends,
                    )
                )
                steps = [(t, lines(min(end - t, step_tokens))) for t in range(begin, end, step_tokens)]
                for t, n in steps:
                    ops.append(MicroOp(kind=MicroKind.MAC_K, slot=slot, row=row(t, k_region), lines=n))
                    ops.append(MicroOp(kind=MicroKind.RD_SCORES, slot=slot, lines=n))
                for t, n in steps:
                    ops.append(MicroOp(kind=MicroKind.WR_PROBS, slot=slot, lines=n))
                    ops.append(MicroOp(kind=MicroKind.MAC_V, slot=slot, row=row(t, k_region + 1), lines=n))
                ops.append(MicroOp(kind=MicroKind.RD_SUMS, slot=slot, **ends))
                ops.append(MicroOp(kind=MicroKind.MERGE, buffer_entry=place, normalise=normalise, **common, **ends))
            place += rank.queries_at_once
    return [*ops, MicroOp(kind=MicroKind.END, slot=slot)]


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 128, 129, 300, 640])
@pytest.mark.parametrize("kv_heads", [1, 3])
@pytest.mark.parametrize("group", [1, 8])
def test_micro_ops_are_those_of_plain_loops(group, kv_heads, tokens):
    shape = AttentionShape(num_q_heads=group * kv_heads, num_kv_heads=kv_heads, head_dim=16)
    params = tiny(shape)
    program = compile_attention(params, shape)
    cache = LazyKvCache(params.require_dpa(), program.regions)
    cache.open(7, 1000)  # so that chunks do not begin at 0
    settings = {"address": 5, "first_entry": 8, "normalise": True}
    device, _ = started(program, 2, tokens, cache=cache, **settings)
    outcome = step(device, 2)
    assert outcome.fault is Fault.NONE
    chunks = cache.chunks_of(2)
    wanted = expected(params, shape, [0], chunks, tokens, program.regions, slot=2, first_entry=8, normalise=1)
    assert outcome.micro_ops == wanted


def test_chosen_layers_of_scattered_memory_are_computed():
    shape = AttentionShape(num_q_heads=4, num_kv_heads=2, head_dim=16)
    params = tiny(shape)
    program = compile_attention(params, shape, num_layers=3, layers=[2, 0], advance=False)
    cache = LazyKvCache(params.require_dpa(), program.regions)
    cache.open(0, 1)
    cache.open(1, 1)
    for tokens in range(32, 200, 32):  # two requests grow in turn, so that neither is contiguous
        cache.grow(0, tokens)
        cache.grow(1, tokens)
    cache.release(0)
    device, _ = started(program, 3, 170, cache=cache, normalise=False)
    chunks = cache.chunks_of(3)
    assert list(chunks) != list(range(chunks[0], chunks[0] + len(chunks)))
    outcome = step(device, 3)
    assert (outcome.fault, device.slots[3].tokens) == (Fault.NONE, 170)
    wanted = expected(params, shape, [2, 0], chunks, 170, 12, slot=3, first_entry=0, normalise=0)
    assert outcome.micro_ops == wanted
    for token, region in ((0, 0), (40, 5), (169, 11)):
        virtual = token // 32 * 12 + region
        assert cache.physical_row(3, token, region) == chunks[virtual // 4] * 4 + virtual % 4


@pytest.mark.parametrize(("preset", "group"), [("ddr4-3200-x8-8gb", 1), ("ddr4-3200-x8-8gb-gqa8", 8)])
def test_one_program_serves_1k_and_1m_tokens(preset, group):
    shape = AttentionShape(num_q_heads=group, num_kv_heads=1, head_dim=128)
    params = PRESETS[preset].rank.with_dpa()
    programs = [compile_attention(params, shape) for _ in range(2)]
    counts = []
    for program, tokens in zip(programs, (1 << 10, 1 << 20), strict=True):
        device, _ = started(program, 0, tokens)
        outcome = step(device, 0)
        assert outcome.fault is Fault.NONE
        counts.append(sum(m.kind is MicroKind.MAC_V for m in outcome.micro_ops))
    assert counts == [2, 2048]
    assert programs[0].words == programs[1].words
    assert len(programs[0].words) == 17


def test_program_size_depends_on_the_number_of_layers_only():
    params = PRESETS["ddr4-3200-x8-8gb"].rank.with_dpa()
    for kv_heads in (1, 8, 16):
        shape = AttentionShape(num_q_heads=kv_heads, num_kv_heads=kv_heads, head_dim=128)
        assert [len(compile_attention(params, shape, num_layers=n).words) for n in (1, 2, 4)] == [17, 33, 65]


def test_text_and_words_are_the_same_program():
    shape = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=16)
    program = compile_attention(tiny(shape), shape)
    assert assemble(program.text) == list(program.words)
    assert assemble(disassemble(program.words)) == list(program.words)


def test_the_host_acts_on_new_requests_and_new_chunks_only(record_property):
    """1,000 decode steps. Starts are not counted: they follow the data, and carry no decision of the host."""
    shape = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=16)
    params = tiny(shape)
    program = compile_attention(params, shape)
    cache, device = LazyKvCache(params.require_dpa(), program.regions), DpaDevice(params.require_dpa())
    device.apply(program.load())
    device.interventions.clear()
    lengths, interventions, operations = {0: 1, 1: 100, 5: 333}, 0, 0
    for slot, tokens in lengths.items():
        new = program.request(slot, tokens, first_entry=2 * slot)
        granted = cache.open(slot, tokens)
        device.apply([*new, *(o for g in granted for o in g.operations)])
        interventions += 1 + len(granted)
        operations += len(new) + sum(len(g.operations) for g in granted)
    for n in range(1000):
        slot = (0, 1, 5)[n % 3]
        granted = cache.grow(slot, lengths[slot])
        device.apply([o for g in granted for o in g.operations])
        interventions += len(granted)
        operations += sum(len(g.operations) for g in granted)
        outcome = step(device, slot)
        assert (outcome.fault, outcome.slot) == (Fault.NONE, slot)
        lengths[slot] += 1
        assert device.slots[slot].tokens == lengths[slot]
    # Rows of 32 tokens, two regions, chunks of 4 rows: a chunk each 64 tokens.
    chunks = sum(-(-(tokens - 1) // 64) for tokens in lengths.values())
    assert interventions == chunks + len(lengths)
    accepted = {op: n for op, n in device.interventions.items() if op is not ConfigOp.START}
    assert accepted[ConfigOp.SET_OWNER] == accepted[ConfigOp.SET_LEAF] == chunks
    assert accepted[ConfigOp.SET_REQUEST] == accepted[ConfigOp.SET_SCALE] == len(lengths)
    assert sum(accepted.values()) == operations
    assert device.interventions[ConfigOp.START] == 1000


def test_a_step_without_a_chunk_faults_and_issues_nothing():
    shape = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=16)
    program = compile_attention(tiny(shape), shape)
    device, _ = started(program, 0, 64)
    assert step(device, 0).fault is Fault.NONE
    outcome = step(device, 0)
    assert (outcome.fault, outcome.fault_row, outcome.micro_ops) == (Fault.UNMAPPED, 4, [])


def test_regions_are_all_different():
    shape = AttentionShape(num_q_heads=6, num_kv_heads=3, head_dim=16)
    regions = [region_of(shape, layer, head, v=v) for layer in range(2) for head in range(3) for v in (False, True)]
    assert regions == list(range(num_regions(shape, 2)))


def test_shapes_and_layers_that_do_not_fit_are_refused():
    shape = AttentionShape(num_q_heads=4, num_kv_heads=4, head_dim=16)
    params = tiny(shape, queries=8)
    for arguments, text in (
        ({"num_layers": 3}, "entries of queries must be at most 8: fewer layers at once, not 12"),
        ({"layers": [1]}, r"a layer must be 0\.\.0, not 1"),
        ({"layers": []}, "layers must be one or more"),
        ({"num_layers": 0}, "num_layers must be 1 or more"),
    ):
        with pytest.raises(ParameterError, match=text):
            compile_attention(params, shape, **arguments)
    with pytest.raises(ParameterError, match="words of the program must be at most 16, not 17"):
        compile_attention(params.with_dpa(program_words=16), shape)
    with pytest.raises(ParameterError, match="head_dim"):
        compile_attention(params, AttentionShape(num_q_heads=1, num_kv_heads=1, head_dim=64))
    program = compile_attention(params, shape)
    for arguments, text in (
        ({"slot": 16, "tokens": 1}, "slot must be"),
        ({"slot": 0, "tokens": 0}, "tokens must be"),
        ({"slot": 0, "tokens": 1, "first_entry": 5}, r"first_entry must be a multiple of 1 in 0\.\.4, not 5"),
    ):
        with pytest.raises(ParameterError, match=text):
            program.request(**arguments)
    with pytest.raises(ParameterError, match="address must be"):
        program.load(1010)
