"""Every command and snippet of the documentation runs.

Above a block may stand ``<!-- test: slow -->``, ``<!-- test: skip REASON -->`` or ``<!-- test: output -->``. The lines
of a ``text`` block marked as output must be in what the block before it printed. A ``python`` block with a title is a
file.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from dimmpim.cli import cli

ROOT = Path(__file__).parents[2]
LANGUAGES = ("bash", "python", "text")
PAGES = sorted(
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if page.name != "isa.md"  # generated; its blocks are pseudo-code
)

_FENCE = re.compile(r"```(?P<language>\S*)(?P<info>.*)")
_MARK = re.compile(r"<!-- test: (?P<mark>\w+)(?P<rest>.*) -->")
_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block.

    Parameters
    ----------
    line : int
        Line of its first line of text, from 1 on.
    language, text : str
    title : str
        Name of the file that it is; empty if it is none.
    mark : str
        Of the comment above it; empty without one.
    """

    line: int
    language: str
    text: str
    title: str
    mark: str


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text().splitlines()
    mark, index = "", 0
    while index < len(lines):
        if found := _FENCE.fullmatch(lines[index]):
            end = lines.index("```", index + 1)
            title = re.search(r'title="([^"]+)"', found["info"])
            yield Block(
                line=index + 2,
                language=found["language"],
                text="\n".join(lines[index + 1 : end]) + "\n",
                title=title[1] if title else "",
                mark=mark,
            )
            mark, index = "", end
        elif lines[index].strip():
            comment = _MARK.fullmatch(lines[index])
            mark = comment["mark"] if comment else ""
        index += 1


def inline_commands(page: Path) -> list[list[str]]:
    """Words of every `dimmpim` command in the running text and in code blocks of a page."""
    text = page.read_text()
    spans = re.findall(r"`(dimmpim [^`]+)`", text)
    for block in blocks_of(page):
        joined = block.text.replace("\\\n", " ")
        spans += [line for line in joined.splitlines() if line.startswith("dimmpim ")]
    return [span.replace("\n", " ").split("#", maxsplit=1)[0].split()[1:] for span in spans]


class PageRun:
    """The blocks of a page, run one after the other in one folder, with one Python namespace.

    Parameters
    ----------
    page : Path
    folder : Path
        Working folder; `make` only shows what it would do, in the repository.
    """

    def __init__(self, page: Path, folder: Path) -> None:
        self._page, self._folder, self._names = page, folder, dict[str, Any](__name__="__docs__")
        self._printed = ""

    def run(self, block: Block) -> None:
        """Run a block; raises AssertionError with what it printed if it fails."""
        where = f"{self._page.relative_to(ROOT)}:{block.line}"
        if block.language == "text":
            if block.mark == "output":
                missing = [line for line in block.text.splitlines() if line not in self._printed]
                assert not missing, f"{where}: not printed: {missing}; printed: {self._printed}"
        elif block.title:
            (self._folder / block.title).write_text(block.text)
        elif block.language == "python":
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile("\n" * (block.line - 1) + block.text, where, "exec"), self._names)
            self._printed = printed.getvalue()
        else:
            self._printed = self._shell(block.text, where)

    def _shell(self, text: str, where: str) -> str:
        script = f'set -euo pipefail\nmake() {{ command make -s -n -C "{ROOT}" "$@" > /dev/null; }}\n{text}'
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("hw", "sim", "host")),
            "COLUMNS": "120",
        }
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{where}: status {done.returncode}\n{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout


RUNNABLE = [page for page in PAGES if any(b.language in ("bash", "python") for b in blocks_of(page))]
SLOW = [page for page in RUNNABLE if any(b.mark == "slow" for b in blocks_of(page))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = PageRun(page, tmp_path)
    for block in blocks_of(page):
        if block.mark not in ("slow", "skip"):
            run.run(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=name_of)
def test_long_blocks_of_a_page_run_too(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = PageRun(page, tmp_path)
    for block in blocks_of(page):
        if block.mark != "skip":
            run.run(block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_have_a_language_that_is_run_or_text(page: Path) -> None:
    unknown = [(b.line, b.language) for b in blocks_of(page) if b.language not in LANGUAGES]
    assert not unknown


@pytest.mark.parametrize("page", [p for p in PAGES if inline_commands(p)], ids=name_of)
def test_commands_in_the_text_have_names_and_options_that_exist(page: Path) -> None:
    for words in inline_commands(page):
        command: click.Command = cli
        context = click.Context(cli)
        for word in words:
            if isinstance(command, click.Group) and not word.startswith("-"):
                if word.isupper():  # a placeholder
                    break
                found = command.get_command(context, word)
                assert found is not None, f"dimmpim {' '.join(words)}: no command {word!r}"
                command = found
            elif word.startswith("--"):
                known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--version"}
                assert word.split("=")[0] in known, f"dimmpim {' '.join(words)}: no option {word}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_of_pages_outside_the_site_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https:") or (ROOT / target).exists(), target


def test_targets_of_make_in_the_text_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):.*##", makefile, re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, f"{page.name}: {named - targets}"


def test_page_of_the_command_line_lists_every_command() -> None:
    text = (ROOT / "docs/command-line.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    listed = {name.strip(" `") for row in rows for name in row.split(",")}
    assert listed == set(cli.list_commands(click.Context(cli)))


def test_modules_named_in_the_text_exist() -> None:
    packages = ("pimspec", "pimhw", "pimsim", "pimcompiler", "pimhost", "dimmpim")
    for page in PAGES:
        for name in _dotted_names(page.read_text(), packages):
            _resolve(name, page)


def _dotted_names(text: str, packages: tuple[str, ...]) -> set[str]:
    pattern = rf"`((?:{'|'.join(packages)})(?:\.\w+)+)`"
    return set(re.findall(pattern, text))


def _resolve(name: str, page: Path) -> None:
    """A module, or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            assert hasattr(found, attribute), f"{page.name}: {name} does not exist"
            found = getattr(found, attribute)
        return
    pytest.fail(f"{page.name}: {name} does not exist")
