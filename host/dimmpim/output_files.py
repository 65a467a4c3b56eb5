"""Files that a command writes."""

from __future__ import annotations

import os
from pathlib import Path

from pimspec.errors import require

__all__ = ["require_distinct"]


def require_distinct(**options: Path | None) -> None:
    """That no file is written twice; devices and pipes may be. `json` is for ``--json``, `a_b` for ``--a-b``."""
    taken: dict[str, str] = {}
    for name, path in options.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        option, where = f"--{name.replace('_', '-')}", os.path.realpath(path)
        if where in taken:
            require(False, f"{taken[where]} and {option}", str(path), "different files")
        taken[where] = option
