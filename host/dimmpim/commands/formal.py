"""`dimmpim formal`: proofs that hold for every input and every clock."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dimmpim.endings import FAILED
from dimmpim.outputs import console_beside, progress_bar, write_json
from pimsim.formal import Answer, Proof, prove, smt2_of
from pimspec.errors import UnknownNameError

from .options import json_option
from .parameters import command, require_alone

JSON_VERSION = 1


@command()
@click.argument("names", nargs=-1, metavar="[PROOF]...")
@click.option("--list", "listing", is_flag=True, help="List the proofs without running any.")
@json_option
@click.pass_context
def formal(context: click.Context, names: tuple[str, ...], listing: bool, json_path: Path | None) -> None:
    """Prove properties of DPA controller and refresh schedule with Yosys and z3: all proofs, or those named.

    The hardware has the smallest sizes that leave nothing out; inputs, programs and table contents are arbitrary. A
    proof by induction holds for every clock; `base` is the number of clocks from reset that its base case searches.
    Cover checks show that no proof is vacuous. The exit status is 1 unless all are proved.

    \b
    Examples:
      dimmpim formal
      dimmpim formal translation issuer --json formal.json
      dimmpim formal --list
    """
    from pimhw.formal.proofs import PROOFS, proof_rtlil  # noqa: PLC0415 - Amaranth is slow to import

    for name in names:
        if name not in PROOFS:
            raise UnknownNameError("proof", name, PROOFS)
    require_alone(list=listing, json=json_path)
    console = console_beside(json_path)
    if listing:
        table = Table("proof", "what is proved")
        for name, spec in PROOFS.items():
            table.add_row(name, spec.what)
        console.print(table)
        return
    chosen = [name for name in PROOFS if name in names] or list(PROOFS)
    proofs: dict[str, Proof] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with progress_bar(Console(stderr=True), *columns) as progress:
        for n, name in enumerate(chosen, 1):
            task = progress.add_task(f"{name} ({n} of {len(chosen)})", total=None)
            spec = PROOFS[name]
            proofs[name] = prove(smt2_of(proof_rtlil(name)), depth=spec.depth, induction=spec.induction)
            progress.remove_task(task)

    table = Table("proof", "what is proved", "method", "base", "seconds", "answer")
    for name, proof in proofs.items():
        style = "green" if proof.answer is Answer.PROVED else "red"
        table.add_row(
            name, PROOFS[name].what, proof.method, str(proof.base), f"{proof.seconds:.1f}",
            f"[{style}]{proof.answer.value}[/]",
        )  # fmt: skip
    console.print(table)
    for name, proof in proofs.items():
        if proof.failing:
            when = "" if proof.clock is None else f" in clock {proof.clock} after reset"
            console.print(f"{name}: {proof.answer.value}{when}: {', '.join(proof.failing)}", soft_wrap=True)
    rows = [{"proof": n, "what": PROOFS[n].what, **asdict(p), "answer": p.answer.value} for n, p in proofs.items()]
    write_json(json_path, {"version": JSON_VERSION, "proofs": rows})
    if not all(p.answer is Answer.PROVED for p in proofs.values()):
        context.exit(FAILED)
