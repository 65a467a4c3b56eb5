"""The folder in which malformed command lines are tried, and damaged files of each format with the command for them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np

from pimhost.llm.synthetic import synthetic_config, synthetic_weights, write_gguf, write_safetensors

__all__ = ["damaged", "fill"]

TRACE = "ck,command,rank,bank_group,bank,row,column\n10,ACT,0,0,0,5,\n40,RD,0,0,0,,8\n"
REQUESTS = "arrival_ns,prompt_tokens,output_tokens\n0,5,3\n9,6,4\n"
NOISE = bytes(range(255, 128, -1)) * 3
DEEP = "[" * 100_000 + "]" * 100_000
CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 300, "max_position_embeddings": 128,
}  # fmt: skip


def array(shape=(2, 5, 16), dtype=np.float16):
    """Content of an .npy file."""
    out = io.BytesIO()
    np.save(out, np.ones(shape, dtype))
    return out.getvalue()


def header(shape, dtype="<f2"):
    """Content of an .npy file whose header says `shape`, and which has 64 bytes."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(118) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)


def npz(**members):
    """Content of an .npz file; of layer 0, what is not given is right."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in ({"Q0": array((2, 4, 16)), "K0": array(), "V0": array()} | members).items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def _flipped(content, at, by=0x55):
    return content[:at] + bytes([content[at] ^ by]) + content[at + 1 :]


def _pickled():
    out = io.BytesIO()
    np.save(out, np.array([{}], object), allow_pickle=True)
    return out.getvalue()


def _recordings():
    good = npz()
    inside = good.index(b"\x93NUMPY")
    yield "an_npy_file", array()
    yield "empty", b""
    yield "noise", NOISE
    yield "only_a_zip_end", b"PK\x05\x06" + bytes(18)
    yield "an_empty_name_alone", npz(Q0=None, K0=None, V0=None, **{"": b"x"})
    yield "58_tib_in_the_header", npz(K0=header((2, 1 << 44, 1)))
    yield "negative_axis", npz(K0=header((2, -5, 16)))
    yield "axes_that_overflow", npz(K0=header((1 << 40, 1 << 40, 1 << 40)))
    yield "axis_of_0", npz(K0=array((2, 0, 16)), V0=array((2, 0, 16)))
    yield "two_axes", npz(Q0=array((4, 16)))
    yield "four_axes", npz(V0=array((1, 2, 5, 16)))
    yield "float32", npz(K0=array(dtype=np.float32))
    yield "big_endian_pickle", npz(K0=_pickled())
    yield "text_for_a_type", npz(K0=header((2, 5, 16), "hello"))
    yield "fields_for_a_type", npz(K0=header((2, 5, 16), [("a", "<f2")]))
    yield "code_in_the_header", npz(K0=header("__import__('os')"))
    yield "header_cut_off", npz(K0=array()[:20])
    yield "data_cut_off", npz(K0=array()[:-10])
    yield "data_too_long", npz(K0=array() + b"more" * 10)
    yield "version_9", npz(K0=_flipped(array(), 6, 8))
    yield "not_an_array", npz(K0=b"hello")
    yield "infinity", npz(K0=array().replace(b"\x00\x3c", b"\x00\x7c"))
    yield "no_v", npz(V0=None)
    yield "other_v", npz(V0=array((2, 6, 16)))
    yield "other_head_dim", npz(Q0=array((2, 4, 32)))
    yield "more_steps_than_tokens", npz(Q0=array((9, 4, 16)))
    yield "bad_crc", _flipped(good, inside + 140)
    yield "bad_local_header", _flipped(good, 0)
    yield (
        "unknown_compression",
        good.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00"),
    )
    yield "encrypted", good.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    yield from ((f"cut_after_{at}", good[:at]) for at in (10, 100, len(good) // 2, len(good) - 30, len(good) - 1))


def _command_traces():
    lines = TRACE.splitlines()
    yield "empty", b""
    yield "noise", NOISE
    yield "other_header", TRACE.replace("rank", "rang").encode()
    yield "no_commands", lines[0].encode()
    yield "utf_16", TRACE.encode("utf-16")
    yield "a_very_long_line", TRACE.encode() + b"1" * (1 << 21)
    yield "unknown_command", TRACE.replace("ACT", "FLY").encode()
    yield "row_beyond", TRACE.replace("5", "99999999").encode()
    for number, bad in enumerate(("x", "-1", "1.5", "²", "9" * 5000, "")):
        yield f"ck_{number}", TRACE.replace("40", bad).encode()
        yield f"bank_{number}", TRACE.replace("40,RD,0,0,0", f"40,RD,0,0,{bad}").encode()
    yield "back_in_time", TRACE.replace("40", "4").encode()
    yield "too_many_cells", TRACE.replace("40", "40,1").encode()
    yield "nul", TRACE.replace("RD", "R\0D").encode()


def _request_traces():
    yield "empty", b""
    yield "noise", NOISE
    yield "header_alone", REQUESTS.splitlines()[0].encode()
    yield "two_equal_columns", REQUESTS.replace("output_tokens", "prompt_tokens").encode()
    yield "missing_cell", (REQUESTS + "10,2\n").encode()
    yield "unsorted", (REQUESTS + "3,2,2\n").encode()
    yield "open_quote", (REQUESTS + '"10,2,2\n').encode()
    yield "long_line", REQUESTS.encode() + b"1" * (1 << 21)
    yield "not_utf_8", REQUESTS.encode() + b"\xff\xfe\n"
    yield "gzip_cut_off", gzip.compress(REQUESTS.encode() * 99)[:-9]
    yield "gzip_of_noise", gzip.compress(NOISE)
    yield "gzip_damaged", _flipped(gzip.compress(REQUESTS.encode() * 99), 30)
    yield "json_without_columns", b'{"a": 1}\n'
    yield "json_list", b'{"timestamp": 1, "input_length": [], "output_length": 1}\n'
    yield "json_cut_off", b'{"timestamp": 1, "input_\n'
    yield "json_deep", b'{"timestamp": ' + DEEP.encode()
    for number, bad in enumerate(("x", "-1", "0", "1.5", "²", "9" * 30, "", "nan", "1e9")):
        yield f"tokens_{number}", REQUESTS.replace("6", bad).encode()
    for number, bad in enumerate(("x", "-1", "²", "9" * 30, "nan", "1e99")):
        yield f"arrival_{number}", REQUESTS.replace("9", bad).encode()


def _programs():
    yield "empty", b""
    yield "comments", b"; nothing\n# nothing\n"
    yield "noise", NOISE
    yield "utf_16", "nop\n".encode("utf-16")
    yield "too_long", b"nop\n" * 300_000
    yield "too_many_words", b"nop\n" * 5000
    yield "40_nested_loops", b"loop 2 {\n" * 40 + b"nop\n" + b"}\n" * 40
    yield "5_nested_loops", b"loop 2 {\n" * 5 + b"nop\n" + b"}\n" * 5
    for number, bad in enumerate(
        ("jump 3", "movi", "movi x8, 1", "movi x1, x2", "movi x1, 99999999999", "movi x1, 1, 2", "addi x1, x2", "mac",
         "mac up, x1", "mac tree, x1 +=", "rd_out", "rd_out x1", "wr_inp", "wr_inp probs, x1", "merge", "end now",
         "loop 2", "loop x {\n nop\n }", "loop 2 {", "loop 2 {\n }", "}", "loop -1 {\n nop\n }",
         "loop 70000 {\n nop\n }", ".word", ".word x", ".word -1", ".word 0x1ffffffffffffffff",
         "movi x1, 0x", "movi x1, 08", "softmax x1", "²",
         "movi x1, ²", "barrier 1", "nop nop", "movi x1, " + "9" * 5000)
    ):  # fmt: skip
        yield f"line_{number}", f"nop\n{bad}\n".encode()


def _configs():
    yield "empty", b""
    yield "noise", NOISE
    yield "deep", DEEP.encode()
    yield "too_long", b" " * (1 << 23)
    for number, bad in enumerate(([], 1, "a", None, {}, {"model_type": 5})):
        yield f"other_{number}", json.dumps(bad).encode()
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        for number, bad in enumerate(("x", -1, 0, 1.5, [], {}, True, 1e400)):
            yield f"{key}_{number}", json.dumps(CONFIG | {key: bad}).encode()
    yield "experts", json.dumps(CONFIG | {"num_local_experts": 8}).encode()


def _models(good):
    yield "empty", b""
    yield "noise", NOISE
    yield "magic_alone", b"GGUF"
    yield "version_99", good[:4] + struct.pack("<I", 99) + good[8:]
    yield "many_tensors", good[:8] + struct.pack("<Q", 1 << 60) + good[16:]
    yield "many_keys", good[:16] + struct.pack("<Q", 1 << 60) + good[24:]
    yield from ((f"cut_after_{at}", good[:at]) for at in (23, 100, 1000, 10_000, len(good) // 2, len(good) - 1))
    yield from ((f"flipped_{at}", _flipped(good, at, 0xFF)) for at in (4, 9, 17, 25, 33, 60, 100))


def damaged(folder: Path) -> list[tuple[str, ...]]:
    """Write a damaged file of each kind into the folder; command lines that read them."""
    cases: list[tuple[str, ...]] = []

    def add(kind, suffix, contents, *commands):
        for name, content in contents:
            file = f"{kind}_{name}{suffix}"
            (folder / file).write_bytes(content)
            cases.extend(tuple(part.replace("FILE", file) for part in command.split()) for command in commands)

    add("kv", ".npz", _recordings(), "attention --preset tiny --kv FILE --layer 0 --step 0")
    add("commands", ".csv", _command_traces(), "export ramulator2 --preset tiny --trace FILE --out new --form commands")
    serving = "--model Llama-3.1-8B --trace FILE"
    add("requests", "", _request_traces(), "workload --trace FILE --out new", f"serve --system GPU {serving}",
        f"sweep serve --system GPU {serving} --out new.csv")  # fmt: skip
    add("program", ".s", _programs(), "asm FILE --out new")
    words = (("empty", b""), ("odd", b"1234567"), ("long", bytes(1 << 21)))
    add("words", ".bin", words, "disasm FILE --out new")
    add("config", ".json", _configs(), "serve --system GPU --lengths OpenR1 --model FILE", "gpu-times --model FILE")
    add(
        "model", ".gguf", _models((folder / "good.gguf").read_bytes()), "generate --prompt a --preset tiny --model FILE"
    )
    add("prompts", ".txt", (("empty", b""), ("noise", NOISE), ("blank", b"\n \n"), ("long", b"a" * (1 << 25))),
        "batch --prompts FILE --model good.gguf")  # fmt: skip
    tables = (("empty", b""), ("noise", NOISE), ("other", b"a,b\n1,2\n"), ("quote", b'"a\n'))
    for suffix in (".csv", ".parquet"):
        add("table", suffix, tables, "sweep attention --preset tiny --shape 4,2,16 --tokens 64 --resume --out FILE")
    return cases


def fill(folder: Path) -> None:
    """Write files that are right, and some that are not what they are named for."""
    config = synthetic_config(num_layers=2, num_q_heads=4, num_kv_heads=2, head_dim=16, context_length=128)
    write_gguf(folder / "good.gguf", config, synthetic_weights(config, 1))
    write_safetensors(folder / "model", config, synthetic_weights(config, 1))
    texts = {
        "good.s": "nop\nend\n",
        "good.csv": TRACE,
        "requests.csv": REQUESTS,
        "half.partial.csv": "a,b\n",
        "taken.ini/x": "",
        "empty": "",
        "empty.py": "",
        "exits.py": "import sys\nsys.exit(0)\n",
        "fails.py": "1 / 0\n",
        "list.json": "[]",
        "deep.json": DEEP,
        "new.json/x": "",
    }
    (folder / "folder").mkdir()
    (folder / "folder.py").mkdir()
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for name in ("noise", "noise.json", "bits.json", "noise.parquet"):
        (folder / name).write_bytes(NOISE)
    (folder / "good.bin").write_bytes(bytes(16))
    (folder / "good.npz").write_bytes(npz())
