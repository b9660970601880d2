"""A `GenerateRequest` as the model takes it. Pure; what fields may hold is the model's to say.

But how long lists may be is looked at here, before anything is done for each of their elements: a
message of the largest size holds tens of millions, and the event loop is everybody's.
"""

from __future__ import annotations

from mesh.errors import InvalidArgument
from mesh.pb import node_pb2
from services.inference.llm.chat_template import ChatMessage
from services.inference.llm.constraint import LARGEST_CHOICES, Constraint, ConstraintKind
from services.inference.llm.request import LARGEST_STOP_COUNT, GenerationRequest, SamplingRequest


def read_request(
    message: node_pb2.GenerateRequest,
    *,
    context_tokens: int,
    timeout_s: float | None,
    session: str | None,
) -> GenerationRequest:
    """What the message asks of a model with such a context.

    Raises:
        InvalidArgument: it has no prompt, or one that cannot fit.
    """
    _check_sizes(message, context_tokens)
    return GenerationRequest(
        prompt=_prompt(message),
        sampling=_sampling(message.sampling),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        ignore_eos=message.ignore_eos,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        resume_token_ids=tuple(message.resume_token_ids),
        timeout_s=timeout_s,
        session=session,
        priority=message.priority,
        constraint=_constraint(message),
    )


def _check_sizes(message: node_pb2.GenerateRequest, context_tokens: int) -> None:
    sizes = (
        ("prompt", "token ids", len(message.token_ids.ids), context_tokens),
        ("prompt", "messages", len(message.chat.messages), context_tokens),
        ("resume_token_ids", "token ids", len(message.resume_token_ids), context_tokens),
        ("stop", "stop strings", len(message.stop), LARGEST_STOP_COUNT),
        ("choice", "texts", len(message.choice.texts), LARGEST_CHOICES),
    )
    for field, what, size, most in sizes:
        if size > most:
            raise InvalidArgument(f"{field}: {size} {what} are too many; {most} fit", field=field)


def _constraint(message: node_pb2.GenerateRequest) -> Constraint | None:
    match message.WhichOneof("constraint"):
        case None:
            return None
        case "json_object":
            return Constraint(ConstraintKind.JSON_OBJECT) if message.json_object else None
        case "choice":
            return Constraint(ConstraintKind.CHOICE, tuple(message.choice.texts))
        case kind:
            return Constraint(ConstraintKind(kind), (getattr(message, kind),))


def _prompt(message: node_pb2.GenerateRequest) -> tuple[ChatMessage, ...] | str | tuple[int, ...]:
    match message.WhichOneof("prompt"):
        case "chat":
            return tuple(ChatMessage(m.role, m.content, m.name) for m in message.chat.messages)
        case "text":
            return message.text
        case "token_ids":
            return tuple(message.token_ids.ids)
        case _:
            raise InvalidArgument("the request has no prompt", field="prompt")


def _sampling(message: node_pb2.Sampling) -> SamplingRequest:
    given = {field.name: value for field, value in message.ListFields()}
    return SamplingRequest(**given)
