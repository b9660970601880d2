"""Ringmesh: texts to a node's own gRPC, vectors back, asked by a client in another process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
from exchange import answer, running_node
from sentences import Array, Encoder, Sentence

from mesh.pb import inference_pb2, inference_pb2_grpc


class Node:
    """A channel to a node."""

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address)
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)

    def encode(self, batch: Sequence[Sentence]) -> Array:
        """In one request."""
        request = inference_pb2.ModelInferRequest(model_name="minilm")
        field = request.inputs.add(name="text", datatype="BYTES", shape=[len(batch)])
        field.contents.bytes_contents.extend(each.text.encode() for each in batch)
        response = self._stub.ModelInfer(request)
        vectors = np.frombuffer(response.raw_output_contents[0], np.float32)
        return vectors.reshape(len(batch), -1)


if __name__ == "__main__":
    model, work, *options = sys.argv[1:]
    with running_node(Path(__file__).with_name("minilm_node_process.py"), model, *options) as at:
        if not at.address:
            sys.exit("the node does not run it so")
        answer(
            lambda: Encoder(Path(work), Node(at.address).encode), f"ringmesh {version('ringmesh')}"
        )
