"""HTML pages that need no network: their style, text, tables and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["COLOURS", "data_table", "html_page", "html_text", "section", "text_table"]

COLOURS = {
    "paper": ("#fefefe", "#16181c"),
    "ink": ("#1b1f24", "#e4e7eb"),
    "muted": ("#5a6470", "#a3acb8"),
    "grid": ("#d9dde2", "#363b43"),
    "blue": ("#0b66b0", "#5aaeef"),
    "orange": ("#d97a00", "#f2a33c"),
    "green": ("#10845f", "#35c495"),
    "pink": ("#b8508f", "#e38bc0"),
    "sky": ("#58aede", "#9ad2f5"),
    "red": ("#c0392b", "#f0786b"),
    "grey": ("#9aa1aa", "#737b86"),
}
"""Colours by name: on a light page, which Matplotlib uses, and on a dark one."""

_STYLE = """
:root { color-scheme: light dark; %(light)s }
@media (prefers-color-scheme: dark) { :root { %(dark)s } }
body { margin: 2rem auto; max-width: 1000px; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
svg { display: block; width: 100%%; height: auto; }
svg text { font-family: system-ui, "DejaVu Sans", sans-serif !important; }
p { margin: .4rem 0; } .note, caption, figcaption { color: var(--muted); font-size: .9rem; }
figure { margin: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { font-weight: 600; } .data td, .data th { text-align: right; }
.wide { overflow-x: auto; } .text { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; margin: .6rem 0; }
@media print { details { display: none; } }
"""


def html_page(title: str, parts: Iterable[str]) -> str:
    """The whole page, which is well-formed XML too; `parts` are HTML."""
    shown = html_text(title)
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{shown}</title>\n<style>{_style_sheet()}</style>\n</head>\n<body>\n<h1>{shown}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def html_text(text: str) -> str:
    """Escaped text; a character that XML cannot hold is shown by its number."""
    return escape(
        re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", lambda m: f"\\x{ord(m[0]):02x}", text)
    )


def _style_sheet() -> str:
    light, dark = (" ".join(f"--{name}: {pair[n]};" for name, pair in COLOURS.items()) for n in (0, 1))
    return _STYLE % {"light": light, "dark": dark}


def text_table(rows: Iterable[tuple[str, str]]) -> str:
    """Table with a name and a text in each row."""
    lines = (f'<tr><th scope="row">{html_text(a)}</th><td class="text">{html_text(b)}</td></tr>' for a, b in rows)
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def data_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Table with columns of figures under their names."""
    first = "<tr>" + "".join(f'<th scope="col">{html_text(cell)}</th>' for cell in head) + "</tr>"
    lines = ("<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return '<div class="wide"><table class="data">\n' + "\n".join([first, *lines]) + "\n</table></div>"


def section(title: str, svg: str, *notes: str) -> list[str]:
    """A drawing under a heading, with notes."""
    caption = "".join(f"<p>{html_text(note)}</p>" for note in notes if note)
    return [f"<h2>{html_text(title)}</h2>", f"<figure>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>"]
