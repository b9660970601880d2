"""A vocabulary as small as the toy backend's: single characters, a few longer tokens, an end."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models

from services.inference.llm.vocabulary import Vocabulary
from tests.unit.llm.toy_backend import VOCABULARY

# As byte-level BPE spells them: Ġ is a space, Ċ a new line, and Ã with © an é.
CHARACTERS = '{}[]":,.-0123456789abcdefghilmnorstuvxyzĠĊÃ©'
LONGER = ('{"', '":', '"}', '",', "12", "ab", "true", "false", "null", "yes", "no", "Ã©")
END = VOCABULARY - 1


def make_vocabulary() -> Vocabulary:
    """The last token is the end; those without a purpose are written in letters of their own."""
    pieces = [*CHARACTERS, *LONGER]
    pieces += [f"Z{chr(ord('A') + number)}" for number in range(END - len(pieces))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE({**vocabulary, "<end>": END}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    made = Vocabulary(tokenizer)
    assert len(made) == VOCABULARY
    return made
