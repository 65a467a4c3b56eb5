"""Canvas for technical drawings in SVG: boxes, arrows, text and bars, for light and dark pages.

Matplotlib writes other bytes with each version. These files are compared with checked-in
ones, so they are written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from pimspec.files import write_atomically

__all__ = ["Canvas"]

_COLOURS = {  # name: (light, dark)
    "page": ("#ffffff", "#1b1f27"),
    "ink": ("#1a202c", "#e8eaf0"),
    "muted": ("#5a6475", "#a3adbd"),
    "line": ("#8894a7", "#707c90"),
    "plain": ("#f2f4f8", "#2a303b"),
    "memory": ("#dce9f9", "#1f3a5a"),
    "compute": ("#fde5cc", "#5c3a14"),
    "control": ("#dff2e1", "#1f4a2a"),
    "blue": ("#2b6cb0", "#6cabea"),
    "orange": ("#c05621", "#f0a060"),
    "grid": ("#e2e6ed", "#363d4a"),
}
_FONT = 15


def _style() -> str:
    rules = [f"text{{font:{_FONT}px system-ui,'DejaVu Sans',sans-serif}}", ".bold{font-weight:600}"]
    for index, media in enumerate(("{}", "@media (prefers-color-scheme:dark){{{}}}")):
        coloured = [f".f-{name}{{fill:{pair[index]}}}" for name, pair in _COLOURS.items()]
        coloured += [f".s-{name}{{stroke:{pair[index]}}}" for name, pair in _COLOURS.items()]
        rules.append(media.format("".join(coloured)))
    return "".join(rules)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{round(x, 2):g},{round(y, 2):g}" for x, y in points)


class Canvas:
    """Drawing with a background of its own, legible on any page.

    Parameters
    ----------
    width, height : float
        In units of a pixel at full size. Text is 15 high: keep `width` near 600, so that a telephone shows it.
    title : str
        Description for readers that do not see the drawing.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        size = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
        self._root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size})
        ElementTree.SubElement(self._root, "title").text = title
        ElementTree.SubElement(self._root, "style").text = _style()
        self._add("rect", width=width, height=height, rx=8, cls="f-page")

    def _add(self, tag: str, *, cls: str, **attributes: float | str) -> ElementTree.Element:
        given = {
            name.replace("_", "-"): value if isinstance(value, str) else f"{round(value, 2):g}"
            for name, value in attributes.items()
        }
        return ElementTree.SubElement(self._root, tag, {"class": cls, **given})

    def text(
        self, x: float, y: float, content: str, *, colour: str = "ink", anchor: str = "start", bold: bool = False
    ) -> None:
        """One line of text; `y` is its baseline, `anchor` one of start, middle and end."""
        cls = f"f-{colour}" + (" bold" if bold else "")
        self._add("text", x=x, y=y, text_anchor=anchor, cls=cls).text = content

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        lines: Sequence[str] = (),
        *,
        fill: str = "plain",
        top: bool = False,
    ) -> None:
        """Box with lines of text in its middle, or with `top` below its upper edge; the first line is bold."""
        self._add("rect", x=x, y=y, width=w, height=h, rx=5, cls=f"f-{fill} s-line")
        pitch = _FONT + 4
        first = y + h / 2 - (len(lines) - 1) * pitch / 2 + _FONT * 0.36
        for number, line in enumerate(lines):
            self.text(x + w / 2, first + number * pitch, line, anchor="middle", bold=number == 0)

    def bar(self, x: float, y: float, w: float, h: float, *, fill: str) -> None:
        """Filled rectangle without an outline."""
        self._add("rect", x=x, y=y, width=w, height=h, cls=f"f-{fill}")

    def line(self, points: Iterable[tuple[float, float]], *, colour: str = "line", dashed: bool = False) -> None:
        """Line through some points."""
        extra = {"stroke_dasharray": "5 4"} if dashed else {}
        width = 1.0 if colour in ("grid", "line") else 2.5
        self._add("polyline", points=_path(points), fill="none", stroke_width=width, cls=f"s-{colour}", **extra)

    def arrow(self, x1: float, y1: float, x2: float, y2: float, *, both: bool = False) -> None:
        """Horizontal or vertical arrow from one point to another, or with `both` in both directions."""
        self.line([(x1, y1), (x2, y2)], colour="muted")
        for (ax, ay), (bx, by) in [((x1, y1), (x2, y2))] + [((x2, y2), (x1, y1))] * both:
            length = max(abs(bx - ax), abs(by - ay))
            dx, dy = (bx - ax) / length, (by - ay) / length
            corners = [
                (bx, by),
                (bx - 9 * dx - 5 * dy, by - 9 * dy - 5 * dx),
                (bx - 9 * dx + 5 * dy, by - 9 * dy + 5 * dx),
            ]
            self._add("polygon", points=" ".join(f"{round(x, 2):g},{round(y, 2):g}" for x, y in corners), cls="f-muted")

    @property
    def svg(self) -> str:
        """The document; the same drawing gives the same bytes."""
        ElementTree.indent(self._root, space="")
        return ElementTree.tostring(self._root, encoding="unicode") + "\n"

    def write(self, path: Path) -> None:
        """Write the document into a file, under its name when whole."""
        write_atomically(path, self.svg)
