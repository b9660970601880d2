"""ONNX Runtime as a backend: any ONNX graph, and decoders compiled to one; on the CPU.

The library itself is known to `graph.session` alone.
"""

from __future__ import annotations

from services.inference.backends.backend import BackendSettings, Device, Graph, GraphRunner
from services.inference.graph import session
from services.inference.graph.session import GraphSession
from services.inference.llm.compiled import compiled_decoder
from services.inference.llm.decoder import Decoder
from services.inference.llm.onnxruntime_slots import OnnxRuntimeSlots
from services.inference.llm.slot_backend import SlotBackend


class OnnxRuntimeBackend:
    """The CPU's backend: always there."""

    name = session.BACKEND

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings

    def check(self) -> Device:
        """It has no needs beyond the package that every node installs."""
        return Device.CPU

    def open_slots(self, decoder: Decoder, slots: int) -> SlotBackend:
        """Compiles the decoder, the first time on this machine, and loads it."""
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
