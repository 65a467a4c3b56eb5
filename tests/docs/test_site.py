"""The documentation site is built without a warning and needs no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LOADED = re.compile(r"<(?:script|img|iframe)[^>]+src=\"?(https?:[^\s\">]+)|<link[^>]+href=\"?(https?:[^\s\">]+)")
_WEB_ADDRESSES = ("canonical", "alternate")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_site_has_a_page_for_every_document(site: Path) -> None:
    documents = {p.relative_to(ROOT / "docs").with_suffix(".html") for p in (ROOT / "docs").rglob("*.md")}
    assert documents <= {p.relative_to(site) for p in site.rglob("*.html")}


def test_pages_load_nothing_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not _LOADED.search(page.read_text()), page.name


def test_api_reference_shows_docstrings_without_marks_of_restructuredtext(site: Path) -> None:
    pages = list((site / "api").glob("*.html"))
    assert len(pages) > 5
    for page in pages:
        assert not re.search(r":(?:class|func|meth|mod|attr|data|exc):", page.read_text()), page.name
