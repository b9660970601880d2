"""What a file's beginning gives away: empty, cut off, of another kind."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mesh.model_file import HEAD_BYTES, find_fault

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134\n"
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(16)
GGUF = b"GGUF" + bytes(60)


def onnx_bytes(weights: int = 4) -> bytes:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [weights], [0.0] * weights)
    place = helper.make_tensor_value_info("y", TensorProto.FLOAT, [weights])
    node = helper.make_node("Identity", ["w"], ["y"])
    return helper.make_model(
        helper.make_graph([node], "g", [], [place], [weight])
    ).SerializeToString()


def fault_of(path: str, content: bytes) -> str | None:
    return find_fault(path, content[:HEAD_BYTES], len(content))


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("net.onnx", onnx_bytes()),
        ("deep/net.onnx", onnx_bytes(weights=100_000)),
        ("m.gguf", GGUF),
        ("model.safetensors", SAFETENSORS),
        ("README.md", b""),
        ("config.json", POINTER),
    ],
)
def test_what_is_well_is_let_through(path: str, content: bytes) -> None:
    assert fault_of(path, content) is None


@pytest.mark.parametrize(
    ("path", "content", "fault"),
    [
        ("net.onnx", b"", "is empty"),
        ("net.onnx", b'{"a": 1}\n', "is no ONNX file"),
        ("net.onnx", b"\x08\x08", "has no ONNX graph in it"),
        ("net.onnx", onnx_bytes()[:-1], "is cut off"),
        ("net.onnx", onnx_bytes(weights=100_000)[:-1000], "is cut off"),
        ("net.onnx", b"\xff" * 20, "is no ONNX file"),
        ("m.gguf", b"", "is empty"),
        ("m.gguf", onnx_bytes(), "is no GGUF file"),
        ("m.gguf", b"GGUF\x03", "is cut off"),
        ("model.safetensors", SAFETENSORS[:20], "is cut off"),
        ("model.safetensors", GGUF, "is no safetensors file"),
        ("model.safetensors", POINTER, "is a Git LFS pointer"),
        ("net.onnx", POINTER, "is a Git LFS pointer"),
    ],
)
def test_what_cannot_be_a_model_is_named(path: str, content: bytes, fault: str) -> None:
    assert (fault_of(path, content) or "").startswith(fault)


@given(st.sampled_from(["net.onnx", "m.gguf", "model.safetensors"]), st.binary(max_size=200))
def test_whatever_a_file_holds_there_is_a_verdict(path: str, content: bytes) -> None:
    fault = fault_of(path, content)
    assert fault is None or fault.startswith(("is ", "has "))


@given(st.integers(min_value=1))
def test_a_graph_that_is_cut_short_is_never_taken_for_whole(cut: int) -> None:
    whole = onnx_bytes()
    after_graph = whole.rindex(b"B")
    shortened = whole[: cut % len(whole)]
    assert (fault_of("net.onnx", shortened) is None) == (len(shortened) == after_graph)
