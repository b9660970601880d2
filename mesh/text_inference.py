"""Language models in the Open Inference Protocol: `text_input` in, `text_output` out. Pure.

The text is continued as it stands; sampling is asked for by request parameters of the names and
meanings that `ringmesh.node.v1.Sampling` gives them. Answers are one response with the whole text,
or a response per piece and then the final one, which says what the answer took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import InvalidArgument, Unimplemented
from mesh.infer_stream import mark_final
from mesh.pb.inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from mesh.request_parameters import EMPTY_FINAL, RESERVED, RESERVED_PREFIX, check_parameters
from mesh.scheduling_parameters import generation_priority
from mesh.tensor import Tensor, validate_request
from mesh.tensor.raw import LENGTH_PREFIX, refuse, show_shape

TEXT_INPUT = "text_input"
TEXT_OUTPUT = "text_output"

DEFAULT_MAX_TOKENS = 16
"""Of a text that is continued as it stands: it has no natural end, and would go on to that of the
context. OpenAI's completions, vLLM and Triton with vLLM have the same default."""

WITHOUT_PROMPT = "exclude_input_in_output"
"""What clients ask of Triton's language models, and what is so here anyway."""

_INT32 = range(-(2**31), 2**31)
_UINT64 = range(2**64)

Facts = Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What a caller asks of a language model; `sampling` holds what it has set.

    `form` is the form that the text must have, by its kind; there is one at most.
    """

    prompt: str
    max_tokens: int = DEFAULT_MAX_TOKENS
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, int | float] = field(default_factory=dict)
    priority: int = 0
    form: Mapping[str, str | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextResponses:
    """Makes the responses to one request."""

    request: ModelInferRequest
    model: str
    version: str

    def whole(self, text: str, facts: Facts) -> ModelInferResponse:
        """The one response with all of the text."""
        return self._with_facts(self._with_text(text), facts)

    def piece(self, text: str) -> ModelInferResponse:
        """A response with the next piece of the text."""
        return mark_final(self._with_text(text), is_final=False)

    def final(self, facts: Facts) -> ModelInferResponse:
        """The last response: without an output for a client that wants it empty."""
        empty = self.request.parameters.get(EMPTY_FINAL)
        is_empty = empty is not None and empty.bool_param
        response = self._plain() if is_empty else self._with_text("")
        return mark_final(self._with_facts(response, facts))

    def _plain(self) -> ModelInferResponse:
        return ModelInferResponse(
            model_name=self.model, model_version=self.version, id=self.request.id
        )

    def _with_text(self, text: str) -> ModelInferResponse:
        response, data = self._plain(), text.encode()
        response.outputs.add(name=TEXT_OUTPUT, datatype="BYTES", shape=[1])
        response.raw_output_contents.append(LENGTH_PREFIX.pack(len(data)) + data)
        return response

    def _with_facts(self, response: ModelInferResponse, facts: Facts) -> ModelInferResponse:
        for name, value in facts.items():
            if isinstance(value, str):
                response.parameters[name].string_param = value
            else:
                response.parameters[name].int64_param = value
        return response


def read_text_request(request: ModelInferRequest) -> TextRequest:
    """What the message asks for.

    Raises:
        InvalidArgument: it asks for something else, or for it in a wrong way; the field is named.
    """
    check_parameters(request.parameters)
    prompt = _prompt(validate_request(request))
    for output in request.outputs:
        where = f"outputs.{output.name}"
        if output.name != TEXT_OUTPUT:
            raise refuse(where, f"there is no such output; known is {TEXT_OUTPUT}")
        if "classification" in output.parameters:
            raise refuse(f"{where}.parameters.classification", "needs numbers, and this is text")
        if "shared_memory_region" in output.parameters:
            raise Unimplemented(f"{where}: shared_memory_region is not offered")
    given = {
        name: _read(name, parameter)
        for name, parameter in request.parameters.items()
        if name not in RESERVED and not name.startswith(RESERVED_PREFIX)
    }
    given.pop(WITHOUT_PROMPT, None)
    stop = given.pop("stop", None)
    form = {kind: given.pop(kind) for kind in _FORMS if kind in given}
    if len(form) > 1:
        first, second = list(form)[:2]
        raise _wrong(second, f"{first} gives the text a form already; send one")
    return TextRequest(
        prompt=prompt,
        max_tokens=given.pop("max_tokens", DEFAULT_MAX_TOKENS),
        ignore_eos=given.pop("ignore_eos", False),
        stop=() if stop is None else (stop,),
        sampling=given,
        priority=generation_priority(request.parameters),
        form=form,
    )


def read_text_output(response: ModelInferResponse) -> str:
    """The text of a response made here; nothing for one without an output."""
    return "".join(raw[LENGTH_PREFIX.size :].decode() for raw in response.raw_output_contents)


def _prompt(tensors: tuple[Tensor, ...]) -> str:
    for tensor in tensors:
        where = f"inputs.{tensor.name}"
        if tensor.name != TEXT_INPUT:
            raise refuse(where, f"a language model takes no such input; known is {TEXT_INPUT}")
        if (tensor.datatype, tensor.shape) != ("BYTES", (1,)):
            got = f"{tensor.datatype} of shape {show_shape(tensor.shape)}"
            raise refuse(where, f"must be BYTES of shape [1], not {got}")
    if not tensors:
        needs = "missing; a language model needs it, BYTES of shape [1]"
        raise refuse(f"inputs.{TEXT_INPUT}", needs)
    try:
        return tensors[0].raw[LENGTH_PREFIX.size :].decode()
    except UnicodeDecodeError as error:
        problem = f"element 0 is not UTF-8 at byte {error.start}"
        raise refuse(f"inputs.{TEXT_INPUT}", problem) from None


def _read(name: str, parameter: InferParameter) -> Any:
    read = _READERS.get(name)
    if read is None:
        known = ", ".join(sorted(_READERS))
        raise _wrong(name, f"a language model has no such parameter; known are {known}")
    kind = parameter.WhichOneof("parameter_choice")
    return read(name, None if kind is None else getattr(parameter, kind))


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, f"takes an integer, not {value!r}")
    return value


def _count(name: str, value: Any) -> int:
    count = _integer(name, value)
    if count not in _INT32:
        raise _wrong(name, f"{count} is out of range")
    return count


def _seed(name: str, value: Any) -> int:
    seed = _integer(name, value)
    if seed not in _UINT64:
        raise _wrong(name, f"must lie between 0 and {_UINT64[-1]}, not {seed}")
    return seed


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, f"takes a number, not {value!r}")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, f"takes a string, not {value!r}")
    return value


def _only_true(name: str, value: Any) -> bool:
    if not _boolean(name, value):
        raise _wrong(name, f"an answer never begins with its {TEXT_INPUT}; say true, or nothing")
    return True


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, f"takes true or false, not {value!r}")
    return value


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "max_tokens": _count,
    "temperature": _number,
    "top_p": _number,
    "top_k": _count,
    "min_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "seed": _seed,
    "stop": _text,
    "ignore_eos": _boolean,
    "json_schema": _text,
    "json_object": _boolean,
    "regex": _text,
    "grammar": _text,
    WITHOUT_PROMPT: _only_true,
}
_FORMS = ("json_schema", "json_object", "regex", "grammar")


def _wrong(name: str, problem: str) -> InvalidArgument:
    return refuse(f"parameters.{name}", problem)
