"""`dimmpim run`: a DPA program on the golden model, the RTL of a rank, or its timing model."""

from __future__ import annotations

import struct
from pathlib import Path

import click
from rich import box
from rich.table import Table

from dimmpim.api.presets import preset_of
from dimmpim.api.program_result import ProgramResult
from dimmpim.api.programs import BACKENDS, program_data, run_words
from dimmpim.commands.options import HEADS, MOST_SEED, json_option, preset_option, threads_option
from dimmpim.commands.parameters import InputFile, OutputFile, command, require_companion
from dimmpim.endings import FAILED
from dimmpim.outputs import STDOUT, console_beside, write_json, write_output
from pimcompiler.assembler import assemble
from pimhost.kv_file import MAX_TOKENS, DecodeStep, load_step
from pimspec.dram.command_trace import trace_text
from pimspec.errors import ParameterError, require
from pimspec.files import read_bytes
from pimspec.isa import Fault

_HEX_DIGITS = 16
MOST_PROGRAM_BYTES = 1 << 20


def read_words(path: Path) -> list[int]:
    """The words of a program: text, lines of 16 hexadecimal digits, or 64-bit words, little-endian.

    Raises
    ------
    ParameterError
    OSError
    """
    content = read_bytes(path, most=MOST_PROGRAM_BYTES)
    if b"\0" in content:
        require(len(content) % 8 == 0, f"bytes of {path}", len(content), "a multiple of 8")
        return list(struct.unpack(f"<{len(content) // 8}Q", content))
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ParameterError(f"{path} is neither text nor words of 64 bits") from None
    lines = text.split()
    if lines and all(len(line) == _HEX_DIGITS and set(line) <= set("0123456789abcdefABCDEF") for line in lines):
        return [int(line, 16) for line in lines]
    return assemble(text, str(path))


def _table(result: ProgramResult) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    after = f"{result.num_tokens:,}, then {result.tokens_after:,}"
    table.add_row("tokens", after if result.tokens_after != result.num_tokens else f"{result.num_tokens:,}")
    table.add_row("program", f"{len(result.words):,} words, {result.instructions:,} instructions done")
    if result.fault:
        table.add_row("fault", f"{result.fault.name} at word {result.fault_pc}: {result.fault_instruction or 'none'}")
        if result.fault in (Fault.UNMAPPED, Fault.PERMISSION):
            table.add_row("virtual row", f"{result.fault_row:,}")
        return table
    counts = ", ".join(f"{count:,} {kind}" for kind, count in result.micro_op_counts.items())
    table.add_row("micro-ops", counts)
    if result.clocks is not None:
        table.add_row("clocks", f"{result.clocks:,} ({result.ns:,.1f} ns)")
        table.add_row("of the peak of all banks", f"{result.utilization_of_peak:.1%}")
    if result.entries is not None:
        shown = f"{len(result.entries)} vectors of {result.head_dim}"
        table.add_row("outputs", shown if len(result.entries) else "none")
    if result.max_error is not None:
        table.add_row("greatest relative L2 error", f"{result.max_error:.3g} against float64")
    if result.golden_mismatches is not None:
        table.add_row("words unlike the golden model", f"{result.golden_mismatches}")
    return table


def _micro_ops(result: ProgramResult) -> str:
    """A line for each: its kind, and the fields that are not 0."""
    names = (
        [name for name in type(result.micro_ops[0]).__slots__ if name not in ("kind", "slot")]
        if result.micro_ops
        else []
    )
    lines = []
    for op in result.micro_ops:
        given = " ".join(f"{name}={getattr(op, name)}" for name in names if getattr(op, name))
        lines.append(f"{op.kind.name} {given}".rstrip() + "\n")
    return "".join(lines)


