"""Figures of twenty commands: recorded by one version of dimmpim, compared with those of another.

Usage::

    python tests/figures/figures.py record FOLDER [--program dimmpim] [--only NAME]
    python tests/figures/figures.py compare BEFORE AFTER

`record` runs every command of COMMANDS and keeps its JSON or CSV. `compare` prints each number or text that differs
and ends with status 1 if there is one. Wall time, versions and file names are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRACE = Path(__file__).parents[3] / "shared" / "data" / "traces" / "azure2023_conv.csv.gz"
SLICE = Path(__file__).parents[1] / "data" / "smollm2_slice.npz"
MHA, GQA = "ddr4-3200-x8-8gb", "ddr4-3200-x8-8gb-gqa8"
PUBLISHED = "--model GPT-175B --lengths OpenR1"

COMMANDS = {
    "attention-golden": "attention --preset tiny --shape 4,2,16,300",
    "attention-golden-full": f"attention --preset {MHA} --shape 8,1,128,2048",
    "attention-recorded": f"attention --preset {MHA} --kv {SLICE} --layer 10 --step 0",
    "attention-rtl": "attention --preset tiny --shape 4,2,16,300 --backend rtl",
    "attention-rtl-static": "attention --preset tiny --shape 4,2,16,300 --backend rtl --static-order",
    "attention-timing-mha": f"attention --preset {MHA} --shape 8,8,128,8192 --backend timing",
    "attention-timing-gqa": f"attention --preset {GQA} --shape 128,16,128,8192 --backend timing",
    "attention-timing-16gb": "attention --preset ddr4-3200-x8-16gb --shape 8,8,128,8192 --backend timing",
    "attention-timing-static": f"attention --preset {MHA} --shape 8,8,128,8192 --backend timing --static-order",
    "ablation": "ablation --backend timing",
    "scheduling-mha": "scheduling --backend timing --phases 8",
    "scheduling-gqa": f"scheduling --backend timing --phases 8 --preset {GQA} --group 8 --kv-heads 2",
    "capacity": "capacity",
    "generate": "generate --tokens 8 --backend golden --prompt Gravity",
    "serve-l3": f"serve --system L3 {PUBLISHED} --requests 100",
    "serve-gpu": f"serve --system GPU {PUBLISHED} --requests 100",
    "serve-l3-azure": f"serve --system L3 --model Llama-3.1-70B --trace {TRACE} --requests 2000",
    "serve-rank-pim": f"serve --system R-PIM {PUBLISHED} --requests 50",
    "compare": f"compare {PUBLISHED} --requests 60",
    "compare-qwen": "compare --model QWEN-72B --lengths OpenThoughts --requests 40",
    "pim-latency": f"pim-latency --preset {MHA} --out {{out}}",
    "pim-energy": f"pim-energy --preset {MHA} --out {{out}}",
    "sweep": f"sweep attention --preset {MHA} --shape 8,8,128 --tokens 1024:8192:x2 --out {{csv}}",
}

IGNORED = ("wall_seconds", "version", "seconds", "file", "path", "command", "dimmpim", "wall_s", "host_seconds")
"""Keys that differ from run to run."""

RENAMED = {"serial": "static_order"}
"""Words of an older version."""


def record(folder: Path, program: str, only: str | None) -> None:
    """Run the commands; a command that fails is told and leaves no file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in COMMANDS.items():
        if only and only not in name:
            continue
        out = (folder / f"{name}.json").resolve()
        line = command.format(out=out, csv=out.with_suffix(".csv"))
        if "--out" not in line:
            line += f" --json {out}"
        out.unlink(missing_ok=True)
        begin = time.perf_counter()
        done = subprocess.run([*program.split(), *line.split()], capture_output=True, text=True, check=False)
        if done.returncode and "--static-order" in line:  # as it was called before
            line = line.replace("--static-order", "--serial")
            done = subprocess.run([*program.split(), *line.split()], capture_output=True, text=True, check=False)
        text = "" if not done.returncode else f" FAILED: {done.stderr.strip().splitlines()[-1:]}"
        print(f"{name:24} {time.perf_counter() - begin:7.1f} s{text}", flush=True)


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of a document, by its path."""
    if isinstance(document, dict):
        for key, value in document.items():
            word = RENAMED.get(key, key)
            if not any(part in word for part in IGNORED):
                yield from leaves(value, f"{path}.{word}")
    elif isinstance(document, list):
        for n, value in enumerate(document):
            yield from leaves(value, f"{path}[{n}]")
    else:
        yield path, RENAMED.get(document, document) if isinstance(document, str) else document


def read(path: Path) -> dict[str, Any]:
    """The leaves of a recorded file."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return dict(leaves(list(csv.DictReader(file))))
    return dict(leaves(json.loads(path.read_text())))


def compare(before: Path, after: Path) -> int:
    """Print what differs; the number of commands that do."""
    different = 0
    names = sorted({path.name for folder in (before, after) for path in folder.iterdir()})
    for name in names:
        if not ((before / name).exists() and (after / name).exists()):
            print(f"{name}: only in {before if (before / name).exists() else after}")
            different += 1
            continue
        old, new = read(before / name), read(after / name)
        changed = [key for key in old.keys() | new.keys() if old.get(key, "-") != new.get(key, "-")]
        print(f"{name}: {len(new)} figures, {len(changed)} differ")
        different += bool(changed)
        for key in sorted(changed)[:12]:
            a, b = old.get(key, "-"), new.get(key, "-")
            numbers = isinstance(a, int | float) and isinstance(b, int | float) and a
            print(f"    {key}: {a} -> {b}" + (f" ({b / a - 1:+.3%})" if numbers else ""))
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    recording = actions.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--program", default="dimmpim")
    recording.add_argument("--only")
    comparing = actions.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.action == "compare":
        return min(1, compare(given.before, given.after))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    record(given.folder, given.program, given.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
