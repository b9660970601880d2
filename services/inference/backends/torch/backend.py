"""The torch backend as the node sees it; imports the library only when asked whether it is there.

Without a GPU it still runs, in float32 and to the bit like itself in any company; it is then the
reference, and slower than ONNX Runtime.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from typing import Any

from services.inference.backends.backend import (
    BackendSettings,
    BackendUnavailable,
    Device,
    Graph,
    GraphRunner,
    Obstacle,
)
from services.inference.backends.kept_weights import KeptWeights
from services.inference.llm.decoder import Decoder
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.weights import Precision

NAME = "torch"
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
"""What the driver of a GPU leaves on Linux, and on Linux under Windows."""


class TorchBackend:
    """Models in torch, from weights."""

    name = NAME

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        # On a GPU, what one model does when it is opened can spoil another's opening.
        self._turn = threading.Lock()

    def check(self) -> Device:
        """On the first GPU if there is one, else on the CPU."""
        if importlib.util.find_spec("torch") is None:
            raise BackendUnavailable(NAME, Obstacle.MISSING_LIBRARY, "torch is not installed")
        # Loading it takes seconds and 200 MB: not just to hear that there is no GPU.
        if not any(map(os.path.exists, _DRIVERS)):
            return Device.CPU
        return Device.GPU if self._part("placement").has_gpu() else Device.CPU

    def kept_weights(self, wanted: Precision, compute: str) -> KeptWeights:
        """In what it computes in, whatever the manifest says of weights: it has no smaller form."""
        del wanted
        place = self._place(compute)
        kept: KeptWeights = self._part("slots").kept_weights(place)
        return kept

    def open_slots(self, decoder: Decoder, slots: int) -> SlotBackend:
        """Loads the weights onto the device; nothing is kept on disk."""
        place = self._place(decoder.compute)
        with self._turn:
            opened: SlotBackend = self._part("slots").open_slots(decoder, slots, place)
        return opened

    def open_graph(self, graph: Graph) -> GraphRunner:
        """Loads an encoder whose architecture is known; other graphs are for other backends."""
        if graph.encoder is None:
            text = f"{graph.model} is known by its ONNX graph only"
            raise BackendUnavailable(NAME, Obstacle.UNSUPPORTED_MODEL, text)
        # Encoders stay in float16's range, and it is seventy times as near as bfloat16.
        place = self._place(graph.compute, usual="fp16")
        with self._turn:
            opened: GraphRunner = self._part("bert").open_encoder(graph.encoder, place)
        return opened

    def _place(self, compute: str, usual: str = "bf16") -> Any:
        return self._part("placement").choose_place(compute, self._settings, usual)

    def _part(self, name: str) -> Any:
        try:
            return importlib.import_module(f"{__package__}.{name}")
        except (ImportError, OSError) as error:  # OSError: a library of CUDA that is not there
            raise BackendUnavailable(NAME, Obstacle.MISSING_LIBRARY, str(error)) from error
