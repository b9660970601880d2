"""Compiles constraints and follows them token by token. The only module that knows llguidance.

Everything becomes one grammar in the library's own notation. Token masks come from the tokens'
bytes alone: the library could also force a text's canonical tokens, but forced runs have no bound
on their length, and the tokenizer would be asked again in the middle of a step.

A hostile schema or expression must not hold a node up. Sources are bounded in size, the grammars
made from them in symbols, and every step in what it may compute; multiples, whose automata grow
with the number itself, are bounded here. What is compiled has computed its first mask as well, away
from the event loop and from the engine, one at a time for each model; the last ones are kept.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from llguidance import (
    LLMatcher,
    LLParserLimits,
    LLTokenizer,
    TokenizerWrapper,
    grammar_from,
    regex_to_lark,
)
from numpy.typing import NDArray

from mesh.errors import InvalidArgument
from services.inference.llm.constraint import (
    Constraint,
    ConstraintKind,
    Matcher,
    check_constraint,
    refusal,
)
from services.inference.llm.vocabulary import Vocabulary

KEPT_GRAMMARS = 32
LARGEST_MULTIPLE = 10_000
# One space, or a new line with its indent: models write so, and cannot go on with it for ever.
_WHITESPACE = r"[ ]?|\n[ ]{0,16}"
_NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
_DIRECTIVES = ("%json", "%llguidance")
_PLACE = re.compile(
    r"^at \d+\(\d+\): |^failed to compile JSON schema: |^failed to parse \"%json\": "
    r"|^invalid regex .* \(in regex\): |^Failed to convert the grammar from GBNF to Lark: "
)
_EXCERPT = re.compile(r"^ *\d+ \| |^<non-verbose/>|^ *\^+$")
_LONGEST_MESSAGE = 300
_CUT_OFF = "with a backslash that escapes nothing"
_MEANINGS = {
    "NoExtension": "no text can satisfy it",
    "coerce_one_of": "oneOf needs arms that exclude each other; anyOf may do instead",
}


class GrammarCompiler:
    """Turns constraints into matchers, for one model's vocabulary."""

    def __init__(self, vocabulary: Vocabulary, end_ids: Collection[int]) -> None:
        self._vocabulary = vocabulary
        self._end_ids = sorted(end_ids)
        self._turn = asyncio.Lock()
        # A caller that has left passes its turn on while its thread is still at work.
        self._owner = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[Constraint, LLMatcher] = OrderedDict()

    def __repr__(self) -> str:
        return f"<GrammarCompiler {len(self._kept)} grammars kept>"

    async def matcher(
        self, constraint: Constraint, taken: Sequence[int], *, ignore_end: bool
    ) -> Matcher:
        """A matcher that has taken these tokens; if `ignore_end`, it goes on while it can.

        Raises:
            InvalidArgument: the constraint is wrong, too complex, or not kept by `taken`.
        """
        check_constraint(constraint)
        async with self._turn:
            return await asyncio.to_thread(self._start, constraint, taken, ignore_end)

    def _start(self, constraint: Constraint, taken: Sequence[int], ignore_end: bool) -> Matcher:
        hidden = self._end_ids if ignore_end else ()
        matcher = _GrammarMatcher(
            self._compiled(constraint), constraint, len(self._vocabulary), hidden
        )
        matcher.replay(taken)
        return matcher

    def _compiled(self, constraint: Constraint) -> LLMatcher:
        with self._owner:
            if constraint not in self._kept:
                self._kept[constraint] = self._compile(constraint)
            self._kept.move_to_end(constraint)
            while len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
            return self._kept[constraint].deep_copy()

    def _compile(self, constraint: Constraint) -> LLMatcher:
        if self._tokenizer is None:
            tokens = TokenizerWrapper(_Tokens.of(self._vocabulary, self._end_ids))
            self._tokenizer = LLTokenizer(tokens, eos_token=self._end_ids or None)
        grammar = write_grammar(constraint)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_limits())
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise refusal(constraint, _say(matcher.get_error()))
        return matcher


