"""`dimmpim formal`: proofs that hold for every input and every clock."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pimsim.formal import Answer, Proof, prove, smt2_of
from pimspec.errors import require
from pimspec.files import write_atomically

JSON_VERSION = 1


@click.command()
@click.argument("names", nargs=-1, metavar="[PROOF]...")
@click.option("--list", "listing", is_flag=True, help="List the proofs, run none.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the answers here."
)
def formal(names: tuple[str, ...], listing: bool, json_path: Path | None) -> None:
    """Prove properties of the DPA controller with Yosys and z3, all of them or those named.

    The hardware has the smallest sizes that leave nothing out; inputs, programs and contents of tables are any. A proof
    by induction holds for every clock; `base` are the clocks from reset that its first half searches. Situations that
    must be reachable are reached, so that no proof is empty. Exit status 1 unless all are proved.

    \b
    Examples:
      dimmpim formal
      dimmpim formal translation issuer --json formal.json
      dimmpim formal --list
    """
    from pimhw.formal.proofs import PROOFS, proof_rtlil  # noqa: PLC0415 - Amaranth is slow to import

    for name in names:
        require(name in PROOFS, "proof", name, f"one of {', '.join(PROOFS)}")
    console = Console()
    if listing:
        table = Table("proof", "what is proved")
        for name, spec in PROOFS.items():
            table.add_row(name, spec.what)
        console.print(table)
        return
    chosen = [name for name in PROOFS if name in names] or list(PROOFS)
    proofs: dict[str, Proof] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
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
    if json_path:
        rows = [
            {"proof": n, "what": PROOFS[n].what, **asdict(p), "answer": p.answer.value} for n, p in proofs.items()
        ]  # fmt: skip
        write_atomically(json_path, json.dumps({"version": JSON_VERSION, "proofs": rows}, indent=2) + "\n")
    sys.exit(0 if all(p.answer is Answer.PROVED for p in proofs.values()) else 1)
