"""The axes that a manifest declares ragged, held against the graph: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mesh.errors import FailedPrecondition, InvalidArgument
from mesh.ragged_options import Pad, RaggedAxisOptions
from mesh.tensor import decode_raw, json_to_raw
from services.inference.backends.backend import GraphTensor
from services.inference.batching.ragged import RaggedAxis


def make_ragged(
    declared: Iterable[RaggedAxisOptions],
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
) -> tuple[RaggedAxis, ...]:
    """The axes as the batcher takes them.

    Raises:
        FailedPrecondition: the graph has no such input, output or axis, or has its length fixed; or
            a pad is no value of its input's datatype.
    """
    return tuple(_make(options, inputs, outputs) for options in declared)


def _make(
    options: RaggedAxisOptions, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
) -> RaggedAxis:
    _check("input", options.inputs, inputs)
    _check("output", options.outputs, outputs)
    for name in options.pads.keys() - options.inputs.keys():
        raise FailedPrecondition(f"batching.ragged: {name!r} has a pad, but no ragged axis")
    datatypes = {tensor.name: tensor.datatype for tensor in inputs}
    texts: dict[str, Pad] = {name: "" for name, kind in datatypes.items() if kind == "BYTES"}
    pads = {
        name: _stored(pad, datatypes[name], f"batching.ragged.pads.{name}")
        for name, pad in options.pads.items()
    }
    return RaggedAxis(
        inputs=options.inputs,
        outputs=options.outputs,
        pads={**texts, **pads},
        longest=options.longest,
    )


def _stored(pad: Pad, datatype: str, field: str) -> Pad:
    """A pad as arrays of the datatype hold it: of BF16, its bits."""
    try:
        raw = json_to_raw([_named(pad, datatype)], datatype, (1,), field=field)
    except InvalidArgument as error:
        raise FailedPrecondition(error.message) from error
    if datatype == "BYTES":
        return pad
    stored: Pad = decode_raw(datatype, (1,), raw, field=field).item()
    return stored


def _named(pad: Pad, datatype: str) -> Pad:
    """1, 1.0 and true are one number, by whatever name the datatype takes it."""
    if isinstance(pad, str) or pad != int(pad):
        return pad
    return bool(pad) if datatype == "BOOL" and pad in (0, 1) else int(pad)


def _check(kind: str, places: Mapping[str, int], tensors: Iterable[GraphTensor]) -> None:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    for name, place in places.items():
        if name not in shapes:
            raise FailedPrecondition(f"batching.ragged: there is no {kind} {name!r}")
        if shapes[name][place : place + 1] != (-1,):
            raise FailedPrecondition(
                f"batching.ragged: axis {place} of {kind} {name!r} is not one of any length"
            )
