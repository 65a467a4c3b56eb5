"""Parameters of the proofs: as small as the hardware allows, with nothing left out."""

from __future__ import annotations

from dataclasses import replace

from pimspec.params.presets import preset_named

__all__ = ["DPA", "LOOPS", "ORDER", "PROGRAMS", "RANK"]

RANK = replace(preset_named("tiny").rank, segment_tokens=32, queries=4)

RANK = RANK.with_dpa(
    num_slots=3,
    program_words=2,
    num_registers=2,
    loop_depth=2,
    chunk_bytes=RANK.organization.page_bytes * RANK.num_banks * RANK.num_chips << 16,
    directory_entries=2,
    leaf_entries=2,
    num_leaves=2,
    watchdog=15,
    max_tokens_bits=8,
)
"""The rank of the proofs."""

DPA = RANK.require_dpa()
"""Three slots and three physical chunks, so that one code of each does not exist."""

LOOPS = replace(DPA, program_words=8)
"""As DPA, with room for nested loops."""

PROGRAMS = replace(DPA, program_words=4)
"""As DPA, with room for a first row step: its address is checked within 24 clocks of reset."""

ORDER = replace(preset_named("tiny").rank, host_queue=2, append_queue=2, descriptor_queue=2)
"""A rank whose queues fill and wrap within a few clocks."""
