"""OpenAI's requests, as far as this mesh serves them, checked before they cost anything. Pure.

A field that is not known is ignored, as OpenAI-compatible servers do; a field that would change the
answer and is not honoured is refused by name, because ignoring it would be a wrong answer.

Every list fails at its first wrong element: only that one is named, and to note each of a million
would hold the event loop up for seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)

from mesh.pb.node_pb2 import Sampling
from services.gateway.openai.constraint import ConstraintFields

MAX_CHOICES = 16
MAX_GENERATIONS = 64
"""All choices of all prompts: as many as wait for a model's slots by default."""
MAX_STOPS = 16
MAX_PROMPT_TOKENS = 2**20
"""No model has such a context; beyond it the tokens themselves are not looked at."""
MAX_MESSAGES = 2**16
"""Each takes several tokens of a context."""
MAX_PRIORITY = 100
MAX_INPUTS = 2048
MAX_TOP_LOGPROBS = 20
INT32_MAX = 2**31 - 1
UINT64_MASK = 2**64 - 1


def _as_texts(value: Any) -> Any:
    """One stop string is a list of one."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _as_prompts(value: Any) -> Any:
    """A prompt is a text or a list of token ids; several come as a list of either."""
    match value:
        case str():
            return [value]
        case [int(), *_]:
            return [value]
        case _:
            return value


def _prompt_form(value: Any) -> str:
    return "a text" if isinstance(value, str) else "token ids"


def _as_inputs(value: Any) -> Any:
    is_tokens = isinstance(value, list) and any(isinstance(each, (int, list)) for each in value)
    if is_tokens:
        raise ValueError("token ids are not taken here; send text")
    return [value] if isinstance(value, str) else value


def _as_text(content: Any, message: ValidationInfo) -> Any:
    """A message's content may be a list of parts, of which we take text."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    kinds = ("text", "refusal") if message.data.get("role") == "assistant" else ("text",)
    return "\n".join(_part_text(part, kinds) for part in content)


def _part_text(part: Any, kinds: tuple[str, ...]) -> str:
    """A part's text stands in a field of the name of its type."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in kinds:
        raise ValueError(
            f"a part of type {str(kind)[:40]!r} is not taken; only {' and '.join(kinds)} is"
        )
    match part.get(kind):
        case str() as text:
            return text
        case _:
            raise ValueError(f"a {kind} part needs its {kind}")


def _as_conversation(value: Any) -> Any:
    """A conversation is named by its id, or by an object with one."""
    return value.get("id") if isinstance(value, dict) else value


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


Texts = Annotated[
    list[str], Field(max_length=MAX_STOPS, fail_fast=True), BeforeValidator(_as_texts)
]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
TokenIds = Annotated[
    list[TokenId], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True)
]
Prompt = Annotated[
    Annotated[str, Tag("a text")] | Annotated[TokenIds, Tag("token ids")],
    Discriminator(_prompt_form),
]
MaxTokens = Annotated[int, Field(ge=1, le=INT32_MAX)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    model: str
    user: str | None = None
    conversation: Annotated[str | None, BeforeValidator(_as_conversation)] = None
    prompt_cache_key: str | None = None

    @property
    def conversation_key(self) -> str | None:
        """What the caller says belongs together."""
        return self.conversation or self.prompt_cache_key


class StreamOptions(BaseModel):
    """What a stream is to carry beside the text."""

    include_usage: bool | None = None


class _GenerationRequest(ConstraintFields, _Request):
    """What chat and plain completions have in common; unknown fields are kept to be looked at."""

    model_config = ConfigDict(extra="allow")

    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=UINT64_MASK)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Texts = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    logit_bias: dict[str, Any] | None = None

    @property
    def choices(self) -> int:
        """How many answers are wanted for each prompt."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what was used."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    def sampling(self) -> Sampling:
        """How the node is to choose tokens."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=None if self.seed is None else self.seed & UINT64_MASK,
        )


class Message(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_as_text)]
    name: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None

    @model_validator(mode="before")
    @classmethod
    def _let_the_assistant_say_nothing(cls, message: Any) -> Any:
        """Its content may be missing; that of others may not."""
        if isinstance(message, dict) and message.get("role") == "assistant":
            return {"content": None} | message
        return message

    @property
    def node_role(self) -> str:
        """`developer` is what newer clients call the system's role."""
        return "system" if self.role == "developer" else self.role


class ChatRequest(_GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    function_call: Any = None
    modalities: list[Any] | None = None
    audio: Any = None

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens` is the newer name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def node_logprobs(self) -> int | None:
        """Alternatives per token, None where no log probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_GenerationRequest):
    """POST /v1/completions."""

    prompt: Annotated[
        list[Prompt],
        Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True),
        BeforeValidator(_as_prompts),
    ]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingRequest(_Request):
    """POST /v1/embeddings."""

    input: Annotated[
        list[Annotated[str, AfterValidator(_not_empty)]],
        Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True),
        BeforeValidator(_as_inputs),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
