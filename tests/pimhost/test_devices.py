"""PIM devices behind the protocol: results, accounting, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from pimhost.devices.observed import ObservedDevice
from pimhost.devices.stored import GoldenDevice, ReferenceDevice
from pimhost.reference import reference_attention
from pimspec.attention.shape import AttentionShape
from pimspec.errors import OutOfMemoryError, ParameterError, UnknownNameError
from pimspec.formats import BF16, FP16
from pimspec.golden.attention import decode_attention
from pimspec.hostif.device import DeviceCost, PimDevice
from pimspec.params.presets import preset_named

SHAPE = AttentionShape(num_q_heads=6, num_kv_heads=2, head_dim=16)
RANK = preset_named("tiny").rank.for_shape(SHAPE)
RANK_WITH_DPA = RANK.with_dpa(num_slots=4)
LAYERS = 3
BOTH = pytest.mark.parametrize("kind", [ReferenceDevice, GoldenDevice])


def vectors(seed, tokens, heads=2):
    return np.random.default_rng(seed).standard_normal((heads, tokens, 16)).astype(np.float16)


def queries(seed):
    return vectors(seed, 1, heads=6)[:, 0]


@BOTH
def test_outputs_equal_the_reference_as_requests_grow(kind):
    """Tokens in portions, two requests of different lengths in one call, each layer by itself."""
    with kind(RANK_WITH_DPA, SHAPE, LAYERS) as device:
        written = {}
        for request in (2, 0):
            device.open(request)
            for layer in range(LAYERS):
                first = 0
                k, v = (vectors((request, layer, n), 41 + request) for n in range(2))
                for count in (1, 7, 8, 20, 5 + request):
                    part = slice(first, first + count)
                    cost = device.write_kv(request, layer, first, k[:, part], v[:, part])
                    assert cost == DeviceCost(host_bus_bytes=2 * 2 * count * 16 * 2)
                    first += count
                written[request, layer] = k, v
        for layer in range(LAYERS):
            q = {request: queries(request + 10 * layer) for request in (0, 2)}
            result = device.attend(layer, q)
            assert set(result.outputs) == {0, 2}
            for request, output in result.outputs.items():
                k, v = written[request, layer]
                if kind is ReferenceDevice:
                    expected = reference_attention(q[request], k, v).output.astype(np.float32)
                else:
                    order = RANK.attention_order()
                    bits = decode_attention(q[request], k, v, SHAPE.scale_bits, order, FP16).astype(np.uint16)
                    expected = bits.view(np.float16).astype(np.float32)
                assert output.dtype == np.float32
                np.testing.assert_array_equal(output, expected)
            assert result.cost.cycles is None
            assert result.cost.bytes_streamed == SHAPE.kv_bytes(41) + SHAPE.kv_bytes(43)
        assert device.total.bytes_streamed == LAYERS * (SHAPE.kv_bytes(41) + SHAPE.kv_bytes(43))
        device.close()


@BOTH
def test_every_backend_is_a_device(kind):
    device = kind(RANK_WITH_DPA, SHAPE, LAYERS)
    assert isinstance(device, PimDevice)
    assert isinstance(ObservedDevice(device, print), PimDevice)
    assert (device.clock.cycle_ps, device.clock.peak_bytes_per_cycle) == (2500, 2 * 4 * 8 / 2)


@BOTH
def test_memory_is_full_at_max_tokens_and_free_after_release(kind):
    rank = RANK.with_dpa(num_slots=2, chunk_bytes=1 << 12, directory_entries=2, leaf_entries=4)
    device = kind(rank, SHAPE, LAYERS)
    most = device.max_tokens
    assert 0 < most < 1000
    device.open(0)
    k = vectors(1, most + 1)
    with pytest.raises(OutOfMemoryError):
        device.write_kv(0, 0, 0, k, k)
    assert device.tokens(0, 0) == 0
    for _ in range(2):
        device.write_kv(0, 0, 0, k[:, :most], k[:, :most])
        with pytest.raises(OutOfMemoryError):
            device.write_kv(0, 0, most, k[:, :1], k[:, :1])
        device.release(0)
        device.open(0)
    assert device.cache.statistics().allocated_bytes == 0


@BOTH
def test_refusals_change_nothing(kind):
    device = kind(RANK_WITH_DPA, SHAPE, LAYERS)
    k, q = vectors(1, 3), queries(1)
    device.open(0)
    device.write_kv(0, 0, 0, k, k)
    for call, text in (
        (lambda: device.open(0), "request must be one that is not open, not 0"),
        (lambda: device.open(4), "request must be 0..3, not 4"),
        (lambda: device.write_kv(0, 3, 0, k, k), "layer must be 0..2, not 3"),
        (lambda: device.write_kv(0, 0, 2, k, k), "first_token must be 3, the tokens of the layer, not 2"),
        (lambda: device.write_kv(0, 0, 3, k, k[:, :2]), "v.shape must be (2, 3, 16), not (2, 2, 16)"),
        (lambda: device.write_kv(0, 0, 3, k[:1], k[:1]), "k.shape must be (2, 3, 16), not (1, 3, 16)"),
        (lambda: device.write_kv(0, 0, 3, k[:, :0], k[:, :0]), "k.shape must be (2, 1, 16), not (2, 0, 16)"),
        (lambda: device.write_kv(0, 0, 3, k.astype(float), k), "k.dtype must be float16, not 'float64'"),
        (lambda: device.attend(0, {}), "queries must be of one or more requests"),
        (lambda: device.attend(1, {0: q}), "tokens of request 0 in layer 1 must be 1 or more, not 0"),
        (lambda: device.attend(0, {0: q[:3]}), "q.shape must be (6, 16), not (3, 16)"),
        (lambda: device.attend(-1, {0: q}), "layer must be 0..2, not -1"),
    ):
        with pytest.raises(ParameterError) as caught:
            call()
        assert text in str(caught.value)
    for call in (lambda: device.release(1), lambda: device.attend(0, {1: q}), lambda: device.write_kv(1, 0, 0, k, k)):
        with pytest.raises(UnknownNameError, match="unknown request '1'; allowed: 0"):
            call()
    assert device.tokens(0, 0) == 3
    assert device.attend(0, {0: q}).outputs[0].shape == (6, 16)


@pytest.mark.parametrize(
    ("shape", "layers", "text"),
    [
        (SHAPE, 0, "num_layers must be 1 or more"),
        (AttentionShape(num_q_heads=2, num_kv_heads=2, head_dim=32), 1, "head_dim must be 16, that of the rank"),
        (
            AttentionShape(num_q_heads=2, num_kv_heads=2, head_dim=16, format=BF16),
            1,
            "format of the device must be fp16",
        ),
    ],
)
def test_impossible_devices_are_refused(shape, layers, text):
    with pytest.raises(ParameterError, match=text):
        GoldenDevice(RANK_WITH_DPA, shape, layers)


def test_calls_are_observed():
    calls = []
    device = ObservedDevice(
        GoldenDevice(RANK_WITH_DPA, SHAPE, LAYERS), calls.append, ReferenceDevice(RANK_WITH_DPA, SHAPE, LAYERS)
    )
    k, q = vectors(1, 9), queries(1)
    device.open(1)
    device.write_kv(1, 2, 0, k, k)
    result = device.attend(2, {1: q})
    device.release(1)
    write, attend = calls
    assert (write.kind, write.layer, write.tokens, write.errors) == ("write_kv", 2, 9, ())
    assert (attend.kind, attend.layer, attend.tokens, attend.cost) == ("attend", 2, 9, result.cost)
    assert len(attend.errors) == 6
    assert 0 < max(attend.errors) < 1e-3
    assert attend.start >= write.start + write.seconds > write.start


def test_costs_add_up():
    some, none = DeviceCost(cycles=3, bytes_streamed=5, host_bus_bytes=7), DeviceCost(host_bus_bytes=1)
    assert some + none == DeviceCost(cycles=3, bytes_streamed=5, host_bus_bytes=8)
    assert some + some == DeviceCost(cycles=6, bytes_streamed=10, host_bus_bytes=14)
    assert (none + none).cycles is None
