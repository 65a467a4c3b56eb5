"""SVG plots for a page of :mod:`dimmpim.reports.html_page`, whose style sheet has the colours."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dimmpim.reports.html_page import COLOURS

__all__ = ["LIGHT", "Drawing"]

LIGHT = {name: light for name, (light, _) in COLOURS.items()}
"""Colours by name, for Matplotlib; a finished drawing leaves them to the page."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.7,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "legend.frameon": False,
    "path.simplify": False,
}
_WIDTH = 10.0


class Drawing:
    """A figure in the style of reports, whatever the user's own style; :attr:`svg` is set on exit.

    Parameters
    ----------
    name : str
        Name that no other drawing of the page has.
    height : float
        Height in inches; the width is 10.
    """

    def __init__(self, name: str, height: float) -> None:
        self._name, self._height, self.svg = name, height, ""

    def __enter__(self) -> Drawing:
        self._context = matplotlib.rc_context()
        self._context.__enter__()
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": self._name})
        self.figure = Figure(figsize=(_WIDTH, self._height), layout="constrained")
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.svg = self._finish()
        finally:
            self._context.__exit__(None, None, None)

    def _finish(self) -> str:
        """SVG without prologue and metadata, with identifiers unique to the plot, and with colours left to the page."""
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(self.figure).print_svg(out, metadata=nothing)
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self._name}-", text)
        text = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", text)
        text = re.sub(r'^<svg([^>]*?) height="[^"]*"', rf'<svg\1 role="img" aria-label="{self._name}"', text)
        for name, colour in LIGHT.items():
            text = text.replace(colour, f"var(--{name})")
        return "\n".join(line.rstrip() for line in text.strip().splitlines())
