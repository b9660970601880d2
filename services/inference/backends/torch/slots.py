"""KV slots in torch: the scheduler's `SlotBackend` on a GPU or a CPU.

Keys and values of a layer are one tensor `[slots, kv_heads, positions, dim]`. Attention reads the
first positions of it, as many as the fullest slot of the run has, rounded up; a mask hides the
rest. The queries that share a key head stand in one block as rows, so no key is ever repeated in
memory.

On a GPU, decode runs for a few shapes only, each recorded as a CUDA graph when the model is opened:
rows and positions are rounded up to powers of two. Rows that nobody asked for write to a
spare position behind the context, which no mask ever shows.

On a CPU a row's logits are the same to the bit whatever the batch and however a prompt is cut (see
`decoder`). On a GPU that holds within one shape: kernels are picked by it, so the last bits may
differ between batches of other sizes.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812  # as the library's own code has it

from services.inference.backends.backend import BackendFailed, check_token_ids
from services.inference.backends.kept_weights import KeptWeights
from services.inference.backends.torch.backend import NAME
from services.inference.backends.torch.capture import DecodeGraphs, Record, make_recorder
from services.inference.backends.torch.decoder import ROWS, TorchDecoder
from services.inference.backends.torch.placement import Place, opening, running, tensor_bytes
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.decoder import Decoder

_SPAN = 128
"""Attention reads a multiple of so many positions: fewer shapes, and the same bits."""


def open_slots(decoder: Decoder, slots: int, place: Place) -> TorchSlots:
    """Loads a decoder with its slots; blocking."""
    with opening(), torch.inference_mode():
        positions = spare_positions(decoder.context_tokens)
        loaded = TorchDecoder(decoder.open_weights(), decoder.config, positions, place)
        record = make_recorder() if place.is_gpu else None
        return TorchSlots(
            loaded, decoder.config, slots, decoder.context_tokens, place, record=record
        )


def kept_weights(place: Place) -> KeptWeights:
    """Weights and slots in the type that is computed in."""
    size = int(place.dtype.itemsize)
    return KeptWeights(
        place.number, weight_bytes=size, cache_element_bytes=size, position_step=_SPAN
    )


class TorchSlots:
    """A decoder on a device, with its slots."""

    name = NAME

    def __init__(
        self,
        decoder: TorchDecoder,
        config: LlamaConfig,
        slots: int,
        context_tokens: int,
        place: Place,
        *,
        record: Record | None = None,
    ) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self._decoder = decoder
        self._config = config
        self._place = place
        self._positions = spare_positions(context_tokens)
        shape = (slots, config.kv_heads, self._positions, config.head_dim)
        self._keys = [_zeros(shape, place) for _ in range(config.layers)]
        self._values = [_zeros(shape, place) for _ in range(config.layers)]
        self._index = torch.arange(slots, device=place.device)
        self._ids = place.pinned((round_up(slots, ROWS),), torch.int64)
        self._starts = place.pinned((round_up(slots, ROWS),), torch.int64)
        self._logits = place.pinned((slots, config.vocabulary), torch.float32)
        self._stream = torch.cuda.Stream(place.device) if place.is_gpu else None
        self._graphs = None if record is None else self._recorded(record)
        self.memory_bytes = (
            decoder.memory_bytes
            + tensor_bytes(*self._keys, *self._values)
            + int(self._logits.nbytes)
            + (0 if self._graphs is None else self._graphs.memory_bytes)
        )

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """One run over one slot."""
        self._check(tokens, start + len(tokens))
        with self._running():
            logits = self._prefill(slot, tokens, start)
            self._logits[:1].copy_(logits, non_blocking=True)
        answer: NDArray[np.float32] = self._logits[0].numpy()
        return answer

    def decode(self, tokens: Sequence[int], starts: Sequence[int]) -> NDArray[np.float32]:
        """One run over the first slots."""
        self._check(tokens, max(starts) + 1)
        count = len(tokens)
        rows, span = self._shape(count, max(starts) + 1)
        padded = round_up(rows, ROWS)
        with self._running():
            self._ids[:padded] = torch.tensor([*tokens, *[0] * (padded - count)])
            spare = [self.context_tokens] * (padded - count)
            self._starts[:padded] = torch.tensor([*starts, *spare])
            step = self._step if self._graphs is None else self._graphs.run
            logits = step(self._ids[:padded], self._starts[:padded], rows, span)
            self._logits[:rows].copy_(logits[:rows], non_blocking=True)
        answer: NDArray[np.float32] = self._logits[:count].numpy()
        return answer

    def copy(self, source: int, target: int, tokens: int) -> None:
        """On the device."""
        with self._running():
            for values in (*self._keys, *self._values):
                values[target, :, :tokens] = values[source, :, :tokens]

    def exchange(self, first: int, second: int, tokens: int) -> None:
        """On the device."""
        with self._running():
            for values in (*self._keys, *self._values):
                kept = values[first, :, :tokens].clone()
                values[first, :, :tokens] = values[second, :, :tokens]
                values[second, :, :tokens] = kept

    def close(self) -> None:
        """Gives the memory back to the device, not just to torch's pool."""
        self._graphs = None
        self._keys, self._values = [], []
        del self._decoder
        if self._place.is_gpu:
            torch.cuda.empty_cache()

    def _check(self, tokens: Sequence[int], end: int) -> None:
        check_token_ids(tokens, self._config.vocabulary)
        if end > self.context_tokens:
            raise BackendFailed("a run would pass the end of its slot")

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Work of this model, in the order given; done when the block is left."""
        with running(), torch.cuda.stream(self._stream):
            yield
            if self._stream is not None:
                self._stream.synchronize()

    def _recorded(self, record: Record) -> DecodeGraphs:
        if self._stream is not None:
            # Weights and slots have been put there by another one.
            torch.cuda.current_stream().synchronize()
        with torch.cuda.stream(self._stream):
            graphs = DecodeGraphs(
                self._step,
                self._place,
                width=len(self._ids),
                vocabulary=self._config.vocabulary,
                idle=self.context_tokens,
                record=record,
            )
            shapes = decode_shapes(self.slots, self._positions)
            graphs.record(((rows, span), round_up(rows, ROWS)) for rows, span in shapes)
            if self._stream is not None:
                self._stream.synchronize()
        return graphs

    def _shape(self, rows: int, positions: int) -> tuple[int, int]:
        """The shape that a decode run of so many rows and positions has."""
        if self._graphs is None:
            return rows, min(round_up(positions, _SPAN), self._positions)
        return decode_shape(rows, positions, self.slots, self._positions)

    def _prefill(self, slot: int, tokens: Sequence[int], start: int) -> Any:
        count, config = len(tokens), self._config
        rows, end = round_up(count, ROWS), start + count
        span = min(round_up(end, _SPAN), self._positions)
        ids = torch.tensor([*tokens, *[0] * (rows - count)]).to(self._place.device)
        places = torch.arange(start, start + rows, device=self._place.device)
        places = places.clamp_(max=self._positions - 1)
        mask = self._mask(places, span).repeat(config.heads // config.kv_heads, 1)

        def attend(layer: int, q: Any, k: Any, v: Any) -> Any:
            keys, values = self._keys[layer][slot], self._values[layer][slot]
            keys[:, start:end] = k[:count].transpose(0, 1)
            values[:, start:end] = v[:count].transpose(0, 1)
            blocks = q.view(rows, config.kv_heads, -1, config.head_dim).permute(1, 2, 0, 3)
            flat = blocks.reshape(1, config.kv_heads, -1, config.head_dim)
            out = F.scaled_dot_product_attention(
                flat, keys[None, :, :span], values[None, :, :span], attn_mask=mask
            )
            return out.reshape(blocks.shape).permute(2, 0, 1, 3).reshape(rows, -1)

        x = self._decoder.run(ids, places, attend)
        # The last token is among the last rows that make a whole product.
        return self._decoder.logits(x[rows - ROWS :])[count - 1 - rows + ROWS]

    def _mask(self, places: Any, span: int) -> Any:
        """Of the first `span` positions each row sees its own and those before.

        In numbers, once for all layers: attention would make them of booleans in each.
        """
        hidden = torch.arange(span, device=places.device) > places[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._place.dtype, device=places.device)
        return mask.masked_fill_(hidden, -math.inf)

    def _step(self, ids: Any, starts: Any, rows: int, span: int) -> Any:
        """Decodes the first `rows` slots; `ids` and `starts` are padded for whole products."""
        config = self._config
        shared = config.heads // config.kv_heads
        index, places = self._index[:rows], starts[:rows]
        mask = self._mask(places, span)[:, None, None]

        def attend(layer: int, q: Any, k: Any, v: Any) -> Any:
            keys, values = self._keys[layer], self._values[layer]
            keys[index, :, places] = k[:rows]
            values[index, :, places] = v[:rows]
            blocks = q[:rows].view(rows, config.kv_heads, shared, config.head_dim)
            # As many query rows as whole products have, for the same reason.
            blocks = F.pad(blocks, (0, 0, 0, round_up(shared, ROWS) - shared))
            out = F.scaled_dot_product_attention(
                blocks, keys[:rows, :, :span], values[:rows, :, :span], attn_mask=mask
            )
            flat = out[:, :, :shared].reshape(rows, -1)
            return F.pad(flat, (0, 0, 0, len(ids) - rows))

        return self._decoder.logits(self._decoder.run(ids, starts, attend))


def decode_shape(rows: int, positions: int, slots: int, most: int) -> tuple[int, int]:
    """Rows and span of a run on a GPU: few shapes, but never more rows than there are slots."""
    wide = 1 << (rows - 1).bit_length()
    span = max(_SPAN, 1 << (positions - 1).bit_length())
    return min(wide, slots), min(span, most)


def decode_shapes(slots: int, most: int) -> list[tuple[int, int]]:
    """All that `decode_shape` gives, the largest first: smaller ones then find room in its pool."""
    rows = {decode_shape(1 << n, 1, slots, most)[0] for n in range(slots.bit_length() + 1)}
    spans = {decode_shape(1, 1 << n, slots, most)[1] for n in range(most.bit_length() + 1)}
    return [(r, s) for r in sorted(rows, reverse=True) for s in sorted(spans, reverse=True)]


def spare_positions(context_tokens: int) -> int:
    """The positions of a slot: its context, at least one to spare, in whole spans."""
    return round_up(context_tokens + 1, _SPAN)


def round_up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


def _zeros(shape: tuple[int, ...], place: Place) -> Any:
    if place.is_gpu:
        return torch.zeros(shape, dtype=place.dtype, device=place.device)
    # Memory that costs nothing until it is written; torch would write its zeros.
    size = math.prod(shape) * place.dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=place.dtype).view(shape)
