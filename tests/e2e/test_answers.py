"""The answers that come out of the mesh are the reference implementation's."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import tritonclient.grpc as triton

from tests.e2e.harness import Mesh

REFERENCE = Path(__file__).parent.parent / "reference"


def test_minilm_agrees_with_the_reference_on_fifty_sentences(mesh: Mesh) -> None:
    sentences = json.loads((REFERENCE / "minilm.json").read_text())["sentences"]
    expected = np.load(REFERENCE / "minilm.npz")["embeddings"]
    assert len(sentences) == 50
    tensor = triton.InferInput("text", [len(sentences)], "BYTES")
    tensor.set_data_from_numpy(np.array([s.encode() for s in sentences], dtype=np.object_))
    with triton.InferenceServerClient(mesh.edge) as client:
        got = client.infer("minilm", [tensor]).as_numpy("embedding")
    cosine = (got * expected).sum(axis=1) / (
        np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    )
    assert cosine.min() > 0.9999


def answer(http: httpx.Client, messages: list[dict], **options) -> str:
    body = {"model": "smollm2", "messages": messages, "temperature": 0, "max_tokens": 24} | options
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def test_twelve_chats_at_once_answer_as_each_alone(http: httpx.Client) -> None:
    prompts = [case["chat"] for case in references() if "chat" in case][:12]
    alone = [answer(http, messages) for messages in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda messages: answer(http, messages), prompts))
    assert together == alone


def test_seeded_sampling_is_the_same_alone_and_in_a_crowd(http: httpx.Client) -> None:
    prompts = [case["chat"] for case in references() if "chat" in case][:8]
    options = {"temperature": 0.9, "top_p": 0.95, "seed": 11}
    alone = [answer(http, messages, **options) for messages in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda messages: answer(http, messages, **options), prompts))
    assert together == alone


def references() -> list[dict]:
    return json.loads((REFERENCE / "smollm2.json").read_text())["generations"]
