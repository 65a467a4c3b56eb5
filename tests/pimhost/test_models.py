"""Model shapes: the table against published sizes, and config.json."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pimhost.models import ALIASES, MODELS, read_config, shape_named
from pimspec.errors import ParameterError, UnknownNameError

TABLE = Path(__file__).parents[3] / "shared" / "data" / "models.csv"
CONFIGS = {
    "Llama-3.1-8B": {
        "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
    },
    "Qwen2.5-72B": {
        "model_type": "qwen2", "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64,
        "num_key_value_heads": 8, "intermediate_size": 29568, "vocab_size": 152064, "max_position_embeddings": 131072,
    },
    "Qwen3-32B": {
        "model_type": "qwen3", "num_hidden_layers": 64, "hidden_size": 5120, "num_attention_heads": 64, "head_dim": 128,
        "num_key_value_heads": 8, "intermediate_size": 25600, "vocab_size": 151936, "max_position_embeddings": 40960,
    },
    "OPT-66B": {
        "model_type": "opt", "num_hidden_layers": 64, "hidden_size": 9216, "num_attention_heads": 72,
        "ffn_dim": 36864, "vocab_size": 50272, "max_position_embeddings": 2048,
    },
    "GPT-175B": {
        "model_type": "gpt2", "n_layer": 96, "n_embd": 12288, "n_head": 96, "n_inner": None, "vocab_size": 50257,
        "n_positions": 2048,
    },
}  # fmt: skip


def _shape(model):
    return {k: getattr(model, k) for k in model.__dataclass_fields__ if k not in ("name", "source")}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_gives_the_shape_of_the_table(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    assert _shape(shape_named(str(tmp_path))) == _shape(MODELS[name])


@pytest.mark.skipif(not TABLE.exists(), reason=f"no table of models in {TABLE}")
def test_table_equals_its_source():
    with TABLE.open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file) if not row["moe"] and row["attention"] != "MLA"}
    seen = set()
    for name, row in rows.items():
        shape = shape_named(name.removesuffix("-Instruct"))
        seen.add(shape.name)
        columns = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "gated_mlp", "vocab", "max_context")
        assert list(_shape(shape).values()) == [int(row[column]) for column in columns], name
        assert shape.kv_bytes_per_token() == int(row["kv_bytes_per_token_fp16"])
        # The lm_head is a table of its own in most models with GQA.
        least, most = shape.num_parameters, shape.num_parameters + shape.vocab_size * shape.hidden_size
        assert 0.99 * least <= 1e9 * float(row["n_params_B"]) <= 1.01 * most, name
    assert seen == set(MODELS)


def test_names():
    assert shape_named("QWEN-72B") is MODELS["Qwen2.5-72B"]
    assert shape_named("llama-3.1-8b") is MODELS["Llama-3.1-8B"]
    assert set(ALIASES.values()) <= set(MODELS)
    assert MODELS["GPT-175B"].kv_bytes_per_token() == 4_718_592
    assert MODELS["Llama-3.1-70B"].gqa_group_size == 8
    with pytest.raises(UnknownNameError, match="did you mean 'OPT-66B'"):
        shape_named("OPT-66")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_hidden_layers": None}, "lacks num_hidden_layers or n_layer"),
        ({"num_hidden_layers": 0}, "num_layers must be 1 or more, not 0"),
        ({"num_hidden_layers": "32"}, "num_layers must be 1 or more, not '32'"),
        ({"hidden_size": 4097}, "hidden size must be a multiple of 32 heads"),
        ({"num_attention_heads": 0}, "heads must be an integer"),
        ({"num_key_value_heads": 5}, "a multiple of 5 kv_heads"),
        ({"num_local_experts": 8}, "has experts"),
        ({"kv_lora_rank": 512}, "latent attention"),
    ],
)
def test_configs_that_are_refused(tmp_path, change, reason):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS["Llama-3.1-8B"] | change))
    with pytest.raises(ParameterError, match=reason) as error:
        read_config(path)
    assert str(error.value).count("config.json") == 1


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_no_config_are_refused(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=r"config\.json"):
        read_config(path)
