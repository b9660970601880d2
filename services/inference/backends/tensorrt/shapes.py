"""Which shapes engines are built for and run in: pure.

An engine is fastest at shapes that it has seen, and a CUDA graph is of one shape. So runs are
padded to a few widths: decoding to the next of some numbers of rows, prefill to the next of some
numbers of tokens. Rows that are padding write into a slot all the same; slots therefore have
positions beyond the context, where nobody ever looks, and `scratch` names the one they write to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.standard_graph import StandardForm

POSITION_STEP = 64
"""Of a slot's length in memory: what kernels of attention and copies like best."""
_SMALLEST_PREFILL = 16
LARGEST_PREFILL = 512
"""Longer runs are cut: a kernel gains no more from them, and memory grows with them."""
DECODE, PREFILL = 0, 1
"""The profiles of a decoder's engine."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The shapes of one input: the smallest, the one to be fastest at, the largest."""

    name: str
    least: Shape
    usual: Shape
    most: Shape

    def to_json(self) -> list[object]:
        """As it travels to the process that builds."""
        return [self.name, self.least, self.usual, self.most]


Profile = tuple[ShapeRange, ...]


@dataclass(frozen=True, slots=True)
class SlotShapes:
    """A decoder's slots in an engine."""

    slots: int
    context_tokens: int
    layers: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    element_bytes: int

    @property
    def positions(self) -> int:
        """The positions of a slot: the context and at least one more."""
        return _round_up(self.context_tokens + 1, POSITION_STEP)

    @property
    def scratch(self) -> int:
        """The position that padding rows write to."""
        return self.positions - 1

    @property
    def prefill_tokens(self) -> int:
        """The longest run of prefill."""
        return min(LARGEST_PREFILL, self.context_tokens)

    @property
    def row_bytes(self) -> int:
        """One head's keys of one slot."""
        return self.positions * self.head_dim * self.element_bytes

    @property
    def slot_bytes(self) -> int:
        """One layer's keys of one slot."""
        return self.kv_heads * self.row_bytes

    @property
    def layer_bytes(self) -> int:
        """One layer's keys of all slots."""
        return self.slots * self.slot_bytes

    @property
    def cache_names(self) -> tuple[str, ...]:
        """The tensors of keys and values, without their `past_` and `present_`."""
        return tuple(f"{c}{layer}" for layer in range(self.layers) for c in "kv")

    @property
    def cache_bytes(self) -> int:
        """All keys and values."""
        return len(self.cache_names) * self.layer_bytes

    def inputs(self, rows: int, tokens: int) -> dict[str, Shape]:
        """The shape of every input in a run."""
        past = (rows, self.kv_heads, self.positions, self.head_dim)
        shapes: dict[str, Shape] = {"input_ids": (rows, tokens)}
        shapes |= {"write_index": (rows,), "last_index": (rows,)}
        return shapes | {f"past_{name}": past for name in self.cache_names}

    def profiles(self) -> tuple[Profile, Profile]:
        """Decoding of any number of slots, and prefill of one."""
        usual = row_bucket(min(8, self.slots), self.slots)
        return (
            _profile(self.inputs(1, 1), self.inputs(usual, 1), self.inputs(self.slots, 1)),
            _profile(
                self.inputs(1, 1),
                self.inputs(1, min(128, self.prefill_tokens)),
                self.inputs(1, self.prefill_tokens),
            ),
        )


def slot_shapes(
    config: LlamaConfig, form: StandardForm, *, slots: int, context_tokens: int
) -> SlotShapes:
    """The slots of a decoder."""
    return SlotShapes(
        slots=slots,
        context_tokens=context_tokens,
        layers=config.layers,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocabulary,
        element_bytes=form.element_bytes,
    )


def row_buckets(slots: int) -> tuple[int, ...]:
    """The numbers of rows that decoding runs in: 1, 2, 4, 8, 12, 16, 24, ... and all slots."""
    powers = [1]
    while powers[-1] < slots:
        powers.append(powers[-1] * 2)
    between = [(low + high) // 2 for low, high in pairwise(powers) if low >= 8]  # noqa: PLR2004 - as said above
    return tuple(sorted({n for n in powers + between if n < slots} | {slots}))


def row_bucket(rows: int, slots: int) -> int:
    """The number of rows that so many are padded to."""
    return next(n for n in row_buckets(slots) if n >= rows)


def prefill_width(tokens: int, room: int, longest: int) -> int:
    """What a run of tokens is padded to, with so many positions left in the slot's memory."""
    width = _SMALLEST_PREFILL
    while width < tokens:
        width *= 2
    return max(tokens, min(width, room, longest))


def cut(tokens: Sequence[int], start: int, longest: int) -> list[tuple[int, Sequence[int]]]:
    """Runs of at most `longest` tokens, each with the position where it begins."""
    places = range(0, len(tokens), longest)
    return [(start + place, tokens[place : place + longest]) for place in places]


def _profile(least: dict[str, Shape], usual: dict[str, Shape], most: dict[str, Shape]) -> Profile:
    return tuple(ShapeRange(name, least[name], usual[name], most[name]) for name in most)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
