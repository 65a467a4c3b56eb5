"""Compiler from decode attention to a DPA program.

The memory of a request has `regions` regions: ``2 * ((layer * num_kv_heads) + kv_head)`` for K and the next one for V.
They are laid out block by block: virtual row ``block * regions + region`` holds the tokens from
``block * row_step_tokens`` on. So the memory grows at its end only, and a program walks through it with strides alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pimcompiler.assembler import disassemble
from pimcompiler.program import load_operations, request_operations
from pimspec.attention.regions import num_regions, region_of
from pimspec.attention.shape import AttentionShape
from pimspec.errors import require
from pimspec.isa import InputKind, Instruction, LoopKind, MacMode, Opcode, OutputKind, pack_word
from pimspec.params.dpa import ConfigOperation, DpaParams
from pimspec.params.pim_rank import PimRankParams

__all__ = ["AttentionProgram", "compile_attention"]


@dataclass(frozen=True, kw_only=True)
class AttentionProgram:
    """Program for one decode step of attention, over some layers of a request of any length.

    Parameters
    ----------
    params : DpaParams
    shape : AttentionShape
    layers : tuple of int
        Layers in the order of computation. Their queries lie in this order in the query buffer, `queries_at_once`
        entries for each kv_head; their outputs likewise.
    regions : int
        Regions of the request's memory.
    instructions : tuple of Instruction
    """

    params: DpaParams
    shape: AttentionShape
    layers: tuple[int, ...]
    regions: int
    instructions: tuple[Instruction, ...]

    @cached_property
    def words(self) -> tuple[int, ...]:
        """Words of the program memory."""
        return tuple(pack_word(instruction) for instruction in self.instructions)

    @property
    def text(self) -> str:
        """Text of the program, in the form that :func:`.assembler.assemble` takes."""
        return f"; {_REGISTER_USE}\n{disassemble(self.words)}"

    @property
    def num_entries(self) -> int:
        """Number of entries in the query buffer, which is also that in the output buffer."""
        return len(self.layers) * self.shape.num_kv_heads * self.params.queries_at_once

    def load(self, address: int = 0) -> list[ConfigOperation]:
        """Write the program into the program memory; requests of one shape share it."""
        return load_operations(self.params, self.words, address)

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
        """Operations that prepare a slot to run the program, loaded at `address`, on a context of `tokens` tokens.

        `tokens` includes the token whose queries come first; the device counts on from there.
        """
        return request_operations(
            self.params,
            slot=slot,
            tokens=tokens,
            length=len(self.words),
            num_entries=self.num_entries,
            last_query=self.shape.gqa_group_size - 1,
            scale_bits=self.shape.scale_bits,
            address=address,
            first_entry=first_entry,
            normalise=normalise,
            static_order=static_order,
        )


def compile_attention(
    rank: PimRankParams,
    shape: AttentionShape,
    *,
    num_layers: int = 1,
    layers: Sequence[int] | None = None,
    advance: bool = True,
) -> AttentionProgram:
    """Program for one decode step of attention.

    Parameters
    ----------
    rank : PimRankParams
        A rank with a DPA controller.
    shape : AttentionShape
        Shape with the kv_heads that lie in this rank.
    num_layers : int
        Layers that the memory of the request holds.
    layers : sequence of int, optional
        Layers to compute, in this order; all of them by default.
    advance : bool
        True if the request has one more token afterwards, as after the last program of a decode step.

    Raises
    ------
    ParameterError
        If the rank cannot compute the shape, or the buffer entries or the program memory do not suffice.
    """
    p, each = rank.require_dpa(), rank.queries_at_once
    rank.require_shape(shape)
    require(num_layers >= 1, "num_layers", num_layers, "1 or more")
    wanted = range(num_layers) if layers is None else layers
    require(len(wanted) > 0, "layers", wanted, "one or more")
    entries = len(wanted) * shape.num_kv_heads * each
    require(entries <= p.queries, "entries of queries", entries, f"at most {p.queries}: fewer layers at once")
    chosen = tuple(wanted)
    for layer in chosen:
        require(0 <= layer < num_layers, "a layer", layer, f"0..{num_layers - 1}")
    regions, instructions = num_regions(shape, num_layers), list[Instruction]()
    for layer in chosen:
        instructions += _layer(region_of(shape, layer, 0, v=False), shape.num_kv_heads, regions, each)
    instructions.append(_do(Opcode.END, advance=int(advance)))
    most = p.program_words
    require(len(instructions) <= most, "words of the program", len(instructions), f"at most {most}")
    return AttentionProgram(params=p, shape=shape, layers=chosen, regions=regions, instructions=tuple(instructions))


_REGISTER_USE = "x0 queries, x1 outputs, x2 region of the kv_head, x3 rows of K, x4 rows of V"
_QUERIES, _OUTPUTS, _REGION, _K, _V = range(5)


def _do(opcode: Opcode, **operands: int) -> Instruction:
    return Instruction(opcode=opcode, operands=operands)


def _loop(kind: LoopKind, body: Sequence[Instruction], count: int = 0) -> list[Instruction]:
    """A loop instruction and its body."""
    return [_do(Opcode.LOOP, kind=kind, count=count, length=len(body)), *body]


def _layer(region: int, kv_heads: int, regions: int, each: int) -> list[Instruction]:
    """Attention of one layer's kv_heads, with `regions` virtual rows a row step and `each` buffer entries a kv_head."""
    scores = _loop(
        LoopKind.ROWS,
        [_do(Opcode.MAC, mode=MacMode.TREE, rs=_K, stride=regions), _do(Opcode.RD_OUT, what=OutputKind.SCORES)],
    )
    sums = _loop(
        LoopKind.ROWS,
        [_do(Opcode.WR_INP, what=InputKind.PROBS), _do(Opcode.MAC, mode=MacMode.LANE, rs=_V, stride=regions)],
    )
    segment = [
        _do(Opcode.SOFTMAX),
        *scores,
        *sums,
        _do(Opcode.RD_OUT, what=OutputKind.SUMS),
        _do(Opcode.MERGE, rs=_OUTPUTS, stride=each),
    ]
    head = [
        _do(Opcode.ADDI, rd=_K, rs=_REGION, imm=0),
        _do(Opcode.ADDI, rd=_V, rs=_REGION, imm=1),
        _do(Opcode.ADDI, rd=_REGION, rs=_REGION, imm=2),
        _do(Opcode.WR_INP, what=InputKind.QUERIES, rs=_QUERIES, stride=each),
        *_loop(LoopKind.SEGMENTS, segment),
    ]
    return [_do(Opcode.MOVI, rd=_REGION, imm=region), *_loop(LoopKind.IMM, head, count=kv_heads)]
