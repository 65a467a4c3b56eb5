"""Configuration operations of a DPA program: into the program memory, and ready for a request."""

from __future__ import annotations

from collections.abc import Sequence

from pimspec.errors import require
from pimspec.params.dpa import ConfigOp, ConfigOperation, DpaParams

__all__ = ["load_operations", "request_operations"]


def load_operations(params: DpaParams, words: Sequence[int], address: int = 0) -> list[ConfigOperation]:
    """Writes of the words of a program into the program memory, from `address` on."""
    most = params.program_words - len(words)
    require(0 <= address <= most, "address", address, f"0..{most}")
    return [ConfigOperation(op=ConfigOp.WRITE_WORD, index=address + n, value=word) for n, word in enumerate(words)]


def request_operations(
    params: DpaParams,
    *,
    slot: int,
    tokens: int,
    length: int,
    num_entries: int,
    last_query: int,
    scale_bits: int,
    address: int = 0,
    first_entry: int = 0,
    normalise: bool = True,
    static_order: bool = False,
) -> list[ConfigOperation]:
    """SET_REQUEST and SET_SCALE, after which a slot may start its program.

    Parameters
    ----------
    params : DpaParams
    slot : int
    tokens : int
        T, the token whose queries come first included; the device counts on from there.
    length, address : int
        Words of the program, and where they begin.
    num_entries, first_entry : int
        Entries of the query buffer, and likewise of the output buffer.
    last_query : int
        Queries of a kv_head less one.
    scale_bits : int
        FP32 bits of ``log2(e) * softmax_scale``.
    normalise, static_order : bool
        Deliver 16-bit outputs; no overlap of banks and bus.

    Raises
    ------
    ParameterError
    """
    p = params
    require(0 <= slot < p.num_slots, "slot", slot, f"0..{p.num_slots - 1}")
    require(1 <= tokens <= p.max_tokens, "tokens", tokens, f"1..{p.max_tokens}")
    last = p.queries - num_entries
    aligned = first_entry % p.queries_at_once == 0
    allowed = f"a multiple of {p.queries_at_once} in 0..{last}"
    require(aligned and 0 <= first_entry <= last, "first_entry", first_entry, allowed)
    value = p.request.pack_int(
        program=address,
        length=length,
        tokens=tokens,
        first_entry=first_entry,
        num_entries=num_entries,
        last_query=last_query,
        normalise=int(normalise),
        static_order=int(static_order),
    )
    return [
        ConfigOperation(op=ConfigOp.SET_REQUEST, slot=slot, value=value),
        ConfigOperation(op=ConfigOp.SET_SCALE, slot=slot, value=scale_bits),
    ]