@command()
@click.argument("program", type=InputFile())
@click.option("--backend", type=click.Choice(BACKENDS), default="golden", show_default=True, help="Model of the rank.")
@preset_option("tiny")
@click.option(
    "--tokens", type=click.IntRange(1, MAX_TOKENS), metavar="N", help="Tokens of the synthetic request [default: 300]."
)
@click.option("--q-heads", type=HEADS, metavar="N", help="Number of its q_heads, over all its layers [default: 8].")
@click.option("--kv-heads", type=HEADS, metavar="N", help="Number of its kv_heads, over all its layers [default: 8].")
@click.option(
    "--head-dim", type=click.IntRange(1), metavar="N", help="Elements of its vectors [default: those of the preset]."
)
@click.option(
    "--seed", type=click.IntRange(0, MOST_SEED), metavar="N", help="Seed for the synthetic data [default: 1]."
)
@click.option("--kv", type=InputFile(), metavar="FILE.npz", help="Recording of Q, K and V (float16).")
@click.option("--layer", type=click.IntRange(0), metavar="N", help="Layer of the recording.")
@click.option("--step", type=click.IntRange(0), metavar="N", help="Decode step of the recording.")
@click.option("--o-partial", is_flag=True, help="Output as FP32 sums that are not normalized.")
@click.option("--static-order", is_flag=True, help="No overlap of banks and data bus.")
@click.option("--micro-ops", "show_micro_ops", is_flag=True, help="Print every micro-op.")
@json_option
@click.option(
    "--trace-commands",
    "trace_path",
    type=OutputFile(),
    metavar="FILE.csv",
    help="rtl, timing: write every DRAM and PIM command.",
)
@threads_option
@click.pass_context
def run(
    context: click.Context,
    program: Path,
    backend: str,
    preset_name: str,
    tokens: int | None,
    q_heads: int | None,
    kv_heads: int | None,
    head_dim: int | None,
    seed: int | None,
    kv: Path | None,
    layer: int | None,
    step: int | None,
    o_partial: bool,
    static_order: bool,
    show_micro_ops: bool,
    json_path: Path | None,
    trace_path: Path | None,
    threads: int,
) -> None:
    """Run a DPA program once for one resident request.

    PROGRAM is text as `dimmpim asm` takes it, or words as it writes them. K and V of kv_head h lie in the regions 2h
    and 2h + 1 of the request: virtual row = block * regions + region. Outputs are compared with float64, and RTL with
    the golden model, bit for bit.

    A program with a fault issues nothing. The fault, its word and its row are printed, and the exit status is 1.

    \b
    Examples:
      dimmpim compile --preset tiny --q-heads 4 --kv-heads 2 --head-dim 16 --out attention.s
      dimmpim run attention.s --q-heads 4 --kv-heads 2 --tokens 500
      dimmpim run attention.s --q-heads 4 --kv-heads 2 --backend rtl --json out.json
      dimmpim run attention.s --q-heads 4 --kv-heads 2 --backend timing --trace-commands commands.csv
    """
    require_companion("--trace-commands", trace_path and backend == "golden", "--backend rtl or timing")
    require_companion("--threads 2", threads > 1 and backend != "rtl", "--backend rtl")
    preset = preset_of(preset_name)
    synthetic = {"tokens": tokens, "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "seed": seed}
    given = {name: value for name, value in synthetic.items() if value is not None}
    if kv is None:
        for option, number in {"--layer": layer, "--step": step}.items():
            require_companion(option, number is not None, "--kv")
        names = {"q_heads": "num_q_heads", "kv_heads": "num_kv_heads"}
        data = program_data(preset, backend, **{names.get(name, name): value for name, value in given.items()})
    else:
        data = _recorded(kv, layer, step, given)
    words = read_words(program)
    console = console_beside(json_path, trace_path)
    with console.status("golden model") as status:
        result = run_words(
            words,
            data,
            backend=backend,
            preset=preset,
            normalise=not o_partial,
            static_order=static_order,
            threads=threads,
            trace=trace_path is not None,
            progress=status.update,
        )
    write_json(json_path, result.to_dict())
    if trace_path and result.commands is not None:
        write_output(trace_path, trace_text(result.commands))
    if show_micro_ops:
        click.echo(_micro_ops(result), nl=False, err=STDOUT in (json_path, trace_path))
    console.print(f"{program} on {preset.name}, {backend}", highlight=False, soft_wrap=True, markup=False)
    console.print(_table(result))
    if result.golden_mismatches:
        raise ParameterError(f"RTL and golden model differ in {result.golden_mismatches} words")
    if result.fault:
        context.exit(FAILED)


def _recorded(kv: Path, layer: int | None, step: int | None, synthetic: dict[str, int]) -> DecodeStep:
    for name in synthetic:
        raise ParameterError(f"--kv and --{name.replace('_', '-')} exclude each other: give one of them")
    if layer is None or step is None:
        raise ParameterError("--kv requires --layer and --step")
    return load_step(kv, layer, step)
