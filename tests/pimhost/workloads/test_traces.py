"""Trace readers: each format, and each way in which a trace can be malformed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pimhost.workloads import lines
from pimhost.workloads.lengths import synthetic_workload
from pimhost.workloads.lines import LINE_BYTES, TraceError
from pimhost.workloads.readers import FORMATS, read_trace
from pimhost.workloads.summary import csv_text, summarize
from pimhost.workloads.workload import Request
from pimspec.errors import ParameterError, UnknownNameError

TRACES = Path(__file__).parents[4] / "shared" / "data" / "traces"
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-17 00:00:00,879,55
"""
MOONCAKE = """{"timestamp": 100, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 100, "input_length": 7322, "output_length": 490, "hash_ids": []}

{"timestamp": 3100, "input_length": 1, "output_length": 1}
"""
VIDUR = "num_prefill_tokens,num_decode_tokens\n3772,54\n2015,156\n"
VIDUR_ARRIVALS = "arrived_at_s,num_prefill_tokens,num_decode_tokens\n0.046926808,2358,531\n1e0,1034,769\n"
EXPECTED = {
    "azure": (AZURE, [(0, 374, 44), (4_314_579_000, 396, 109), (20_653_319_410_000, 879, 55)]),
    "mooncake": (MOONCAKE, [(0, 6758, 500), (0, 7322, 490), (3_000_000_000, 1, 1)]),
    "vidur": (VIDUR, [(0, 3772, 54), (0, 2015, 156)]),
    "vidur with arrivals": (VIDUR_ARRIVALS, [(0, 2358, 531), (953_073_192, 1034, 769)]),
}


