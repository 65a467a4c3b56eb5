"""Kinds of option values, and the class of all commands: what can be refused is refused before the work begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from dimmpim.outputs import STDOUT, require_folder_room, require_outputs
from pimspec.errors import ParameterError

__all__ = [
    "FiniteRange",
    "InputFile",
    "InputFolder",
    "Name",
    "OutputFile",
    "OutputFolder",
    "PimCommand",
    "PimGroup",
    "Text",
    "command",
    "group",
    "require_alone",
    "require_companion",
]


class FiniteRange(click.FloatRange):
    """A number within bounds, which NaN and infinity are not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return float(number)


class Text(click.ParamType):
    """UTF-8 text, which may be empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = click.STRING.convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!r} is not UTF-8.", param, ctx)
        return str(text)


class Name(Text):
    """UTF-8 text that is not empty: the kind of every option that has no other."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "":
            self.fail("It is empty.", param, ctx)
        return super().convert(value, param, ctx)


class _PathType(click.ParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path):
            return value
        if not value or "\0" in value:
            self.fail(f"{value!r} is not the name of a {self.name}.", param, ctx)
        return Path(value)


class InputFile(_PathType):
    """A file that the command reads. Its reader says what is wrong with it."""

    name = "file"


class OutputFile(_PathType):
    """A file that the command writes, ``-`` for standard output.

    Parameters
    ----------
    dash : bool
        Whether it can be standard output.
    """

    name = "file"

    def __init__(self, *, dash: bool = True) -> None:
        self.dash = dash

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if path == STDOUT and not self.dash:
            self.fail("Standard output cannot take it: give the name of a file.", param, ctx)
        return path


class InputFolder(_PathType):
    """A folder that the command reads."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if not path.is_dir():
            self.fail(f"{str(path)!r} is not an existing folder.", param, ctx)
        return path


class OutputFolder(_PathType):
    """A folder that the command writes into, made if it does not exist."""

    name = "folder"


class PimCommand(click.Command):
    """A command whose files are looked at before it begins, and whose options are never empty unless they say so."""

    def __init__(self, *args: Any, **kind: Any) -> None:
        super().__init__(*args, **kind)
        for param in self.params:
            if param.type is click.STRING:
                param.type = Name()

    def invoke(self, ctx: click.Context) -> Any:
        require_outputs(self._paths(ctx, OutputFile), self._paths(ctx, InputFile))
        for option, path in self._paths(ctx, OutputFolder):
            require_folder_room(option, path)
        return super().invoke(ctx)

    def _paths(self, ctx: click.Context, kind: type[_PathType]) -> Iterator[tuple[str, Path]]:
        for param in self.params:
            given = ctx.params.get(param.name or "")
            if isinstance(param.type, kind) and given is not None:
                for path in given if isinstance(given, tuple) else (given,):
                    yield param.opts[0] if isinstance(param, click.Option) else param.human_readable_name, path


class PimGroup(click.Group):
    """A group of such commands."""

    command_class = PimCommand


command: Callable[..., Callable[[Callable[..., Any]], click.Command]] = partial(click.command, cls=PimCommand)
group: Callable[..., Callable[[Callable[..., Any]], click.Group]] = partial(click.group, cls=PimGroup)


def require_companion(option: str, given: object, companion: str) -> None:
    """Refuse an option that says nothing without its `companion`; call it where that is missing."""
    if given:
        raise ParameterError(f"{option} requires {companion}")


def require_alone(**options: object) -> None:
    """Refuse options that exclude one another; ``a_b`` stands for ``--a-b``."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if len(given) > 1:
        raise ParameterError(f"{' and '.join(given)} exclude each other: give one of them")
