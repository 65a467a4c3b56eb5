"""Pictures of the documentation, drawn from the parameters of a preset and from runs of the timing model.

``python -m dimmpim.reports.diagrams --out docs/images`` writes them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from dimmpim.reports.run_pictures import pipeline_picture, utilization_picture
from dimmpim.reports.svg_canvas import Canvas
from pimspec.dram import limits
from pimspec.dram.organization import dram_preset
from pimspec.formats import FP32
from pimspec.params.pim_rank import PimRankParams
from pimspec.params.presets import Preset, preset_named

__all__ = ["BUFFER_CHIP_UNITS", "PICTURES", "draw_all"]

_WIDTH = 620.0
BUFFER_CHIP_UNITS: Mapping[str, tuple[str, ...]] = {
    "host side": ("host_port", "accesses", "chip_port", "descriptor_gate", "config_gate"),
    "DPA controller": ("dpa",),
    "sequencer": (
        "descriptors", "descriptor_expander", "micro_ops", "issuer", "loader", "k_stage", "v_stage", "feeder", "tasks",
        "reader", "arbiter", "prob_lines", "sum_sets", "work_tracker", "shadow",
    ),
    "command engine": ("engine",),
    "rank PU": ("softmax", "reducer", "segment_merger"),
}  # fmt: skip
"""Submodules of the buffer chip by the box that shows them; those of the banks without their numbers."""


def _bandwidths(p: PimRankParams) -> tuple[float, float]:
    """Bytes per second over the bus of a rank, and inside it."""
    part, rate = dram_preset(p.dram), p.timing.data_rate_mt_per_s * 10**6
    return p.num_chips * rate, limits.bank_bandwidth_bytes_per_s(part) * p.num_chips * p.num_banks


def _gb(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.1f} GB/s"


def _size(count: float) -> str:
    """Bytes in the largest binary unit that leaves a whole number."""
    for unit in ("B", "KiB", "MiB"):
        if count % 1024 or count < 1024:
            return f"{count:g} {unit}"
        count /= 1024
    return f"{count:g} GiB"


def system_picture(preset: Preset) -> Canvas:
    """Host, memory channel and a rank with PIM: who computes what."""
    p = preset.rank
    outside, inside = _bandwidths(p)
    c = Canvas(_WIDTH, 424, f"Block diagram of a host and a rank of {preset.name} with PIM")
    c.box(20, 20, 270, 82, ("GPU", "projections, FFN, prefill", "(model: pimhost.gpu)"), fill="plain")
    c.box(330, 20, 270, 82, ("Host CPU", "memory controller and", "driver: pimhost.driver"), fill="plain")
    c.arrow(290, 61, 330, 61, both=True)
    c.arrow(465, 102, 465, 142, both=True)
    c.text(452, 127, f"plain {p.organization.standard.value.upper()}, {_gb(outside)}", anchor="end", colour="muted")
    c.box(20, 142, 580, 262, fill="plain")
    c.text(34, 166, "Rank with PIM", bold=True)
    c.box(34, 178, 552, 88, fill="control")
    c.text(310, 198, "Buffer chip", anchor="middle", bold=True)
    third = 552 / 3
    for i, lines in enumerate(
        (("host port", "re-layout"), ("DPA controller,", "sequencer"), ("softmax, merge,", "command engine"))
    ):
        for j, line in enumerate(lines):
            c.text(34 + third * (i + 0.5), 224 + 20 * j, line, anchor="middle")
    pitch = 552 / p.num_chips
    for chip in range(p.num_chips):
        x = 34 + chip * pitch
        c.arrow(x + pitch / 2, 266, x + pitch / 2, 292, both=True)
        c.box(x + 3, 292, pitch - 6, 70, fill="memory")
        cell = min(10.0, (pitch - 16) / 4)
        for bank in range(p.num_banks):
            row, column = divmod(bank, p.organization.banks_per_group)
            left = x + pitch / 2 - p.organization.banks_per_group * cell / 2 + column * cell
            c.bar(left + 1, 300 + row * 14, cell - 2, 7, fill="blue")
            c.bar(left + 1, 307 + row * 14, cell - 2, 3, fill="orange")
    c.bar(36, 378, 10, 7, fill="blue")
    c.bar(36, 385, 10, 3, fill="orange")
    text = f"{p.num_chips} DRAM chips x {p.num_banks} banks, a PU at each bank: {_gb(inside)}"
    c.text(54, 389, text)
    return c


def rank_picture(preset: Preset) -> Canvas:
    """Where K and V of a token lie: a token in one chip, its V over the banks of that chip."""
    p = preset.rank
    n = p.num_chips
    c = Canvas(_WIDTH, 400, f"Token-per-chip mapping of {preset.name}")
    c.text(20, 30, "Tokens are dealt over chips", bold=True)
    pitch = 580 / n
    for chip in range(n):
        x = 20 + chip * pitch
        c.box(
            x + 2, 42, pitch - 4, 92, (f"chip {chip}", f"{chip}", f"{chip + n}", f"{chip + 2 * n}, ..."), fill="memory"
        )
    c.text(
        20,
        158,
        f"A line of the bus: {p.line_bytes} bytes, {p.access_bytes} of each chip. A token line: {n} tokens.",
        colour="muted",
    )
    c.text(20, 196, "K in a chip: a token lies in one bank", bold=True)
    banks = min(p.num_banks, 4)
    for bank in range(banks):
        x = 20 + bank * 145
        first, last = bank * p.tokens_per_turn, (bank + 1) * p.tokens_per_turn - 1
        number = p.num_banks - 1 if bank == banks - 1 else bank
        turn = number * p.tokens_per_turn
        first, last = turn, turn + p.tokens_per_turn - 1
        c.box(x + 2, 206, 141, 56, (f"bank {number}", f"token lines {first}..{last}"), fill="memory")
    c.text(20, 298, "V in a chip: every bank has some dims of every token", bold=True)
    for bank in range(banks):
        x = 20 + bank * 145
        number = p.num_banks - 1 if bank == banks - 1 else bank
        first = number * p.dims_per_bank
        c.box(x + 2, 308, 141, 56, (f"bank {number}", f"dims {first}..{first + p.dims_per_bank - 1}"), fill="memory")
    step = f"A row step: one row in every bank of every chip, K or V of {p.row_lines * n} tokens."
    c.text(20, 388, step, colour="muted")
    return c


def chip_picture(preset: Preset) -> Canvas:
    """A DRAM chip with a bank PU at each bank, and one bank PU from near."""
    p = preset.rank
    pu, org = p.bank_pu, p.organization
    c = Canvas(_WIDTH, 354 + 44 * org.banks_per_group, f"A DRAM chip of {preset.name} with bank PUs")
    c.text(20, 28, f"Chip: {org.bank_groups} bank_groups x {org.banks_per_group} banks", bold=True)
    pitch = 580 / org.bank_groups
    for group in range(org.bank_groups):
        x = 20 + group * pitch
        height = 34 + 44 * org.banks_per_group
        c.box(x + 3, 40, pitch - 6, height, fill="plain")
        c.text(x + pitch / 2, 60, f"bank_group {group}", anchor="middle", colour="muted")
        for bank in range(org.banks_per_group):
            y = 68 + 44 * bank
            c.box(x + 10, y, (pitch - 20) * 0.62, 38, (f"bank {group * org.banks_per_group + bank}",), fill="memory")
            c.box(x + 10 + (pitch - 20) * 0.62, y, (pitch - 20) * 0.38, 38, ("PU",), fill="compute")
    top = 40 + 34 + 44 * org.banks_per_group + 16
    c.line([(20, top), (600, top)], colour="grid")
    c.text(20, top + 26, "One bank and its PU", bold=True)
    y = top + 40
    clocks = pu.interval
    c.box(
        20,
        y,
        170,
        92,
        ("bank", f"row of {_size(org.page_bytes)}", f"{p.access_bytes} B every", f"{clocks} clocks"),
        fill="memory",
    )
    products = p.lanes * p.queries_at_once
    name = preset.format.name.upper()
    c.box(230, y, 180, 92, (f"{products} multipliers", f"{name} x {name}", "exact in FP32"), fill="compute")
    c.box(450, y, 150, 92, ("adders, FP32", "tree for K,", "lanes for V"), fill="compute")
    c.arrow(190, y + 46, 230, y + 46)
    c.arrow(410, y + 46, 450, y + 46)
    below = y + 128
    operand = pu.operand_words * p.lanes * preset.format.width // 8 * p.queries_at_once
    sums = 2 * p.dims_per_bank * p.queries_at_once * FP32.width // 8
    c.box(230, below, 180, 74, ("operand buffer", f"{_size(operand)}: queries", "and probabilities"), fill="plain")
    c.box(450, below, 150, 74, ("results", f"{pu.result_words} scores", f"{_size(sums)} of sums"), fill="plain")
    c.arrow(320, below, 320, y + 92)
    c.arrow(525, y + 92, 525, below, both=True)
    c.text(20, below + 24, "A PIM_MAC carries a", colour="muted")
    c.text(20, below + 44, f"count of up to {pu.max_columns}", colour="muted")
    c.text(20, below + 64, "column accesses.", colour="muted")
    return c


def buffer_chip_picture(preset: Preset) -> Canvas:
    """The units of the buffer chip, with the sizes of their memories."""
    p = preset.rank.with_dpa()
    dpa = p.require_dpa()
    reserved = p.window.rows
    rows = "the last row" if reserved == 1 else f"the last {reserved} rows"
    c = Canvas(_WIDTH, 560, f"Units of the buffer chip of {preset.name}")
    c.text(310, 26, f"host bus: commands and {p.line_bytes}-byte lines", anchor="middle", colour="muted")
    c.arrow(310, 32, 310, 54, both=True)
    host = (
        f"window: {rows} of every bank", f"queries and outputs of {p.queries} heads",
        f"byte re-layout; queue of {p.host_queue} accesses",
    )  # fmt: skip
    c.box(20, 54, 580, 84, ("host side", *host), fill="control")
    controller = (
        f"{dpa.num_slots} requests", f"{dpa.program_words} program words",
        f"{dpa.num_chunks} chunks of {_size(dpa.chunk_bytes)}", f"{dpa.leaves} leaves x {dpa.leaf_entries}",
    )  # fmt: skip
    c.box(20, 172, 200, 112, ("DPA controller", *controller), fill="control")
    sequencer = (
        "issuer: queues of loads, K, V, sums", f"row feeder, {p.num_banks} bank shadows",
        "bus arbiter, result reader", f"{p.line_queue} probability lines",
    )  # fmt: skip
    c.box(260, 172, 340, 112, ("sequencer", *sequencer), fill="control")
    c.arrow(120, 138, 120, 172)
    c.arrow(430, 138, 430, 172)
    c.arrow(220, 228, 260, 228)
    s = p.softmax
    scores = s.num_rows * s.queries_per_line * s.lanes * FP32.width // 8
    c.box(20, 330, 270, 112, (
        "rank PU", f"softmax: {_size(scores)} of scores", f"exp2, {s.queries_per_line * s.lanes} in a clock",
        f"reducer over {p.num_chips} chips", "segment merger, reciprocal",
    ), fill="compute")  # fmt: skip
    e = p.engine
    c.box(330, 330, 270, 112, (
        "command engine", f"{p.num_banks} bank machines", "every JEDEC rule, refresh",
        f"a clock is {e.ck_per_clock} CK", f"= {e.ck_per_clock * p.timing.tCK_ps / 1000:g} ns",
    ), fill="control")  # fmt: skip
    c.arrow(470, 284, 470, 330)
    c.arrow(270, 330, 270, 284, both=True)
    c.arrow(155, 442, 155, 492, both=True)
    c.arrow(465, 442, 465, 492)
    c.text(165, 472, "scores, probabilities, sums", colour="muted")
    c.text(475, 472, "ACT, PIM_MAC, ...", colour="muted")
    c.box(20, 492, 580, 48, (f"{p.num_chips} DRAM chips with bank PUs",), fill="memory")
    return c


PICTURES: Mapping[str, Callable[[Preset], Canvas]] = {
    "system": system_picture,
    "rank": rank_picture,
    "chip": chip_picture,
    "buffer-chip": buffer_chip_picture,
    "pipeline": pipeline_picture,
    "utilization": utilization_picture,
}
"""Pictures by the name of their file."""


def draw_all(preset: Preset, folder: Path) -> list[Path]:
    """Draw all pictures of a preset.

    Parameters
    ----------
    preset : Preset
    folder : Path
        Where the SVG files go; it is made if it does not exist.

    Returns
    -------
    list of Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in PICTURES.items():
        paths.append(folder / f"{name}.svg")
        draw(preset).write(paths[-1])
    return paths


@click.command()
@click.option("--preset", "name", default="ddr4-3200-x8-8gb", show_default=True, help="See `dimmpim presets`.")
@click.option("--out", "folder", type=click.Path(file_okay=False, path_type=Path), required=True, help="Output folder.")
def main(name: str, folder: Path) -> None:
    """Draw the pictures of the documentation from the parameters of a preset."""
    for path in draw_all(preset_named(name), folder):
        click.echo(path)


if __name__ == "__main__":
    main()
