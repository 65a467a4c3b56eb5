"""Print the RTLIL of a proof: ``python -m pimhw.formal NAME``."""

from __future__ import annotations

import sys

from .proofs import proof_rtlil

print(proof_rtlil(sys.argv[1]), end="")
