"""Whole messages of every kind that a client may send, to be broken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mesh.pb import inference_pb2 as oip
from mesh.pb import node_pb2


def infer_requests() -> Sequence[oip.ModelInferRequest]:
    """Typed and raw contents, parameters, requested outputs; for every kind of model."""
    typed = oip.ModelInferRequest(model_name="identity", id="one")
    tensor = typed.inputs.add(name="x", datatype="INT32", shape=[2, 2])
    tensor.contents.int_contents.extend([1, -2, 3, -4])
    typed.parameters["sequence_id"].int64_param = 7
    typed.parameters["priority"].uint64_param = 0
    typed.parameters["timeout"].int64_param = 10_000_000
    raw = oip.ModelInferRequest(model_name="identity", model_version="1")
    raw.inputs.add(name="a", datatype="FP32", shape=[3])
    raw.inputs.add(name="b", datatype="BYTES", shape=[2])
    raw.raw_input_contents.extend(
        [np.arange(3, dtype=np.float32).tobytes(), b"\x02\0\0\0hi\x00\0\0\0"]
    )
    raw.outputs.add(name="a").parameters["classification"].int64_param = 2
    sentence = oip.ModelInferRequest(model_name="minilm")
    sentence.inputs.add(name="text", datatype="BYTES", shape=[2])
    sentence.inputs[0].contents.bytes_contents.extend([b"a sentence", "éß".encode()])
    prompt = oip.ModelInferRequest(model_name="smollm2")
    prompt.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    prompt.inputs[0].contents.bytes_contents.append(b"Once upon")
    for name, value in {"temperature": 0.5, "top_p": 0.9}.items():
        prompt.parameters[name].double_param = value
    prompt.parameters["max_tokens"].int64_param = 2
    prompt.parameters["stop"].string_param = "."
    return typed, raw, sentence, prompt


def generate_requests() -> Sequence[node_pb2.GenerateRequest]:
    """A chat, a text and tokens."""
    chat = node_pb2.GenerateRequest(model_name="smollm2", max_tokens=2, stop=["x"], logprobs=1)
    chat.chat.messages.add(role="user", content="Hi there")
    chat.sampling.temperature, chat.sampling.seed = 0.7, 5
    text = node_pb2.GenerateRequest(model_name="smollm2", text="Once", max_tokens=2)
    text.resume_token_ids.extend([28, 29])
    ids = node_pb2.GenerateRequest(model_name="smollm2", max_tokens=1)
    ids.token_ids.ids.extend([1, 2, 3])
    return chat, text, ids


def oip_calls() -> Mapping[str, Sequence[bytes]]:
    """Whole messages for each unary method of the Open Inference Protocol."""
    infer = [each.SerializeToString() for each in infer_requests()]
    load = oip.RepositoryModelLoadRequest(model_name="nothing")
    load.parameters["config"].string_param = "{}"
    log = oip.LogSettingsRequest()
    log.settings["log_info"].bool_param = True
    trace = oip.TraceSettingRequest(model_name="identity")
    trace.settings["trace_rate"].value.append("1")
    memory = oip.SystemSharedMemoryRegisterRequest(name="r", key="/none", offset=0, byte_size=8)
    others: dict[str, Any] = {
        "ModelReady": oip.ModelReadyRequest(name="identity", version="1"),
        "ModelMetadata": oip.ModelMetadataRequest(name="minilm"),
        "ModelConfig": oip.ModelConfigRequest(name="smollm2@1"),
        "ModelStatistics": oip.ModelStatisticsRequest(name="identity"),
        "RepositoryIndex": oip.RepositoryIndexRequest(ready=True),
        "RepositoryModelLoad": load,
        "RepositoryModelUnload": oip.RepositoryModelUnloadRequest(model_name="nothing"),
        "SystemSharedMemoryRegister": memory,
        "SystemSharedMemoryStatus": oip.SystemSharedMemoryStatusRequest(name="r"),
        "TraceSetting": trace,
        "LogSettings": log,
    }
    calls = {name: [message.SerializeToString()] for name, message in others.items()}
    return {"ModelInfer": infer, **calls}


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request with its body."""

    path: str
    body: bytes
    header_length: int | None = None


def http_calls() -> Sequence[HttpCall]:
    """Bodies for every route that reads one."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, 2]}
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a sentence"]}
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "INT16",
                    "shape": [2],
                    "parameters": {"binary_data_size": 4},
                }
            ],
            "outputs": [{"name": "x", "parameters": {"binary_data": True}}],
        }
    ).encode()
    wanted = [{"name": "x", "parameters": {"classification": 1}}]
    generate = {"text_input": "Once", "parameters": {"max_tokens": 2, "temperature": 0}}
    chat = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_completion_tokens": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "stop": ["."],
        "n": 1,
        "response_format": {"type": "text"},
    }
    bodies: Sequence[tuple[str, Any]] = (
        ("/v2/models/identity/infer", {"id": "1", "inputs": [tensor], "outputs": wanted}),
        (
            "/v2/models/identity/versions/1/infer",
            {"inputs": [tensor], "parameters": {"priority": 0}},
        ),
        ("/v2/models/minilm/infer", {"inputs": [text]}),
        ("/v2/models/smollm2/generate", generate),
        ("/v2/models/smollm2/generate_stream", generate),
        ("/v2/repository/index", {"ready": True}),
        ("/v2/repository/models/nothing/load", {"parameters": {"config": "{}"}}),
        ("/v2/repository/models/nothing/unload", {"parameters": {"unload_dependents": True}}),
        ("/v2/trace/setting", {"trace_rate": ["1"], "trace_level": ["OFF"]}),
        ("/v2/logging", {"log_info": True, "log_verbose_level": 0}),
        ("/v2/systemsharedmemory/region/r/register", {"key": "/none", "offset": 0, "byte_size": 8}),
        ("/v1/chat/completions", chat),
        (
            "/v1/completions",
            {"model": "smollm2", "prompt": ["a", "b"], "max_tokens": 2, "echo": True},
        ),
        ("/v1/embeddings", {"model": "minilm", "input": ["a", "b"], "encoding_format": "base64"}),
    )
    plain = [HttpCall(path, json.dumps(body).encode()) for path, body in bodies]
    binary = HttpCall("/v2/models/identity/infer", head + b"\x01\x02\x03\x04", len(head))
    return [*plain, binary]
