"""ONNX Runtime as a backend: any ONNX graph, and decoders compiled to one; on the CPU.

The library itself is known to `graph.session` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from services.inference.backends.backend import BackendSettings, Device, Graph, GraphRunner
from services.inference.backends.kept_weights import KeptWeights
from services.inference.graph import session
from services.inference.graph.session import GraphSession
from services.inference.llm.compiled import compiled_decoder
from services.inference.llm.decoder import Decoder
from services.inference.llm.onnxruntime_slots import OnnxRuntimeSlots
from services.inference.llm.quantization import BLOCK, LARGE_BLOCK
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.weights import Precision

# A code, and its part of a block's scale and zero point.
_BLOCK_BYTES = 1 + (4 + 1) / BLOCK
_INT8 = KeptWeights("int8", weight_bytes=1 + (4 + 1) / LARGE_BLOCK, table_bytes=_BLOCK_BYTES)
# Four bits are kept in eight: the nearest form that it has a graph for.
_KEPT: Mapping[Precision, KeptWeights] = MappingProxyType(
    {
        "int8": _INT8,
        "int8-blocks": KeptWeights("int8-blocks", weight_bytes=_BLOCK_BYTES),
        "int4": _INT8,
        "fp32": KeptWeights("fp32", weight_bytes=4),
    }
)


class OnnxRuntimeBackend:
    """The CPU's backend: always there."""

    name = session.BACKEND

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings

    def check(self) -> Device:
        """It has no needs beyond the package that every node installs."""
        return Device.CPU

    def kept_weights(self, wanted: Precision, compute: str) -> KeptWeights:
        """As asked for, but for int4; activations and slots are float32 always."""
        del compute
        return _KEPT[wanted]

    def open_slots(self, decoder: Decoder, slots: int) -> SlotBackend:
        """Compiles the decoder, the first time on this machine, and loads it."""
        if decoder.precision == "int4":
            decoder = replace(decoder, precision="int8")
        return OnnxRuntimeSlots(
            compiled_decoder(decoder),
            decoder.config,
            slots=slots,
            context_tokens=decoder.context_tokens,
            settings=self._settings,
        )

    def open_graph(self, graph: Graph) -> GraphRunner:
        """Loads the graph as it is."""
        return GraphSession(graph.onnx(), self._settings)