class _GrammarMatcher:
    """One answer's place in a compiled grammar."""

    def __init__(
        self, matcher: LLMatcher, constraint: Constraint, size: int, hidden: Sequence[int]
    ) -> None:
        self._matcher = matcher
        self._constraint = constraint
        self._size = size
        self._hidden = np.asarray(hidden, np.int64)

    @property
    def is_finished(self) -> bool:
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.int64]:
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise refusal(self._constraint, _say(self._matcher.get_error()))
        # Looked at as truth values: numbers would take ten times as long to search.
        flags = np.unpackbits(mask, count=self._size, bitorder="little").view(np.bool_)
        flags[self._hidden] = False
        return np.flatnonzero(flags)

    def take(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise refusal(self._constraint, _say(self._matcher.get_error()))

    def replay(self, tokens: Sequence[int]) -> None:
        """Takes tokens that were delivered before."""
        kept = self._matcher.try_consume_tokens(list(tokens))
        if kept < len(tokens):
            raise InvalidArgument(
                f"resume_token_ids[{kept}] does not keep to {self._constraint}",
                field="resume_token_ids",
            )


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The vocabulary, as the library asks for one."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int | None
    bos_token_id: None = None

    @classmethod
    def of(cls, vocabulary: Vocabulary, end_ids: Sequence[int]) -> _Tokens:
        """Tokens without a text can be no part of an answer's form."""
        texts = [vocabulary.text_bytes(token) for token in range(len(vocabulary))]
        special = [token for token, text in enumerate(texts) if not text]
        for token in special:
            texts[token] = vocabulary.name_bytes(token)
        return cls(texts, special, end_ids[0] if end_ids else None)

    def __call__(self, text: bytes) -> list[int]:
        """Asked once, for nothing in particular: only forced tokens would need an answer."""
        del text
        return []


def write_grammar(constraint: Constraint) -> str:
    """The constraint in the library's notation, as far as it can be read without the library."""
    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            body = _json_grammar(_read_schema(constraint))
        case ConstraintKind.JSON_OBJECT:
            body = _json_grammar({"type": "object"})
        case ConstraintKind.REGEX:
            body = _regex_grammar(constraint)
        case ConstraintKind.CHOICE:
            body = "start: " + " | ".join(map(_quote, constraint.sources))
        case ConstraintKind.GRAMMAR:
            body = _read_grammar(constraint)
    return body + _NO_FORCING


def _regex_grammar(constraint: Constraint) -> str:
    if _is_cut_off(constraint.source):
        raise refusal(constraint, f"ends {_CUT_OFF}")
    return f"start: /{regex_to_lark(constraint.source)}/"


def _is_cut_off(expression: str) -> bool:
    """Whether it ends in the middle of an escape; the library would drop the backslash."""
    return (len(expression) - len(expression.rstrip("\\"))) % 2 == 1


def _quote(text: str) -> str:
    """The text as the library's lexer takes it: as JSON, without control characters."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _json_grammar(schema: dict[str, Any]) -> str:
    return "start: %json " + json.dumps(
        schema | {"x-guidance": {"whitespace_pattern": _WHITESPACE}}
    )


def _read_schema(constraint: Constraint) -> dict[str, Any]:
    try:
        schema = json.loads(constraint.source, object_hook=_check_part)
    except RecursionError:
        raise refusal(constraint, "is nested too deeply") from None
    except ValueError as error:
        raise refusal(constraint, str(error)) from None
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise refusal(constraint, "must be a JSON object")
    return schema


def _check_part(part: dict[str, Any]) -> dict[str, Any]:
    step, pattern, named = map(part.get, ("multipleOf", "pattern", "patternProperties"))
    if isinstance(step, int | float) and not isinstance(step, bool):
        _check_steps(Decimal(str(step)))
    if isinstance(pattern, str) and _is_cut_off(pattern):
        raise ValueError(f"pattern ends {_CUT_OFF}")
    if isinstance(named, dict) and any(map(_is_cut_off, named)):
        raise ValueError(f"a name in patternProperties ends {_CUT_OFF}")
    return part


def _check_steps(step: Decimal) -> None:
    """0.25 is counted in as many steps as 25. Not in floats, which have no 1e310."""
    places = step.normalize().as_tuple().exponent
    if not isinstance(places, int) or abs(step.scaleb(-min(0, places))) > LARGEST_MULTIPLE:
        raise ValueError(f"multipleOf {step:.6g} is too complex; {LARGEST_MULTIPLE} is the largest")


def _read_grammar(constraint: Constraint) -> str:
    used = next((name for name in _DIRECTIVES if name in constraint.source), None)
    if used is not None:
        raise refusal(constraint, f"{used} is not offered")
    try:
        return grammar_from("grammar", constraint.source)
    except ValueError as error:
        raise refusal(constraint, _say(str(error))) from None


def _limits() -> LLParserLimits:
    """Within these, the worst grammars found take 15 ms a token; 300 optional properties fit."""
    return LLParserLimits(
        max_grammar_size=10_000,
        max_items_in_row=1_250,
        max_lexer_states=20_000,
        initial_lexer_fuel=300_000,
        verbose_errors=False,
    )


def _say(message: str) -> str:
    """The library's message without its excerpts, on one line."""
    for words, meaning in _MEANINGS.items():
        if words in message:
            return meaning
    lines = [line.strip() for line in message.splitlines() if not _EXCERPT.match(line)]
    text = " ".join(filter(None, lines))
    while (place := _PLACE.match(text)) is not None:
        text = text[place.end() :]
    return text[:_LONGEST_MESSAGE]
