"""Griffe extension that turns the reStructuredText marks of docstrings into Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc|obj):`~?([^`]+)`")
_TABLE = re.compile(r"(?m)(^ *={3,}(?: +={3,})+\n(?:.*\n)*?^ *={3,}(?: +={3,})+$)")


def markdown(text: str) -> str:
    """Docstring with roles as code, and simple tables and literal blocks as Markdown code blocks."""
    text = _TABLE.sub(lambda match: f"```text\n{match[1]}\n```", text)
    text = _ROLE.sub(lambda match: f"`{match[1].lstrip('.').rsplit('.', 1)[-1]}`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"::\n(?=\n[ ]{4})", ":\n", text)


class RstDocstrings(griffe.Extension):
    """Applied to every object with a docstring."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
