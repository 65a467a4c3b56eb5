"""The forward pass against a plain float64 one in the layout of Hugging Face, and the two file formats."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from pimhost.devices.stored import GoldenDevice, ReferenceDevice
from pimhost.llm.config import llama3_rope_factors
from pimhost.llm.generate import generate, top_two
from pimhost.llm.llama import LayerDevices, Llama
from pimhost.llm.load import load_model
from pimhost.llm.synthetic import synthetic_config, synthetic_weights, write_gguf, write_safetensors
from pimspec.errors import OutOfMemoryError, ParameterError
from pimspec.params.presets import preset_named

LLAMA3 = {"factor": 8.0, "low": 1.0, "high": 4.0, "original_length": 64}
LLAMA3_JSON = {
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}


def device(config, layers=None, kind=ReferenceDevice):
    rank = preset_named("tiny").rank.for_shape(config.shape).with_dpa()
    return kind(rank, config.shape, config.num_layers if layers is None else layers)


def on_pim(config, kind=ReferenceDevice):
    return LayerDevices(config.num_layers, range(config.num_layers), device(config, kind=kind), None)


def expected_logits(config, weights, ids, factors=None):
    """Logits after each token, (n, vocab_size): float64, half-split rotation, K and V rounded to float16, loops."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    dim, group = config.head_dim, config.num_q_heads // config.num_kv_heads
    theta = np.array([config.rope_base ** (-2 * i / dim) for i in range(dim // 2)])
    theta = theta if factors is None else theta / np.array(factors)

    def norm(x, name):
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + config.norm_eps) * w[name]

    def rotated(x, t):
        first, second = x[: dim // 2], x[dim // 2 :]
        c, s = np.cos(t * theta), np.sin(t * theta)
        return np.concatenate([first * c - second * s, second * c + first * s])

    x = w["model.embed_tokens.weight"][ids]
    for n in range(config.num_layers):
        p = f"model.layers.{n}."
        h = norm(x, p + "input_layernorm.weight")
        q, k, v = (h @ w[f"{p}self_attn.{name}_proj.weight"].T for name in "qkv")
        o = np.zeros_like(q)
        for head in range(config.num_q_heads):
            part, kv = slice(head * dim, head * dim + dim), slice(head // group * dim, head // group * dim + dim)
            keys = [rotated(key, t).astype(np.float16).astype(float) for t, key in enumerate(k[:, kv])]
            for t in range(len(ids)):
                scores = np.array([rotated(q[t, part], t) @ key for key in keys[: t + 1]]) / np.sqrt(dim)
                probs = np.exp(scores - scores.max())
                o[t, part] = probs / probs.sum() @ v[: t + 1, kv].astype(np.float16)
        x = x + o @ w[p + "self_attn.o_proj.weight"].T
        h = norm(x, p + "post_attention_layernorm.weight")
        gate = h @ w[p + "mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
    output = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, "model.norm.weight") @ output.T


def logits_of(model, ids, prefilled, devices):
    """Logits after the last token of the prefill, and after each decoded one."""
    devices.open(0)
    logits = [model.prefill(ids[:prefilled], devices, 0)]
    logits += [model.decode(ids[n], n, devices, 0) for n in range(prefilled, len(ids))]
    return np.array(logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scaled", [False, True])
def test_forward_pass_and_formats(tied, scaled, tmp_path):
    """GGUF and safetensors give the same bits; both equal the plain float64 pass within rounding."""
    factors = llama3_rope_factors(16, 1e5, **LLAMA3) if scaled else None
    config = synthetic_config(rope_factors=factors)
    weights = synthetic_weights(config, 3, tied=tied)
    write_gguf(tmp_path / "m.gguf", config, weights)
    write_safetensors(tmp_path / "m", config, weights, **(LLAMA3_JSON if scaled else {}))
    ids = np.random.default_rng(1).integers(0, config.vocab_size, 24).tolist()
    models = [load_model(tmp_path / name).model for name in ("m.gguf", "m")]
    # The factors are float32 in a GGUF file: then the rotation differs in its last bits.
    expected = expected_logits(config, weights, ids, factors)
    found = [logits_of(model, ids, 16, on_pim(config)) for model in models]
    np.testing.assert_allclose(found[0], expected[15:], rtol=0, atol=5e-3 * np.abs(expected).max())
    if scaled:
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-3)
    else:
        np.testing.assert_array_equal(found[0], found[1])


def test_llama3_factors():
    """Short wavelengths keep their frequency, long ones are divided by the factor, intermediate ones interpolate."""
    factors = np.array(llama3_rope_factors(16, 1e5, **LLAMA3))
    wavelength = 2 * np.pi * 1e5 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(factors[wavelength < 16], 1)
    np.testing.assert_allclose(factors[wavelength > 64], 8)
    assert (wavelength < 16).any()
    assert (np.diff(factors) >= 0).all()
    (middle,) = factors[(wavelength > 16) & (wavelength < 64)]
    smooth = (64 / wavelength[(wavelength > 16) & (wavelength < 64)] - 1) / 3
    assert 1 / middle == pytest.approx(((1 - smooth) / 8 + smooth)[0])


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_16_bit_safetensors(kind, tmp_path):
    config = synthetic_config(num_layers=1)
    dtype = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}[kind]
    weights = {name: w.astype(dtype) for name, w in synthetic_weights(config, 1).items()}
    exact = {name: w.astype(np.float32) for name, w in weights.items()}
    for folder, content in (("exact", exact), ("short", exact)):
        write_safetensors(tmp_path / folder, config, content)
    for file in (tmp_path / "short").glob("*.safetensors"):
        file.unlink()
    header, data = {}, b""
    for name, weight in weights.items():
        raw = weight.tobytes()
        header[name] = {"dtype": kind, "shape": weight.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (tmp_path / "short" / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = [logits_of(load_model(tmp_path / n).model, [1, 2, 3, 4], 2, on_pim(config)) for n in ("exact", "short")]
    np.testing.assert_array_equal(*found)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    config = synthetic_config(num_layers=4)
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    write_gguf(path, config, synthetic_weights(config, 5))
    return load_model(path)


def test_long_prefill_equals_decode(loaded):
    """The prompt is longer than the tokens that prefill takes at once."""
    config = loaded.model.config
    ids = np.random.default_rng(2).integers(0, config.vocab_size, 300).tolist()
    whole = logits_of(loaded.model, ids, 300, on_pim(config))[-1]
    stepwise = logits_of(loaded.model, ids, 250, on_pim(config))[-1]
    np.testing.assert_allclose(whole, stepwise, rtol=0, atol=5e-3 * np.abs(whole).max())


@pytest.mark.parametrize("layers", [(0, 2), (3,), (0, 1, 2, 3)])
def test_layers_may_lie_on_two_devices(loaded, layers):
    """The device that holds K and V of a layer does not change the answer."""
    config = loaded.model.config
    pim = device(config, len(layers))
    host = device(config, 4 - len(layers)) if len(layers) < 4 else None
    ids = [5, 6, 7, 8]
    split = logits_of(loaded.model, ids, 2, LayerDevices(4, layers, pim, host))
    np.testing.assert_array_equal(split, logits_of(loaded.model, ids, 2, on_pim(config)))
    assert pim.total.bytes_streamed == len(layers) * config.shape.kv_bytes(3 + 4)


def test_layers_without_a_device_are_refused(loaded):
    config = loaded.model.config
    with pytest.raises(ParameterError, match=r"device must be one for layers \[1, 2, 3\]"):
        LayerDevices(4, (0,), device(config, 1), None)
    with pytest.raises(ParameterError, match="layers of the device must be 4, not 3"):
        LayerDevices(4, range(4), device(config, 3), None)


def test_greedy_answer_of_golden_and_reference(loaded):
    config = loaded.model.config
    prompt = loaded.tokenizer.encode("hello there")
    answers = [list(generate(loaded.model, on_pim(config, k), prompt, 40)) for k in (ReferenceDevice, GoldenDevice)]
    assert [t.position for t in answers[0]] == list(range(len(prompt), len(prompt) + 40))
    for a, b in zip(*answers, strict=True):
        if a.token_id != b.token_id:
            assert min(a.gap, b.gap) < 0.05
            break


def test_stop_and_memory_is_free_afterwards(loaded):
    config = loaded.model.config
    devices = on_pim(config)
    answer = [t.token_id for t in generate(loaded.model, devices, [1, 2], 10)]
    shorter = [t.token_id for t in generate(loaded.model, devices, [1, 2], 10, stop_ids={answer[3]})]
    assert shorter == answer[: answer.index(answer[3]) + 1]
    running = generate(loaded.model, devices, [1, 2], 10)
    next(running)
    running.close()
    assert [t.token_id for t in generate(loaded.model, devices, [1, 2], 10)] == answer


def test_a_prompt_without_room_is_refused(loaded):
    config = loaded.model.config
    devices = on_pim(config)
    assert len(list(generate(loaded.model, devices, [1] * 510, 3))) == 3
    with pytest.raises(ParameterError, match="tokens in the context must be at most 512, the model's, not '513: 511"):
        next(generate(loaded.model, devices, [1] * 511, 3))
    for prompt, count, text in (([], 1, "tokens of the prompt must be 1 or more"), ([1], 0, "number of tokens")):
        with pytest.raises(ParameterError, match=text):
            next(generate(loaded.model, devices, prompt, count))
    rank = (
        preset_named("tiny")
        .rank.for_shape(config.shape)
        .with_dpa(chunk_bytes=1 << 12, directory_entries=1, leaf_entries=16)
    )
    small = ReferenceDevice(rank, config.shape, 4)
    with pytest.raises(OutOfMemoryError, match=f"the memory holds {small.max_tokens} tokens, not 509: 500 tokens of"):
        next(generate(loaded.model, LayerDevices(4, range(4), small, None), [1] * 500, 10))


def test_values_beyond_fp16_are_refused(loaded):
    model = loaded.model
    devices = on_pim(model.config)
    devices.open(0)
    first, second, *others = model.weights.layers
    layers = [first, replace(second, k=second.k * np.float32(1e6)), *others]
    model = Llama(model.config, replace(model.weights, layers=layers))
    with pytest.raises(ParameterError, match="K of layer 1 has a number beyond the range of FP16"):
        model.prefill([1, 2], devices, 0)


def test_top_two():
    assert top_two(np.array([1.0, 4.0, 3.5], np.float32)) == (1, 0.5)
    assert top_two(np.array([2.0, 2.0], np.float32)) == (0, 0.0)
