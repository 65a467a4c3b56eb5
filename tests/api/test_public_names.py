"""`import dimmpim`: what it costs, what it offers, and that every name says what it takes and gives."""

from __future__ import annotations

import doctest
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dimmpim

ROOTS = [str(Path(__file__).parents[2] / role) for role in ("hw", "sim", "host")]
PACKAGES = ("pimspec", "pimhw", "pimsim", "pimcompiler", "pimhost", "dimmpim")
FUNCTIONS = [name for name in dimmpim.__all__ if inspect.isfunction(getattr(dimmpim, name))]
CLASSES = [name for name in dimmpim.__all__ if inspect.isclass(getattr(dimmpim, name))]
OWN = [name for name in CLASSES if getattr(dimmpim, name).__module__.startswith("dimmpim.api")]

USER_SCRIPT = """
import dimmpim

rank: dimmpim.PimRankParams = dimmpim.preset("tiny").rank_for("SmolLM2-135M")
time: dimmpim.AttentionTime = dimmpim.attention_time("Llama-3.1-8B", tokens=8192, ranks=8)
clocks: int = time.layer_clocks
q, k, v = dimmpim.synthetic_qkv(num_q_heads=4, num_kv_heads=2, head_dim=16, num_tokens=8)
error: float | None = dimmpim.attention(q, k, v, preset="tiny").max_error
rate: float = dimmpim.serve("L3", "GPT-175B", lengths="OpenR1", num_requests=3).figures.output_tokens_per_s
names: list[str] = list(dimmpim.compare(["GPU"], "GPT-175B", lengths="OpenR1", num_requests=3).runs)
fault: dimmpim.Fault = dimmpim.run_program("end", tokens=3).fault
"""


