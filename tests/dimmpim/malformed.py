"""Malformed command lines, made from the commands themselves: each option of each command times kinds of bad value."""

from __future__ import annotations

from collections.abc import Iterator

import click

from dimmpim.cli import cli
from dimmpim.commands.parameters import InputFile, InputFolder, Name, OutputFile, OutputFolder, Text

__all__ = ["commands", "malformed"]

SHAPE = ("--kv-heads", "2", "--head-dim", "16")
SERVING = ("--model", "Llama-3.1-8B", "--lengths", "OpenR1", "--requests", "2")

WORKING = {
    "presets": (),
    "verilog": ("--preset", "tiny", "--unit", "fp32_max", "--out", "new"),
    "simulate": ("--preset", "tiny", "--unit", "fp32_max", "--simulator", "fast", "--vectors", "9", "--out", "new"),
    "attention": ("--preset", "tiny", "--shape", "4,2,16,20"),
    "ablation": ("--preset", "tiny", "--group", "2", *SHAPE, "--tokens", "64", "--backend", "timing"),
    "area": ("--preset", "tiny"),
    "formal": ("translation",),
    "bench": ("--preset", "tiny", "--no-ranks"),
    "compile": ("--preset", "tiny", "--q-heads", "4", *SHAPE),
    "asm": ("good.s",),
    "disasm": ("good.bin",),
    "isa": (),
    "run": ("good.s", "--tokens", "20", "--q-heads", "4", *SHAPE),
    "capacity": ("--trials", "1"),
    "scheduling": ("--preset", "tiny", *SHAPE, "--tokens", "64", "--backend", "timing"),
    "generate": ("--prompt", "hello", "--model", "good.gguf", "--tokens", "1", "--preset", "tiny"),
    "batch": ("--prompt", "a", "--prompt", "b", "--model", "good.gguf", "--ranks", "1", "--tokens", "1"),
    "workload": ("--lengths", "OpenR1", "--requests", "3"),
    "fit-gpu": ("--profiles", "folder"),
    "gpu-times": ("--model", "Llama-3.1-8B"),
    "pim-latency": ("--preset", "tiny"),
    "pim-energy": ("--preset", "tiny"),
    "serve": ("--system", "GPU", *SERVING),
    "compare": ("--systems", "GPU", *SERVING),
    "sweep serve": ("--system", "GPU", *SERVING, "--out", "new.csv"),
    "sweep attention": ("--preset", "tiny", "--shape", "4,2,16", "--tokens", "64", "--out", "new.csv"),
    "export llmservingsim": ("--preset", "ddr4-3200-x8-8gb", "--tokens", "128", "--out", "new.ini"),
    "export ramulator2": ("--preset", "tiny", "--trace", "good.csv", "--out", "new"),
}
"""For each command, arguments with which it works in the folder of the tests; bad ones come after them."""

LONG_NAME = "n" * 300
NUMBERS = ("", "x", "1.5x", "0x10", "1 2", "٣x", "nan", "-inf", "1" * 5000)
NAMES = ("", "nope", "TINY!", "tiny\nddr4", "\udcff", "%s%n", "n" * 5000)
SHAPES = ("", "4", "4,2,16,", "4,2,16,20,7", "4,2,x,20", "-4,2,16,20", "4,3,16,20", "4,2,17,20", "4,2,²,20")
SHAPES += ("0,0,0,0", "9" * 40 + ",2,16,20", "4;2;16;20", "4,2,16,99999999999")
LISTS = ("", ",", "64,", "64,x", "0", "-1", "1.5", "64;128", "99999999999", "1" * 30, "²", "64,0")
RANGES = ("", ",", "x", "1:2", "1:2:3:4", "4:1:1", "1:4:0", "1:4:-1", "1:4:x1", "0:4:x2", "1:x:2", "nan", "inf")
RANGES += ("-1", "0:1e15:1e-3", "1" * 5000, "99999999999999999", "²")
LAYERS = ("", "x", "0-", "-1", "3-1", "99", "0-99999999999", "0,,1", "1.5", "²")
FREE = {
    "shape": SHAPES,
    "heads": (*SHAPES, "4,2,16,20"),
    "tokens": LISTS,
    "layers_on_pim": LAYERS,
    "systems": (*NAMES, "GPU,", "GPU,GPU", "gone.py:X", "good.s:X"),
    "system": (*NAMES, "gone.py:X", "good.s:X", "exits.py:X", "fails.py:X", "folder.py:X", "empty.py:X"),
    "ray": ("", "\udcff"),
    "model": (*NAMES, "gone.json", "folder", "noise.json", "list.json", "deep.json", "bits.json"),
}
"""Bad values of options that take text, by the name of the parameter; all others take names."""

ALLOWED = {
    ("sweep attention", "--shape", "4,2,16,20"),
}

