"""Templates as models carry them: what they may use, and what they may not do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mesh.errors import FailedPrecondition, InvalidArgument
from services.inference.llm.architecture import SamplingDefaults, TextRules
from services.inference.llm.chat_template import ChatMessage, ChatTemplate

RULES = TextRules(
    bos_token="<s>",
    eos_token="</s>",
    bos_id=1,
    add_bos=False,
    end_ids=frozenset({2}),
    chat_template=None,
    sampling=SamplingDefaults(),
)
HELLO = (ChatMessage("user", "Hello <b>"),)


def render(template: str | None, messages: tuple[ChatMessage, ...] = HELLO) -> str:
    rules = replace(RULES, chat_template=template)
    return ChatTemplate(rules, lambda: datetime(2026, 3, 9, tzinfo=UTC)).render(messages)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>Hello <b></s>"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "Hello <b>"}]'),
        ("{{ strftime_now('%d %B %Y') }}", "09 March 2026"),
        ("{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}", "x\n"),
        ("{% for m in [1, 2] %}{% break %}{% endfor %}ok", "ok"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{{ messages[0].name is defined }}", "False"),
    ],
)
def test_a_template_finds_what_its_author_expects(template: str, text: str) -> None:
    assert render(template) == text


def test_a_name_is_passed_on() -> None:
    assert render("{{ messages[0].name }}", (ChatMessage("user", "Hi", "ada"),)) == "ada"


def test_a_template_may_refuse() -> None:
    with pytest.raises(InvalidArgument, match="roles must alternate") as refused:
        render("{{ raise_exception('roles must alternate') }}")
    assert refused.value.field == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_stays_in_its_sandbox(template: str) -> None:
    with pytest.raises(InvalidArgument):
        render(template)


def test_a_model_without_template_takes_no_chat() -> None:
    with pytest.raises(FailedPrecondition, match="no chat template"):
        render(None)
