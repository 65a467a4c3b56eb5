"""L3/CHIME's published evaluation, and one set-up for all systems of a model that repeats it.

Throughput ratios are decoded from the paper's figures; bandwidths are its Table I. Nothing here is fitted to them:
:data:`FREE_CONSTANTS` lists every chosen number of the comparison, with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from pimspec.dram import limits

from ..gpu import power_fit
from ..gpu.operators import PREFILL_BLOCK
from ..models import shape_named
from ..workloads.lengths import synthetic_workload
from ..workloads.workload import Workload
from . import l3, memory_energy, predictor
from .base import VLLM_BLOCK_TOKENS, VLLM_CHUNK_TOKENS
from .hbm_pim import ATTACC_BANDWIDTH_RATIO, HbmPimExtended
from .node import DGX_A100, Node

__all__ = [
    "COMPARED",
    "FREE_CONSTANTS",
    "PARALLELISM",
    "REFERENCE",
    "SYSTEM_ORDER",
    "THROUGHPUT",
    "BandwidthRow",
    "FreeConstant",
    "bandwidth_bound",
    "chime_node",
    "chime_workload",
    "table_one",
]

REQUESTS = 1000
SEED = 1
OOM_SHARE = 0.5

SYSTEM_ORDER = ("GPU", "HBM-PIM", "HBM-PIM-EXT", "CPU", "R-PIM", "L3")
COMPARED = (*zip(SYSTEM_ORDER, SYSTEM_ORDER, strict=True), ("L3-spread", "L3"))
"""Pairs of a system here and the system of the paper to which it is compared."""
REFERENCE: Mapping[str, str] = MappingProxyType({"GPT-175B": "GPU", "QWEN-72B": "GPU", "OPT-66B": "L3"})
"""System whose throughput is 1 in the figure."""
PARALLELISM: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"GPT-175B": (8, 1), "QWEN-72B": (4, 2), "OPT-66B": (2, 4)}
)
"""(tp_size, dp_size), as published."""

THROUGHPUT: Mapping[str, Mapping[str, tuple[float | None, ...]]] = MappingProxyType(
    {
        "OpenR1": {
            "GPT-175B": (1.0, 1.155, 1.193, 0.102, 0.390, 2.950),
            "QWEN-72B": (1.0, 1.706, 1.082, 0.272, 1.127, 2.068),
            "OPT-66B": (None, None, 0.444, 0.037, 0.142, 1.0),
        },
        "OpenThoughts": {
            "GPT-175B": (1.0, 1.055, 1.054, 0.096, 0.355, 2.803),
            "QWEN-72B": (1.0, 1.294, 0.852, 0.219, 0.901, 2.330),
            "OPT-66B": (None, None, 0.391, 0.038, 0.147, 1.0),
        },
    }
)
"""Throughput of SYSTEM_ORDER over that of REFERENCE; None where the paper reports out of memory. Figure data of arXiv
2504.17584v2 (papers, 3.9)."""


@dataclass(frozen=True, kw_only=True)
class FreeConstant:
    """A chosen number and its reason."""

    value: object
    why: str


FREE_CONSTANTS: Mapping[str, FreeConstant] = MappingProxyType(
    {
        "GPU memory share": FreeConstant(value=DGX_A100.gpu_memory_share, why="vLLM's default gpu_memory_utilization"),
        "block tokens": FreeConstant(value=VLLM_BLOCK_TOKENS, why="vLLM's default block_size"),
        "chunk tokens": FreeConstant(value=VLLM_CHUNK_TOKENS, why="vLLM's default max_num_batched_tokens"),
        "prefill block": FreeConstant(value=PREFILL_BLOCK, why="queries of a block of the prefill kernel"),
        "admission": FreeConstant(value="grow", why="as vLLM: memory for the prompt, pre-emption when it runs out"),
        "channels": FreeConstant(value=DGX_A100.channels, why="CHIME, Table I"),
        "ranks of a channel": FreeConstant(value=DGX_A100.ranks_per_channel, why="CHIME, Table I"),
        "bytes of a rank": FreeConstant(value=DGX_A100.rank_bytes, why="CHIME, Table I: 2 TB over 64 ranks"),
        "preset": FreeConstant(value=DGX_A100.preset, why="CHIME's timing file: DDR4-3200, x8, 8 Gb"),
        "HBM-PIM bandwidth ratio": FreeConstant(value=ATTACC_BANDWIDTH_RATIO, why="CHIME, Table I: 260.8 / 16.3"),
        "HBM-PIM-EXT modules": FreeConstant(value=HbmPimExtended.MODULES, why="CHIME, Table I"),
        "HBM-PIM-EXT bytes of a module": FreeConstant(value=HbmPimExtended.MODULE_BYTES, why="CHIME, Table I: 320 GB"),
        "HBM-PIM-EXT bandwidth of a module": FreeConstant(
            value=HbmPimExtended.MODULE_BYTES_PER_S, why="CHIME, Table I: 130.4 TB/s over 20"
        ),
        "kv_heads of a request in a rank": FreeConstant(
            value=l3.KV_HEADS_OF_A_RANK, why="CHIME: GQA-8, one kv_head for each of 8 chips"
        ),
        "points of the predictor": FreeConstant(value=predictor.POINTS, why="CHIME, scheduler"),
        "training share of the predictor": FreeConstant(value=predictor.TRAINING_SHARE, why="CHIME, scheduler"),
        "requests": FreeConstant(value=REQUESTS, why="CHIME, evaluation: 1,000 random requests"),
        "seed": FreeConstant(value=SEED, why="the first; lengths are lognormal with the published mean and deviation"),
        "out of memory": FreeConstant(value=OOM_SHARE, why="share of the requests that a system refuses"),
        "longest prompt of the power fit": FreeConstant(
            value=power_fit.LONGEST_PROMPT, why="beyond it the table's mean power is that of something idle"
        ),
        "pJ a bit over data pins": FreeConstant(value=memory_energy.DQ_PJ_PER_BIT, why="CENT"),
        "pJ a bit over PCIe 4.0": FreeConstant(
            value=memory_energy.PCIE4_PJ_PER_BIT, why="Zhao et al., interconnects of Perlmutter, table II: A100"
        ),
        "pJ a bit of HBM to its bank": FreeConstant(
            value=memory_energy.HBM_BANK_PJ_PER_BIT, why="FGDRAM in AttAcc's simulator: ACT 0.11, RD 0.44"
        ),
        "pJ a bit of HBM": FreeConstant(
            value=memory_energy.HBM_PJ_PER_BIT, why="FGDRAM in AttAcc's simulator: all six parts of the path"
        ),
        "W of a CPU": FreeConstant(value=memory_energy.CPU_W, why="TDP of an EPYC 7742, as in a DGX A100"),
        "memory channels of a CPU": FreeConstant(value=memory_energy.CPU_CHANNELS, why="EPYC 7742"),
    }
)  # fmt: skip
"""Chosen numbers of the comparison with CHIME, and of the energy. A number that is measured (kernels and power of the
GPU, clocks and commands of the rank) or stated by a vendor or a standard is not free. Models, data sets and parallelism
are those of the paper."""


def chime_node(model: str) -> Node:
    """The paper's DGX-A100, with the parallelism that it gives for a model."""
    tp_size, dp_size = PARALLELISM[model]
    return replace(DGX_A100, tp_size=tp_size, dp_size=dp_size)