def _file(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("case", EXPECTED)
@pytest.mark.parametrize("pack", [lambda b: b, gzip.compress, lambda b: b"\xef\xbb\xbf" + b.replace(b"\n", b"\r\n")])
def test_formats(tmp_path, case, pack):
    text, expected = EXPECTED[case]
    workload = read_trace(_file(tmp_path, pack(text.encode())))
    assert list(workload) == [Request(*row) for row in expected]
    assert workload[1] == Request(*expected[1])
    assert (workload.name, workload.synthetic) == ("t.csv", False)
    assert workload.source == FORMATS[case.split()[0]].source
    assert list(read_trace(tmp_path / "t.csv", case.split()[0], most_requests=1)) == [Request(*expected[0])]
    assert list(workload.first(1)) == [Request(*expected[0])]


def test_a_written_trace_can_be_read(tmp_path):
    workload = synthetic_workload("OpenR1", 20, np.random.default_rng(1))
    again = read_trace(_file(tmp_path, csv_text(workload)))
    assert list(again) == list(workload)
    assert (again.synthetic, again.source) == (True, workload.source)


MALFORMED = {
    "empty": ("", None, "empty"),
    "blank lines": ("\n\n", None, "empty"),
    "only a header": (VIDUR.split("\n", maxsplit=1)[0], None, "no requests after the header"),
    "only an origin": ("# synthetic: x\n", None, "empty"),
    "unknown": ("a,b,c\n1,2,3\n", 1, "no known format"),
    "missing column": ("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,374\n", 1, "missing column GeneratedTokens"),
    "no arrivals": ("ContextTokens,GeneratedTokens\n374,3\n", 1, "missing column TIMESTAMP"),
    "same name": ("num_prefill_tokens,num_decode_tokens,num_decode_tokens\n1,2,3\n", 1, "same name"),
    "too few cells": (VIDUR + "17\n", 4, "1 columns, but the header has 2"),
    "open quote": (VIDUR + '"17,3\n', 4, "not CSV"),
    "negative": (VIDUR + "17,-3\n", 4, r"num_decode_tokens must be 1\.\.2147483648, not -3"),
    "zero": (VIDUR + "0,3\n", 4, r"num_prefill_tokens must be 1\.\."),
    "NaN": (VIDUR + "nan,3\n", 4, "num_prefill_tokens must be an integer, not 'nan'"),
    "nothing": (VIDUR + ",3\n", 4, "num_prefill_tokens must be an integer, not ''"),
    "fraction": (VIDUR + "1.5,3\n", 4, "must be an integer"),
    "underscore": (VIDUR + "1_0,3\n", 4, "must be an integer"),
    "other digits": (VIDUR + "\u0661,3\n", 4, "must be an integer"),
    "very large": (VIDUR + f"{10**19},3\n", 4, r"must be 1\.\."),
    "many digits": (VIDUR + "9" * 9000 + ",3\n", 4, r"must be an integer, not '9+\.\.\."),
    "NUL": (VIDUR + "\0,3\n", 4, "num_prefill_tokens must be an integer|not CSV"),
    "arrival NaN": (VIDUR_ARRIVALS + "NaN,3,3\n", 4, "arrived_at_s must be a number, not 'NaN'"),
    "arrival negative": (VIDUR_ARRIVALS.replace("0.04", "-0.04"), 2, "must be a time from 0 on"),
    "arrival very late": (VIDUR_ARRIVALS + "1e99,3,3\n", 4, "must be a time from 0 on"),
    "unsorted": (VIDUR_ARRIVALS + "0.5,3,3\n", 4, "unsorted: arrived_at_s"),
    "no date": (AZURE + "yesterday,3,3\n", 5, "TIMESTAMP must be a date and time, not 'yesterday'"),
    "impossible date": (AZURE + "2023-13-16 18:15:46,3,3\n", 5, "TIMESTAMP month must be"),
    "unsorted dates": (AZURE + "2023-11-16 18:15:46,3,3\n", 5, "unsorted: TIMESTAMP"),
    "JSON cut off": (MOONCAKE + '{"timestamp": 3', 5, "not JSON"),
    "JSON list": (MOONCAKE + "[1]", 5, "not a JSON object"),
    "JSON NaN": (MOONCAKE + '{"timestamp": 9e9, "input_length": NaN, "output_length": 1}', 5, "input_length must be"),
    "JSON time NaN": (MOONCAKE + '{"timestamp": NaN, "input_length": 1, "output_length": 1}', 5, "timestamp must be"),
    "JSON true": (MOONCAKE + '{"timestamp": 9e9, "input_length": true, "output_length": 1}', 5, "input_length must be"),
    "JSON text": (MOONCAKE + '{"timestamp": 9e9, "input_length": {}, "output_length": 1}', 5, "input_length must be"),
    "JSON lacks": (MOONCAKE + '{"timestamp": 9e9, "output_length": 1}', 5, "no input_length"),
    "JSON lacks time": (MOONCAKE + '{"input_length": 1, "output_length": 1}', 5, "no timestamp"),
    "JSON deep": (MOONCAKE + '{"a":' * 100_000, 5, "not JSON"),
    "not UTF-8": (VIDUR.encode() + b"\xff,3\n", 4, "not UTF-8"),
    "cut gzip": (gzip.compress(VIDUR.encode() * 1000)[:-20], None, "damaged gzip stream|num_prefill_tokens must be"),
    "bad gzip": (b"\x1f\x8b" + b"x" * 100, 1, "damaged gzip stream"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(tmp_path, case):
    content, line, reason = MALFORMED[case]
    path = _file(tmp_path, content)
    with pytest.raises(TraceError, match=reason) as error:
        read_trace(path)
    if case != "cut gzip":
        assert error.value.line == line
    assert str(error.value).startswith(f"{path}:{line}: " if line else f"{path}:")
    assert len(str(error.value)) < len(str(path)) + 300


def test_a_line_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    taken = 0
    real = gzip.GzipFile.readline

    def counted(self, size=-1):
        nonlocal taken
        line = real(self, size)
        taken += len(line)
        return line

    monkeypatch.setattr(lines.gzip.GzipFile, "readline", counted)
    path = _file(tmp_path, gzip.compress(VIDUR.encode() + b"1" * (50 * LINE_BYTES), compresslevel=1))
    with pytest.raises(TraceError, match=f":4: longer than {LINE_BYTES} bytes"):
        read_trace(path)
    assert taken <= 2 * LINE_BYTES


def test_arguments(tmp_path):
    path = _file(tmp_path, VIDUR)
    with pytest.raises(UnknownNameError, match="did you mean 'azure'"):
        read_trace(path, "azur")
    with pytest.raises(TraceError, match=":1: missing column ContextTokens"):
        read_trace(path, "azure")
    with pytest.raises(ParameterError, match="most_requests"):
        read_trace(path, most_requests=0)
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "none.csv")


@pytest.mark.skipif(not TRACES.is_dir(), reason=f"no recorded traces in {TRACES}")
@pytest.mark.parametrize(
    ("name", "count", "prompt", "output", "greatest"),
    [
        ("azure2023_conv.csv.gz", 19_366, 1020, 129, (14_050, 1000)),
        ("mooncake_conversation.jsonl.gz", 12_031, 6909, 350, (126_195, 2000)),
        ("vidur_arxiv_summarization_lengths.csv.gz", 28_257, 2730, 167, (4054, 4056)),
        ("sharegpt_llama31_lengths.csv.gz", 300, 733, 633, (3998, 1021)),
    ],
)
def test_recorded_traces(name, count, prompt, output, greatest):
    summary = summarize(read_trace(TRACES / name))
    assert summary.requests == count
    assert (summary.prompt.p50, summary.output.p50) == (prompt, output)
    assert (summary.prompt.greatest, summary.output.greatest) == greatest
    assert (summary.requests_per_s is None) == name.startswith("vidur")


def test_mooncake_line_with_a_million_tokens_of_prefix_fits():
    row = {"timestamp": 0, "input_length": 1 << 20, "output_length": 1, "hash_ids": list(range(10**6, 10**6 + 2048))}
    assert 8 * len(json.dumps(row)) < LINE_BYTES
