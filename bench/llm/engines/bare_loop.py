"""A decoder's slots without scheduler and gRPC: a loop over all of them, greedy."""

from __future__ import annotations

from exchange import PROMPT_TOKENS, prompt, timed

from services.inference.llm.slot_backend import SlotBackend

CHUNK_TOKENS = 128
"""As the node cuts prompts."""


def decode_rate(slots: SlotBackend, streams: int, tokens: int) -> float:
    """Tokens per second of so many streams; each is a token ahead of the next, as in the node."""
    last = [prefill(slots, slot, PROMPT_TOKENS) for slot in range(streams)]
    held = range(PROMPT_TOKENS + streams - 1, PROMPT_TOKENS - 1, -1)

    def steps() -> None:
        chosen = last
        for step in range(tokens):
            logits = slots.decode(chosen, [each + step for each in held])
            chosen = [int(row.argmax()) for row in logits]

    return timed(streams * tokens, steps)


def prefill(slots: SlotBackend, slot: int, tokens: int) -> int:
    """Reads a prompt that nobody has seen before; the first token."""
    ids = prompt(tokens)
    for start in range(0, tokens, CHUNK_TOKENS):
        logits = slots.prefill(slot, ids[start : start + CHUNK_TOKENS], start)
    return int(logits.argmax())
