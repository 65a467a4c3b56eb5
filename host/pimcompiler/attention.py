"""Compiles decode attention into a DPA program.

The memory of a request has `regions` regions, ``2 * ((layer * num_kv_heads) + kv_head)`` for K and the next one for V,
laid out block by block: virtual row ``block * regions + region`` holds the tokens ``block * row_step_tokens`` and on.
So the memory grows at its end only, and a program needs nothing but strides to walk through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pimcompiler.assembler import assemble
from pimspec.attention.shape import AttentionShape
from pimspec.errors import require
from pimspec.params.dpa import ConfigOp, ConfigOperation, DpaParams, pack_value

__all__ = ["AttentionProgram", "compile_attention", "num_regions", "region_of"]


def num_regions(shape: AttentionShape, num_layers: int = 1) -> int:
    """Regions of a request whose memory holds so many layers."""
    return 2 * num_layers * shape.num_kv_heads


def region_of(shape: AttentionShape, layer: int, kv_head: int, *, v: bool) -> int:
    """The region of K, or V, of a kv_head."""
    return 2 * (layer * shape.num_kv_heads + kv_head) + int(v)


@dataclass(frozen=True, kw_only=True)
class AttentionProgram:
    """One decode step of attention of some layers of a request, whatever its length.

    Parameters
    ----------
    params : DpaParams
    shape : AttentionShape
    layers : tuple of int
        Computed one after the other. Their queries lie in this order in the query buffer, `rank.queries_at_once`
        places for each kv_head; the outputs likewise.
    regions : int
        Of the memory of the request.
    text : str
    words : tuple of int
    """

    params: DpaParams
    shape: AttentionShape
    layers: tuple[int, ...]
    regions: int
    text: str
    words: tuple[int, ...]

    @property
    def num_entries(self) -> int:
        """Places of queries, and of outputs."""
        return len(self.layers) * self.shape.num_kv_heads * self.params.rank.queries_at_once

    def load(self, address: int = 0) -> list[ConfigOperation]:
        """Write the program into the program memory; requests of one shape share it."""
        most = self.params.program_words - len(self.words)
        require(0 <= address <= most, "address", address, f"0..{most}")
        return [
            ConfigOperation(op=ConfigOp.WRITE_WORD, index=address + n, value=word) for n, word in enumerate(self.words)
        ]

    def request(
        self,
        slot: int,
        tokens: int,
        *,
        address: int = 0,
        first_entry: int = 0,
        normalise: bool = True,
        static_order: bool = False,
    ) -> list[ConfigOperation]:
        """Make a slot ready to run the program, loaded at `address`, on a context of `tokens` tokens.

        `tokens` counts the token whose queries come first; the device counts on from there.
        """
        p = self.params
        require(0 <= slot < p.num_slots, "slot", slot, f"0..{p.num_slots - 1}")
        require(1 <= tokens <= p.max_tokens, "tokens", tokens, f"1..{p.max_tokens}")
        last = p.rank.queries - self.num_entries
        aligned = first_entry % p.rank.queries_at_once == 0
        require(aligned and 0 <= first_entry <= last, "first_entry", first_entry, f"a multiple of rows in 0..{last}")
        value = pack_value(
            p.request,
            program=address,
            length=len(self.words),
            tokens=tokens,
            first_entry=first_entry,
            num_entries=self.num_entries,
            last_query=self.shape.gqa_group_size - 1,
            normalise=int(normalise),
            static_order=int(static_order),
        )
        return [
            ConfigOperation(op=ConfigOp.SET_REQUEST, slot=slot, value=value),
            ConfigOperation(op=ConfigOp.SET_SCALE, slot=slot, value=self.shape.scale_bits),
        ]


def compile_attention(
    params: DpaParams,
    shape: AttentionShape,
    *,
    num_layers: int = 1,
    layers: Sequence[int] | None = None,
    advance: bool = True,
) -> AttentionProgram:
    """Compile one decode step.

    Parameters
    ----------
    params : DpaParams
    shape : AttentionShape
        The kv_heads that lie in this rank.
    num_layers : int
        Layers that the memory of the request holds.
    layers : sequence of int, optional
        Those to compute, in this order; all of them by default.
    advance : bool
        The request has one more token afterwards: to be set in the last program of a decode step.

    Raises
    ------
    ParameterError
        If the rank cannot compute the shape, or the places or the program memory do not suffice.
    """
    p, rows = params, params.rank.queries_at_once
    p.rank.require_shape(shape)
    require(num_layers >= 1, "num_layers", num_layers, "1 or more")
    chosen = tuple(range(num_layers)) if layers is None else tuple(layers)
    require(len(chosen) > 0, "layers", chosen, "one or more")
    for layer in chosen:
        require(0 <= layer < num_layers, "a layer", layer, f"0..{num_layers - 1}")
    places = len(chosen) * shape.num_kv_heads * rows
    require(places <= p.rank.queries, "places of queries", places, f"at most {p.rank.queries}: fewer layers at once")
    regions = num_regions(shape, num_layers)
    text = "; x0 queries, x1 outputs, x2 region of the kv_head, x3 rows of K, x4 rows of V\n"
    for layer in chosen:
        text += _layer_text(region_of(shape, layer, 0, v=False), shape.num_kv_heads, regions, rows)
    text += "end advance\n" if advance else "end\n"
    words = tuple(assemble(text))
    require(len(words) <= p.program_words, "words of the program", len(words), f"at most {p.program_words}")
    return AttentionProgram(params=p, shape=shape, layers=chosen, regions=regions, text=text, words=words)


def _layer_text(region: int, kv_heads: int, regions: int, rows: int) -> str:
    return f"""\
movi x2, {region}
loop {kv_heads} {{
    addi x3, x2, 0
    addi x4, x2, 1
    addi x2, x2, 2
    wr_inp queries, x0 += {rows}
    loop segments {{
        softmax
        loop rows {{
            mac tree, x3 += {regions}
            rd_out scores
        }}
        loop rows {{
            wr_inp probs
            mac lane, x4 += {regions}
        }}
        rd_out sums
        merge x1 += {rows}
    }}
}}
"""