def python(*arguments, cwd=None):
    """Another Python that finds the packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS), "MYPYPATH": os.pathsep.join(ROOTS)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_import_loads_next_to_nothing():
    """A bound on what is imported says more than a time would, on a machine that has other work."""
    script = "import sys; before = set(sys.modules); import dimmpim; print(*sorted(set(sys.modules) - before))"
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert len(loaded) < 60, loaded
    assert not {"numpy", "amaranth", "rich", "click", "pimspec", "pimsim", "pimhost"} & set(loaded)


def test_a_name_loads_only_what_it_needs():
    script = "import sys, dimmpim; dimmpim.preset('tiny'); print(*sys.modules)"
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert not {"amaranth", "rich", "click", "pimsim", "matplotlib"} & set(done.stdout.split())


def test_every_name_is_there_and_no_other():
    assert set(dimmpim.__all__) <= set(dir(dimmpim))
    assert dimmpim.__all__ == sorted(dimmpim.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = dimmpim.no_such_name
    for name in dimmpim.__all__:
        assert name in dimmpim.__doc__ or name.endswith("Error"), f"{name} is missing in the table of the package"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented(name):
    """numpydoc: parameters in their order or as a group, what comes back, errors, and an example."""
    function = getattr(dimmpim, name)
    text = inspect.getdoc(function)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.name in text, f"{parameter.name} is not documented"
    if function.__module__.startswith("dimmpim"):
        assert ">>>" in text
        assert "Returns\n" in text or "Raises\n" in text


@pytest.mark.parametrize("name", OWN)
def test_results_tell_every_field_with_its_type(name):
    cls = getattr(dimmpim, name)
    text = inspect.getdoc(cls)
    for field in cls.__dataclass_fields__:
        assert field in text, f"{name}.{field} is not documented"
    assert cls.__dataclass_params__.frozen
    assert callable(cls.to_dict)
    for attribute, value in vars(cls).items():
        if isinstance(value, property) and not attribute.startswith("_"):
            assert value.__doc__, f"{name}.{attribute} has no docstring"


def test_arrays_are_documented_with_their_shapes():
    for name in ("attention", "synthetic_qkv", "AttentionResult", "ProgramResult"):
        assert "of shape (" in inspect.getdoc(getattr(dimmpim, name)), name


@pytest.mark.parametrize("name", ["dimmpim", *dimmpim.__all__])
def test_examples_of_docstrings_run(name):
    thing = dimmpim if name == "dimmpim" else getattr(dimmpim, name)
    if name != "dimmpim" and not (inspect.isclass(thing) or inspect.isfunction(thing)):
        pytest.fail(f"{name} is neither class nor function")
    finder, runner = doctest.DocTestFinder(recurse=name != "dimmpim"), doctest.DocTestRunner()
    for test in finder.find(thing, name, globs={}):
        assert runner.run(test).failed == 0


def test_errors_are_of_one_kind():
    for name in CLASSES:
        if name.endswith("Error"):
            assert issubclass(getattr(dimmpim, name), dimmpim.PimError)


def test_packages_are_typed():
    for name in PACKAGES:
        (folder,) = [Path(root) / name for root in ROOTS if (Path(root) / name).is_dir()]
        assert (folder / "py.typed").is_file(), name


def test_a_users_script_passes_the_strict_type_checker(tmp_path):
    """All of it but one line, which is wrong to prove that types are known."""
    wrong = len(USER_SCRIPT.splitlines()) + 1
    (tmp_path / "script.py").write_text(USER_SCRIPT + "wrong: str = time.ns\n")
    options = ("--strict", "--follow-imports=silent", "--explicit-package-bases", "--cache-dir", str(tmp_path))
    done = python("-m", "mypy", *options, "script.py", cwd=tmp_path)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert errors[0].startswith(f"script.py:{wrong}: error: Incompatible types in assignment"), errors


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: dimmpim.preset("tyni"), dimmpim.UnknownNameError, "unknown preset 'tyni'; allowed: "),
        (lambda: dimmpim.model("Llama-9"), dimmpim.UnknownNameError, "unknown model 'Llama-9'"),
        (lambda: dimmpim.attention_time("GPT-175B", 0), dimmpim.ParameterError, "tokens must be 1 or more, not 0"),
        (lambda: dimmpim.attention_time("GPT-175B", 9, ranks=3, tp=2), dimmpim.ParameterError, "ranks must be a mult"),
        (lambda: dimmpim.attention_time("GPT-175B", 1 << 30), dimmpim.ParameterError, "rows of K and V must be at"),
        (lambda: dimmpim.run_program("jump"), dimmpim.ParameterError, "program:1: unknown instruction 'jump'"),
        (lambda: dimmpim.run_program([]), dimmpim.ParameterError, "words of the program must be 1..1024, not 0"),
        (lambda: dimmpim.run_program([-1]), dimmpim.ParameterError, "a word must be 64 bits wide, not -1"),
        (lambda: dimmpim.run_program("end", backend="rlt"), dimmpim.UnknownNameError, "did you mean 'rtl'"),
        (lambda: dimmpim.run_program("end", tokens=1 << 20), dimmpim.OutOfMemoryError, "chunks"),
        (lambda: dimmpim.serve("L3", "GPT-175B"), dimmpim.ParameterError, "source must be one of trace and lengths"),
        (lambda: dimmpim.serve("L4", "GPT-175B", lengths="OpenR1"), dimmpim.UnknownNameError, "unknown system 'L4'"),
        (lambda: dimmpim.serve("L3", "GPT-175B", lengths="OpenR1", admission="no"), dimmpim.ParameterError, "admiss"),
        (lambda: dimmpim.compare([], "GPT-175B", lengths="OpenR1"), dimmpim.ParameterError, "systems must be a list"),
        (lambda: dimmpim.compare("GPU", "GPT-175B", lengths="OpenR1"), dimmpim.ParameterError, "systems must be a"),
        (lambda: dimmpim.workload(lengths="OpenR1", seed=-1), dimmpim.ParameterError, "seed must be 0 or more"),
    ],
)
def test_wrong_input_says_what_was_given_and_what_is_allowed(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


def test_presets_of_the_command_line_are_those_of_the_api():
    done = python("-c", "from dimmpim.cli import main; main(['presets', '--json'])")
    documents = json.loads(done.stdout)
    assert [document["name"] for document in documents] == list(dimmpim.presets())
    for document in documents:
        assert document.pop("units")
        assert document == json.loads(json.dumps(dimmpim.preset(document["name"]).to_dict()))
