"""Printer of the RTLIL of a proof: ``python -m pimhw.formal NAME``."""

from __future__ import annotations

import argparse

from .proofs import PROOFS, proof_rtlil


def main() -> None:
    """Print what the command line names; an unknown name ends with status 2."""
    parser = argparse.ArgumentParser(prog="python -m pimhw.formal", description="Print the RTLIL of a proof.")
    parser.add_argument("name", choices=sorted(PROOFS), metavar="NAME", help=f"Proof: {', '.join(sorted(PROOFS))}.")
    print(proof_rtlil(parser.parse_args().name), end="")


if __name__ == "__main__":
    main()
