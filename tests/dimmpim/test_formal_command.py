"""`dimmpim formal` as a user meets it."""

from __future__ import annotations

import json
from importlib import import_module

import pytest
from click.testing import CliRunner

from dimmpim.cli import cli, main
from pimhw.formal.proofs import PROOFS
from pimsim.formal import Answer, Proof

PROVED = Proof(answer=Answer.PROVED, method="induction 1", base=1, seconds=0.5)
REFUTED = Proof(
    answer=Answer.REFUTED, method="induction 1", base=1, seconds=0.5, failing=("translation.py:90",), clock=3
)  # fmt: skip


def answers(monkeypatch, **by_name):
    """Replace prover and Yosys: what each proof answers."""
    monkeypatch.setattr("pimhw.formal.proofs.proof_rtlil", lambda name: name)
    module = import_module("dimmpim.commands.formal")  # the name in the package is the command
    monkeypatch.setattr(module, "smt2_of", lambda rtlil: rtlil)
    monkeypatch.setattr(module, "prove", lambda smt2, **_: by_name.get(smt2, PROVED))


def test_one_proof_in_earnest(tmp_path):
    done = CliRunner().invoke(cli, ["formal", "translation", "--json", str(tmp_path / "formal.json")])
    assert done.exit_code == 0, done.output
    assert "proved" in done.output
    (proof,) = json.loads((tmp_path / "formal.json").read_text())["proofs"]
    assert (proof["proof"], proof["answer"], proof["method"]) == ("translation", "proved", "induction 1")


def test_all_proofs(monkeypatch, tmp_path):
    answers(monkeypatch)
    done = CliRunner().invoke(cli, ["formal", "--json", str(tmp_path / "formal.json")])
    assert done.exit_code == 0, done.output
    assert [p["proof"] for p in json.loads((tmp_path / "formal.json").read_text())["proofs"]] == list(PROOFS)


def test_a_proof_that_is_lost(monkeypatch):
    answers(monkeypatch, translation=REFUTED)
    done = CliRunner().invoke(cli, ["formal", "issuer", "translation"])
    assert done.exit_code == 1
    assert "translation: refuted in clock 3 after reset: translation.py:90" in done.output


def test_list():
    done = CliRunner().invoke(cli, ["formal", "--list"])
    assert done.exit_code == 0
    assert all(name in done.output for name in PROOFS)


def test_a_proof_that_does_not_exist(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["formal", "nope"])
    assert stop.value.code == 2
    allowed = "access_order, dispatcher, issuer, loop_stack, micro_op_arbiter, refresh, translation"
    assert f"unknown proof 'nope'; allowed: {allowed}" in capsys.readouterr().err