def chime_workload(lengths: str, requests: int = REQUESTS) -> Workload:
    """Requests with the published lengths, all waiting at time 0."""
    return synthetic_workload(lengths, requests, np.random.default_rng(SEED))


def bandwidth_bound(system: str, model: str, workload: Workload) -> float | None:
    """Upper bound on the tokens a second of a Table I system: it reads K and V at full bandwidth all the time.

    The bound is None for a GPU, which reads its weights with the same bandwidth.
    """
    rates = {row.system: row.ours for row in table_one()}
    if system == "GPU" or system not in rates:
        return None
    prompt, output = (values.astype(float) for values in (workload.prompt_tokens, workload.output_tokens))
    attended = ((output - 1) * (prompt + output / 2)).sum()  # prompt + 1, ... prompt + output - 1
    read = float(attended) * shape_named(model).kv_bytes_per_token()
    return float(rates[system] * output.sum() / read) if read else None


@dataclass(frozen=True, kw_only=True)
class BandwidthRow:
    """A bandwidth of Table I, in bytes/s.

    Parameters
    ----------
    system, formula : str
    published, ours : float
    """

    system: str
    formula: str
    published: float
    ours: float


CHIME_TCK_NS = 0.63
"""Clock period of the timing file behind CHIME's table (DRAMsim3, DDR4_8Gb_x8_3200); JEDEC has 0.625."""


def table_one(*, tck_ns: float = CHIME_TCK_NS) -> tuple[BandwidthRow, ...]:
    """CHIME's Table I, computed from the DRAM's organization and timing, and the GPU's data sheet.

    Parameters
    ----------
    tck_ns : float
        Clock period of the DRAM.
    """
    node = DGX_A100
    dram, gpus = node.dram, node.tp_size * node.dp_size
    scale = dram.timing.time_ps(1000) / 1e6 / tck_ns
    bus = limits.external_bandwidth_bytes_per_s(dram) * scale
    rank = limits.rank_bandwidth_bytes_per_s(dram) * scale
    gpu = gpus * node.spec.bandwidth_bytes_per_s
    stacks = gpus * 5  # AttAcc: five stacks a GPU
    return (
        BandwidthRow(system="GPU", formula="8 x 2.039 TB/s", published=16.3e12, ours=gpu),
        BandwidthRow(
            system="CPU", formula="16 channels x 64 B / (4 tCK)", published=406e9, ours=node.channels * float(bus)
        ),
        BandwidthRow(
            system="HBM-PIM", formula="16 x that of the GPUs", published=260.8e12, ours=ATTACC_BANDWIDTH_RATIO * gpu
        ),
        BandwidthRow(
            system="HBM-PIM-EXT",
            formula="20 stacks, 16 x a 40th of the GPUs'",
            published=130.4e12,
            ours=HbmPimExtended.MODULES * ATTACC_BANDWIDTH_RATIO * gpu / stacks,
        ),
        BandwidthRow(
            system="R-PIM", formula="64 ranks x 64 B / (4 tCK)", published=1.6e12, ours=node.num_ranks * float(bus)
        ),
        BandwidthRow(
            system="L3",
            formula="64 ranks x 128 banks x 8 B / (8 tCK)",
            published=13.0e12,
            ours=node.num_ranks * float(rank),
        ),
    )
