"""The way of a vector of K from the host API to the DRAM pins: the driver, the contract, the simulated rank."""

from __future__ import annotations

import sys

import numpy as np

from dimmpim.ranks import open_device
from pimspec.attention.shape import AttentionShape
from pimspec.params.presets import preset_named

SHAPE = AttentionShape(num_q_heads=2, num_kv_heads=1, head_dim=16)
OURS = ("pimspec", "pimhw", "pimsim", "pimcompiler", "pimhost", "dimmpim")


def packages_called(work):
    """Packages of this project whose functions run during ``work()``."""
    seen = set()

    def profile(frame, event, argument):
        if event == "call":
            seen.add(frame.f_globals.get("__name__", "").partition(".")[0])

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen.intersection(OURS)


def test_k_leaves_neither_driver_nor_contract_nor_simulation():
    """Prefill, a posted token and attention: nothing of the command line or the hardware generator is called."""
    rng = np.random.default_rng(1)
    k, v = rng.standard_normal((2, 1, 20, 16)).astype(np.float16)
    with open_device("rtl", preset_named("tiny").rank.with_dpa(), SHAPE, 1) as device:
        device.open(0)
        assert packages_called(lambda: device.write_kv(0, 0, 0, k, v)) == {"pimhost", "pimspec", "pimsim"}
        q = {0: rng.standard_normal((2, 16)).astype(np.float16)}
        assert packages_called(lambda: device.attend(0, q)) <= {"pimhost", "pimcompiler", "pimspec", "pimsim"}
        assert packages_called(lambda: device.write_kv(0, 0, 20, k[:, :1], v[:, :1])) == {
            "pimhost",
            "pimspec",
            "pimsim",
        }
