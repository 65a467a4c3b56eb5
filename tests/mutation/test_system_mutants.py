"""Mutation tests of a rank: faults of the chips' status bits, the host's commands and the append buffer are noticed.

The tests that must notice are tests/system/test_chip_status.py, test_host_commands.py and test_append.py, as they run
every day.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pimspec.params.presets import preset_named

ROOT = Path(__file__).parents[2]
TREES = ("hw", "sim")
STATUS = [field.name for field in preset_named("tiny").rank.chip.status.fields]

RANK, CHIP = "hw/pimhw/pim_rank.py", "hw/pimhw/pim_chip.py"
BUFFER, PORT = "hw/pimhw/buffer_chip.py", "hw/pimhw/host_side/host_port.py"
GLUE, COMMANDS = "sim/pimsim/rank/build.py", "hw/pimhw/host_side/host_commands.py"
OF_RANK, OF_GLUE = "reduce(or_, (chip.status", "(number ? wires.status : 0) | top->status"
FAULTS = [
    ("pim_rank", "and-ed over the chips", RANK, OF_RANK, "reduce(lambda a, b: a & b, (chip.status"),
    ("harness", "and-ed over the chips", GLUE, OF_GLUE, "(number ? wires.status : ~0u) & top->status"),
    ("harness", "only of the last chip", GLUE, OF_GLUE, "top->status"),
    ("pim_rank", "only of the first chip", RANK, "for chip in self._chips))", "for chip in self._chips[:1]))"),
    ("pim_rank", "not joined to the buffer chip", RANK, "buffer.chip_status.eq(status)", "buffer.chip_status.eq(0)"),
    ("pim_rank", "never cleared in the chips", RANK, "clear.eq(buffer.chip_clear)", "clear.eq(0)"),
    ("harness", "never cleared by the harness", GLUE, "wires.clear = buffer->chip_clear", "wires.clear = 0"),
    ("harness", "CLEAR stays in the buffer chip", BUFFER, "self.chip_clear.eq(host.clear)", "self.chip_clear.eq(0)"),
    ("harness", "not joined to the host port", BUFFER, "status.eq(self.chip_status)", "status.eq(0)"),
    ("harness", "bits of the chip never cleared", CHIP, "Mux(self.status_clear, 0, own)", "own"),
    ("harness", "bits of bank PUs never cleared", CHIP, "clear.eq(self.status_clear)", "clear.eq(0)"),
]
for _k, _name in enumerate(STATUS):
    _dropped = f" & ~{1 << _k})"
    FAULTS += [
        ("pim_rank", f"{_name} dropped in the rank", RANK, "status.eq(any_status)", f"status.eq(any_status{_dropped}"),
        ("harness", f"{_name} dropped in the status line", PORT, "chip.eq(self.chip_status)",
         f"chip.eq(self.chip_status{_dropped}"),
        ("harness", f"{_name} dropped in the chip", CHIP, f"self.status.{_name}.eq(", f"self.status.{_name}.eq(0 & "),
    ]  # fmt: skip
HOST_FAULTS = [
    ("auto-precharge leaves the row open", "Command.PREpb, Command.RDA, Command.WRA)", "Command.PREpb)"),
    ("MRS passes while PIM owns the DRAM", "(not_owned & self.owner, ", "(not_owned & 0, "),
    ("ACT of an open bank passes", "(bad_rows, ", "(bad_rows & 0, "),
    ("commands pass in power-down", "(bad_power, ", "(bad_power & 0, "),
    ("a second refusal in a clock is not counted", "reduce(add, refusals)", "reduce(or_, refusals)"),
    ("MRS writes another register", "command.bank == number", "command.bank == 6 - number"),
    ("rows of the window are opened in the chips", "forward.eq(is_data)", "forward.eq(1)"),
]
_APPEND, _GATE = "hw/pimhw/host_side/append_buffer.py", "hw/pimhw/host_side/order_gate.py"
APPEND_FAULTS = [
    ("items do not wait for vectors", _GATE, " & (self.cleared != passed)", ""),
    ("a descriptor does not have lines written", _APPEND, "((late | early | ", "((late | "),
    ("lines that are under way count as written", _APPEND, "with m.If(~self.outstanding):", "with m.If(1):"),
    ("groups outlive a hand-over", _APPEND, "with m.If(self.host.leaving & self.host.clean):", "with m.If(0):"),
    ("groups outlive a posted write", _APPEND, "self._held & ~touched", "self._held"),
    (
        "a posted write passes a group with lines to write",
        _APPEND,
        "(touched & (self._dirty | at_hand))",
        "(touched & 0)",
    ),
    ("a group keeps nothing that was there", _APPEND, "Mux(self.filling, 1 << arrived, 0)", "0"),
    ("K and V groups of a row stay side by side", _APPEND, "m.Elif(waits & others.any())", "m.Elif(0)"),
    ("a READ overtakes vectors", _APPEND, " | (waits & head.read)) & dirty", ") & dirty"),
]
EVERYDAY = 2  # the first of each way to join the chips


@pytest.mark.parametrize(
    ("joined_by", "what", "file", "old", "new"),
    [
        pytest.param(*fault, id=f"{fault[0]}: {fault[1]}", marks=[] if n < EVERYDAY else pytest.mark.slow)
        for n, fault in enumerate(FAULTS)
    ],
)
def test_a_fault_of_the_status_is_noticed(joined_by, what, file, old, new, tmp_path):
    noticed(what, file, old, new, tmp_path, "tests/system/test_chip_status.py", "-k", joined_by)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "old", "new"), HOST_FAULTS, ids=[fault[0] for fault in HOST_FAULTS])
def test_a_fault_of_the_host_commands_is_noticed(what, old, new, tmp_path):
    noticed(what, COMMANDS, old, new, tmp_path, "tests/system/test_host_commands.py")


@pytest.mark.slow
@pytest.mark.parametrize(("what", "file", "old", "new"), APPEND_FAULTS, ids=[fault[0] for fault in APPEND_FAULTS])
def test_a_fault_of_the_append_buffer_is_noticed(what, file, old, new, tmp_path):
    noticed(what, file, old, new, tmp_path, "tests/system/test_append.py")


def noticed(what, file, old, new, folder, *tests):
    """Check that tests fail by an assertion if `old` is replaced in a copy of a source file."""
    for tree in TREES:
        shutil.copytree(ROOT / tree, folder / tree, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times: renew the fault {what!r}"
    path.write_text(text.replace(old, new))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(folder / tree) for tree in TREES)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1, f"the fault survived\n{done.stdout}{done.stderr}"
    assert "1 failed" in done.stdout, done.stdout
    assert re.search("AssertionError|RuleViolationError", done.stdout), done.stdout