MORE = (
    ("nope",),
    ("",),
    ("\udcff",),
    ("--nope",),
    ("sweep", "nope"),
    ("export", "nope"),
    ("attention", "--preset", "tiny"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--kv", "good.npz", "--layer", "0", "--step", "0"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--layer", "0"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--step", "0"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--waves", "new"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--threads", "2"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--static-order"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--trace-commands", "new"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--bus-tccd", "short"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--refresh", "2"),
    ("attention", "--preset", "tiny", "--shape", "4,2,16,20", "--max-streaming-banks", "2"),
    ("attention", *WORKING["attention"], "--backend", "timing", "--max-current-ma", "100"),
    ("attention", "--preset", "ddr4-3200-x8-16gb", "--shape", "1,1,128,20", "--max-current-ma", "600"),
    ("attention", "--preset", "tiny", "--shape", "8,8,64,1048576", "--backend", "timing"),
    ("attention", "--preset", "ddr4-3200-x8-8gb", "--shape", "128,128,128,1048576"),
    ("attention", "--preset", "ddr4-3200-x8-8gb-bf16", "--shape", "4,2,128,20"),
    ("attention", *WORKING["attention"], "--backend", "timing", "--json", "a", "--trace-commands", "./a"),
    ("attention", "--preset", "tiny", "--kv", "good.npz"),
    ("attention", "--preset", "tiny", "--kv", "good.npz", "--layer", "0"),
    ("attention", "--preset", "tiny", "--kv", "good.npz", "--layer", "1", "--step", "0"),
    ("attention", "--preset", "tiny", "--kv", "good.npz", "--layer", "0", "--step", "2"),
    ("attention", "--preset", "tiny", "--kv", "good.npz", "--layer", "0", "--step", "0", "--json", "good.npz"),
    ("verilog", "--preset", "tiny", "--unit", "fp32_max", "--rank", "--out", "new"),
    ("verilog", "--preset", "tiny", "--rank", "--prefix", "9a", "--out", "new"),
    ("verilog", "--preset", "tiny", "--rank", "--prefix", "a-b", "--out", "new"),
    ("verilog", "--preset", "tiny", "--rank", "--prefix", "é", "--out", "new"),
    ("verilog", "--preset", "tiny", "--prefix", "a_", "--out", "new"),
    ("verilog", "--preset", "tiny", "--unit", "fp32_max", "--no-dpa", "--out", "new"),
    ("simulate", "--preset", "tiny", "--unit", "fp32_max", "--simulator", "fast", "--waves"),
    ("bench", "--no-ranks", "--no-units"),
    ("formal", "--list", "--json", "new"),
    ("asm", "good.s", "--out", "good.s"),
    ("disasm", "good.bin", "--out", "./good.bin"),
    ("compile", "--kv-heads", "300", "--q-heads", "300"),
    ("compile", "--q-heads", "3", "--kv-heads", "2"),
    ("compile", "--layer", "1"),
    ("compile", "--num-layers", "1024"),
    ("capacity", "--context", "5"),
    ("capacity", "--chunk-bytes", "3"),
    ("capacity", "--layers", "1024", "--kv-heads", "1024"),
    ("scheduling", "--requests", "9", "--kv-heads", "9"),
    ("generate", "--prompt", "", "--model", "good.gguf", "--preset", "tiny", "--raw"),
    ("generate", "--prompt", "a", "--model", "good.gguf", "--preset", "tiny", "--json", "-", "--report", "-"),
    ("generate", "--prompt", "a", "--model", "good.gguf", "--preset", "tiny", "--json", "good.gguf"),
    ("generate", "--prompt", "a" * 9000, "--model", "good.gguf", "--preset", "tiny"),
    ("batch", "--model", "good.gguf"),
    ("batch", "--prompt", "a", "--model", "good.gguf"),
    ("batch", "--prompts", "empty", "--model", "good.gguf"),
    ("batch", "--prompts", "noise", "--model", "good.gguf"),
    ("batch", "--prompts", "/dev/zero", "--model", "good.gguf"),
    ("batch", "--prompt", "a", "--prompt", "b", "--compare", "--early-transfers", "--model", "good.gguf"),
    ("workload",),
    ("workload", "--trace", "requests.csv", "--lengths", "OpenR1"),
    ("workload", "--lengths", "OpenR1", "--format", "azure"),
    ("workload", "--trace", "requests.csv", "--out", "requests.csv"),
    ("workload", "--lengths", "OpenR1", "--rate", "1e-300"),
    ("workload", "--trace", "requests.csv", "--format", "azure"),
    ("workload", "--trace", "/dev/zero"),
    ("serve", "--system", "GPU", "--model", "Llama-3.1-8B"),
    ("serve", "--system", "GPU", *SERVING, "--dp", "7"),
    ("serve", "--system", "GPU", *SERVING, "--json", "new", "--timeline", "new"),
    ("serve", "--system", "GPU", *SERVING, "--json", "-", "--timeline", "-"),
    ("compare", "--systems", "GPU", "--lengths", "OpenR1"),
    ("compare", "--published", "--model", "Llama-3.1-8B"),
    ("compare", "--published", "--seed", "3"),
    ("sweep", "serve", "--system", "GPU", "--model", "Llama-3.1-8B", "--out", "new.csv"),
    ("sweep", "serve", "--system", "GPU", *SERVING, "--out", "new.txt"),
    ("sweep", "serve", "--system", "GPU", *SERVING, "--out", "-"),
    ("sweep", "serve", "--system", "GPU", *SERVING, "--out", "new.csv", "--format", "azure"),
    ("sweep", "serve", "--system", "GPU", *SERVING, "--out", "half.csv"),
    ("sweep", "serve", "--system", "GPU", *SERVING, "--out", "requests.csv", "--resume"),
    ("sweep", "serve", "--system", "GPU", *SERVING, "--out", "noise.parquet", "--resume"),
    ("sweep", "serve", "--system", "GPU", *SERVING, "--out", "new.csv", "--seed", "0:9999:1", "--rate", "1:999:1"),
    ("export", "llmservingsim", "--preset", "ddr4-3200-x8-8gb", "--out", "new.txt"),
    ("export", "llmservingsim", "--preset", "ddr4-3200-x8-8gb", "--out", "a b.ini"),
    ("export", "llmservingsim", "--preset", "ddr4-3200-x8-8gb", "--out", "taken.ini"),
    ("export", "llmservingsim", "--preset", "ddr4-3200-x8-8gb", "--ranks", "3", "--out", "new.ini"),
    ("export", "llmservingsim", "--preset", "ddr4-3200-x8-8gb", "--tokens", "128", "--out", "new.ini"),
    ("export", "ramulator2", "--preset", "tiny", "--trace", "good.csv", "--out", "good.csv"),
    ("export", "ramulator2", *WORKING["export ramulator2"], "--form", "commands", "--mac-as-reads"),
)  # fmt: skip
"""Options that do not go together, and files that are not what they are taken for."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Name and command of every command that does something."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", sub) for part, sub in command.commands.items())
        elif command is not None:
            yield name, command


def _numbers_beside(kind: click.IntRange | click.FloatRange) -> Iterator[str]:
    """Bounds that are passed by one."""
    if kind.min is not None:
        yield f"{kind.min - 1}"
        yield "-99999999999999999999"
    if kind.max is not None:
        yield f"{kind.max + 1}"
        yield f"{10**30}"


def _bad_values(param: click.Parameter) -> Iterator[str]:
    kind = param.type
    if isinstance(kind, click.IntRange | click.FloatRange):
        yield from NUMBERS
        yield from _numbers_beside(kind)
    elif isinstance(kind, click.types.IntParamType):
        yield from (*NUMBERS, "0", "-1", "17", f"{10**30}")
    elif isinstance(kind, click.Choice):
        yield from NAMES
    elif isinstance(kind, OutputFile):
        yield from ("", ".", "folder", "gone/new", "good.s/new", "new\0", LONG_NAME, "folder/../gone/new")
    elif isinstance(kind, OutputFolder):
        yield from ("", "good.s", "good.s/new", "new\0", "/dev/null", "/proc/new")
    elif isinstance(kind, InputFile):
        yield from ("", "gone", "noise", "empty", "new\0", LONG_NAME, "/dev/null", "good.s/new")
    elif isinstance(kind, Text) and not isinstance(kind, Name):
        yield "\udcff"
    elif isinstance(kind, InputFolder):
        yield from ("", "gone", "good.s", "new\0", LONG_NAME)
    elif param.metavar == "N,...":
        yield from RANGES
    else:
        yield from FREE.get(param.name or "", NAMES)


def _of_option(name: str, option: click.Option) -> Iterator[tuple[str, ...]]:
    start = (*name.split(), *WORKING[name])
    for spelling in (*option.opts, *option.secondary_opts):
        if option.is_flag:
            yield (*start, f"{spelling}=1")
            continue
        if not option._flag_needs_value:
            yield (*start, spelling)
        for value in _bad_values(option):
            if (name, spelling, value) not in ALLOWED:
                yield (*start, spelling, value)


def malformed() -> list[tuple[str, ...]]:
    """All of them."""
    found: list[tuple[str, ...]] = []
    for name, command in commands():
        for param in command.params:
            if isinstance(param, click.Option):
                found += _of_option(name, param)
            else:
                found += [(*name.split(), *WORKING[name][1:], value) for value in _bad_values(param)]
        found.append((*name.split(), *WORKING[name], "--nope"))
        if name != "formal":
            found.append((*name.split(), *WORKING[name], "surplus"))
    return [*found, *MORE]
