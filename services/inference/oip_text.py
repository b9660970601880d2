"""Language models in the Open Inference Protocol: one text in, one text out.

`text_input` is continued as it stands; sampling is asked for by request parameters of the names and
meanings that `ringmesh.node.v1.Sampling` gives them. Token streams and conversations are the node's
own service, which offers more than this protocol can say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Tracer

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import InferParameter
from mesh.tensor import Tensor, encode_raw
from services.inference.generate_servicer import PhaseSpans, generation_timing
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.request import Delta, Finished, GenerationRequest, SamplingRequest
from services.inference.oip_bytes import read_texts, text_array
from services.inference.tensor_model import Signature, TensorSpec
from services.inference.timing import Timing

SIGNATURE = Signature(
    platform="onnxruntime_onnx",
    inputs=(TensorSpec("text_input", "BYTES", (1,)),),
    outputs=(TensorSpec("text_output", "BYTES", (1,)),),
)

_RESERVED = frozenset(
    {"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"}
)
"""Parameters that the protocol's extensions use for other ends; clients send them unasked."""

_LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """The text, and what it took."""

    output: Tensor
    facts: Mapping[str, int | str]
    timing: Timing


async def generate_text(
    model: LoadedLanguageModel, request: GenerationRequest, tracer: Tracer
) -> TextAnswer:
    """Continues the text, with a span for each phase."""
    parts: list[str] = []
    with contextlib.closing(PhaseSpans(tracer)) as spans:
        async with contextlib.aclosing(model.generate(request)) as events:
            async for event in events:
                spans.see(event)
                if isinstance(event, Delta):
                    parts.append(event.text)
                elif isinstance(event, Finished):
                    return _answer("".join(parts), event)
    raise AssertionError("a generation ends with Finished or an error")


def make_generation_request(
    text_input: Tensor, parameters: Mapping[str, InferParameter], timeout_s: float | None
) -> GenerationRequest:
    """The generation that a request asks for; `text_input` fits the signature."""
    given = {
        name: _read(name, parameter)
        for name, parameter in parameters.items()
        if name not in _RESERVED and not name.startswith("triton_")
    }
    stop = given.pop("stop", None)
    return GenerationRequest(
        prompt=read_texts(text_input)[0],
        max_tokens=given.pop("max_tokens", None),
        ignore_eos=given.pop("ignore_eos", False),
        stop=() if stop is None else (stop,),
        sampling=SamplingRequest(**given),
        timeout_s=timeout_s,
    )


def _answer(text: str, finished: Finished) -> TextAnswer:
    output = Tensor("text_output", "BYTES", (1,), encode_raw(text_array([text]), "BYTES"))
    facts: dict[str, int | str] = {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "finish_reason": finished.reason.value,
    }
    return TextAnswer(output, facts, generation_timing(finished))


def _read(name: str, parameter: InferParameter) -> Any:
    read = _READERS.get(name)
    if read is None:
        known = ", ".join(sorted(_READERS))
        raise _refuse(name, f"a language model has no such parameter; known are {known}")
    kind = parameter.WhichOneof("parameter_choice")
    return read(name, None if kind is None else getattr(parameter, kind))


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse(name, f"takes an integer, not {value!r}")
    return value


def _seed(name: str, value: Any) -> int:
    seed = _integer(name, value)
    if not 0 <= seed <= _LARGEST_SEED:
        raise _refuse(name, f"must lie between 0 and {_LARGEST_SEED}, not {seed}")
    return seed


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refuse(name, f"takes a number, not {value!r}")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(name, f"takes a string, not {value!r}")
    return value


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, f"takes true or false, not {value!r}")
    return value


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "max_tokens": _integer,
    "temperature": _number,
    "top_p": _number,
    "top_k": _integer,
    "min_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "seed": _seed,
    "stop": _text,
    "ignore_eos": _boolean,
}


def _refuse(name: str, problem: str) -> InvalidArgument:
    field = f"parameters.{name}"
    return InvalidArgument(f"{field}: {problem}", field=field)
