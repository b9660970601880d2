"""What a request of the Open Inference Protocol says about its own scheduling: pure.

`timeout` is how long the caller gives the request, in microseconds. Of `priority`, 1 is the highest
level; 0 stands for the model's default, and so does, as in Triton, a level that the model lacks.
What a model does with either is its own to say.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import InferParameter

US_PER_S = 1_000_000
USUAL_LEVEL = 2
"""The level of a generation that names none: level 1 goes before it, 3 and above after."""
LOWEST_LEVEL = 100
GENERATION_LEVELS = range(1, LOWEST_LEVEL + 1)
_INTEGERS = ("int64_param", "uint64_param")


def requested_timeout_s(
    parameters: Mapping[str, InferParameter], remaining_s: float | None
) -> float | None:
    """How long the caller waits: what is left of its deadline, or less if the request says so.

    Raises:
        InvalidArgument: it says so in no such number.
    """
    timeout_s = own_timeout_s(parameters)
    if timeout_s is None:
        return remaining_s
    return timeout_s if remaining_s is None else min(timeout_s, remaining_s)


def own_timeout_s(parameters: Mapping[str, InferParameter]) -> float | None:
    """The timeout that the request itself names; None, and 0, for none.

    Raises:
        InvalidArgument: it is no such number.
    """
    return _number("timeout", parameters) / US_PER_S or None


def requested_priority(parameters: Mapping[str, InferParameter], levels: range) -> int:
    """The one of the levels that the request names; 0 for the model's default.

    Raises:
        InvalidArgument: it is no such number.
    """
    level = _number("priority", parameters)
    return level if level in levels else 0


def generation_priority(parameters: Mapping[str, InferParameter]) -> int:
    """The same as the schedulers of language models have it: 0 the usual, the smaller the sooner.

    Raises:
        InvalidArgument: it is no such number.
    """
    level = requested_priority(parameters, GENERATION_LEVELS)
    return level - USUAL_LEVEL if level else 0


def _number(name: str, parameters: Mapping[str, InferParameter]) -> int:
    if name not in parameters:
        return 0
    parameter = parameters[name]
    choice = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, choice) if choice in _INTEGERS else -1
    if value < 0:
        field = f"parameters.{name}"
        raise InvalidArgument(f"{field}: takes an integer of 0 or more", field=field)
    return int(value)
