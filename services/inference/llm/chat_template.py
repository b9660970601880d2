"""Renders a conversation with the template that the model's own file carries.

Templates come with models, so they run in Jinja's sandbox. The environment is the one for which the
authors of templates write, that of transformers: whitespace trimmed around blocks, loop controls,
`raise_exception`, `strftime_now`, and a `tojson` that does not escape HTML.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mesh.errors import FailedPrecondition, InvalidArgument
from services.inference.llm.architecture import TextRules


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str
    name: str = ""

    def for_template(self) -> dict[str, str]:
        """The message as templates know it."""
        message = {"role": self.role, "content": self.content}
        return message | {"name": self.name} if self.name else message


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, rules: TextRules, now: Callable[[], datetime]) -> None:
        self._tokens = {"bos_token": rules.bos_token, "eos_token": rules.eos_token}
        self._template = None
        if rules.chat_template is not None:
            self._template = _environment(now).from_string(rules.chat_template)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt for the assistant's next turn."""
        if self._template is None:
            raise FailedPrecondition("the model has no chat template; send it plain text")
        try:
            return self._template.render(
                messages=[message.for_template() for message in messages],
                add_generation_prompt=True,
                **self._tokens,
            )
        except jinja2.TemplateError as error:
            text = f"the model's chat template refuses these messages: {error}"
            raise InvalidArgument(text, field="messages") from error


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
