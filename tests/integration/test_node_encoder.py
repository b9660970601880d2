"""A real sentence encoder behind a node's real server: right answers, the same in any company."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton

from mesh.errors import RingmeshError, error_from_rpc
from mesh.manifest import BatchingOptions, Manifest
from mesh.pb import inference_pb2 as oip
from services.inference.encoders.bert_encoder import padded_width
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.encoders.text_model import LONGEST_TEXT_BYTES, TextModel
from tests.integration.node_rig import NodeRig, open_node, spec_of
from tests.integration.tensor_place import make_place

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

REFERENCE = Path(__file__).parents[1] / "reference"
SENTENCES: list[str] = json.loads((REFERENCE / "minilm.json").read_text())["sentences"]


async def open_minilm(folder: Path, cache_dir: Path, **options: Any) -> TextModel:
    manifest = Manifest(
        name="minilm",
        task="text-embedding",
        format="sentence-transformers",
        batching=BatchingOptions(**options),
    )
    return await open_sentence_encoder(folder, spec_of(manifest), make_place(cache_dir))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(demo_models: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeRig]:
    cache_dir = tmp_path_factory.mktemp("compiled")
    model = await open_minilm(demo_models.minilm_folder, cache_dir, max_queue_delay_ms=5)
    await model.warm_up()
    async with open_node([model]) as opened:
        yield opened


def request(*texts: str | bytes) -> oip.ModelInferRequest:
    message = oip.ModelInferRequest(model_name="minilm")
    tensor = message.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    items = (text.encode() if isinstance(text, str) else text for text in texts)
    tensor.contents.bytes_contents.extend(items)
    return message


async def embed(rig: NodeRig, *texts: str) -> np.ndarray:
    return vectors(await rig.stub.ModelInfer(request(*texts)))


def vectors(answer: oip.ModelInferResponse) -> np.ndarray:
    (output,) = answer.outputs
    assert (output.name, output.datatype) == ("embedding", "FP32")
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(tuple(output.shape))


async def refusal(rig: NodeRig, message: oip.ModelInferRequest) -> RingmeshError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rig.stub.ModelInfer(message)
    return error_from_rpc(failed.value)


async def test_embeddings_are_the_reference_implementations(rig: NodeRig) -> None:
    expected = np.load(REFERENCE / "minilm.npz")["embeddings"]
    got = await embed(rig, *SENTENCES)
    cosine = (got * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.9999
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


async def test_an_unmodified_triton_client_embeds(rig: NodeRig) -> None:
    tensor = triton.InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([b"one", b"two"], dtype=np.object_))
    async with triton.InferenceServerClient(rig.address) as client:
        metadata = await client.get_model_metadata("minilm")
        config = (await client.get_model_config("minilm")).config
        result = await client.infer("minilm", [tensor], request_id="r-1")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [
        ("embedding", "FP32", [-1, 384])
    ]
    assert config.input[0].name == "text"
    assert (config.max_batch_size, list(config.output[0].dims)) == (32, [384])
    assert config.dynamic_batching.max_queue_delay_microseconds == 5000
    assert result.get_response().id == "r-1"
    assert result.as_numpy("embedding").shape == (2, 384)


async def test_thirty_two_callers_at_once_get_what_each_gets_alone(rig: NodeRig) -> None:
    callers = [SENTENCES[i : i + 1 + i % 3] for i in range(32)]
    alone = [await embed(rig, *texts) for texts in callers]
    rig.exporter.clear()
    together = await asyncio.gather(*(embed(rig, *texts) for texts in callers))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)
    sizes = {
        span.attributes["ringmesh.batch_size"]
        for span in rig.exporter.get_finished_spans()
        if span.name == "compute"
    }
    assert max(sizes) > 3


async def test_statistics_of_shared_batches_add_up(rig: NodeRig) -> None:
    async def counted() -> oip.ModelStatistics:
        asked = oip.ModelStatisticsRequest(name="minilm")
        return (await rig.stub.ModelStatistics(asked)).model_stats[0]

    def rows(counts: oip.ModelStatistics) -> int:
        return sum(b.batch_size * b.compute_infer.count for b in counts.batch_stats)

    before = await counted()
    callers = [SENTENCES[i : i + 1 + i % 3] for i in range(32)]
    await asyncio.gather(*(embed(rig, *texts) for texts in callers))
    await refusal(rig, request(b"\xff"))
    after = await counted()
    texts = sum(map(len, callers))
    assert after.inference_count - before.inference_count == texts
    assert rows(after) - rows(before) == texts
    assert 0 < after.execution_count - before.execution_count < 32
    stats = after.inference_stats
    assert stats.success.count - before.inference_stats.success.count == 32
    assert stats.fail.count - before.inference_stats.fail.count == 1
    parts = (stats.compute_input, stats.queue, stats.compute_infer, stats.compute_output)
    assert {part.count for part in parts} == {stats.success.count}
    assert sum(part.ns for part in parts) == stats.success.ns
    assert all(part.ns for part in parts)


async def test_a_caller_that_leaves_or_fails_disturbs_nobody(rig: NodeRig) -> None:
    expected = await embed(rig, SENTENCES[0])
    leaving = rig.stub.ModelInfer(request(*SENTENCES))
    staying = [asyncio.ensure_future(embed(rig, SENTENCES[0])) for _ in range(4)]
    bad = asyncio.ensure_future(refusal(rig, request("good", b"\xff")))
    leaving.cancel()
    for answer in await asyncio.gather(*staying):
        assert np.array_equal(answer, expected)
    assert (await bad).field == "inputs.text"


async def test_a_text_beyond_the_models_length_counts_up_to_it(rig: NodeRig) -> None:
    long = " ".join(["harbour"] * 2000)
    answer = await rig.stub.ModelInfer(request(long, "harbour"))
    assert answer.parameters["prompt_tokens"].int64_param == 256 + 3
    shorter = " ".join(["harbour"] * 254)
    assert np.array_equal(vectors(answer)[:1], await embed(rig, shorter))


async def test_no_rows_are_no_vectors(rig: NodeRig) -> None:
    answer = await rig.stub.ModelInfer(request())
    assert vectors(answer).shape == (0, 384)
    assert answer.parameters["prompt_tokens"].int64_param == 0


async def test_an_empty_text_has_a_vector(rig: NodeRig) -> None:
    assert np.isfinite(await embed(rig, "")).all()


def bad_requests() -> dict[str, tuple[oip.ModelInferRequest, str, str]]:
    wrong_type = oip.ModelInferRequest(model_name="minilm")
    wrong_type.inputs.add(name="text", datatype="FP32", shape=[1])
    wrong_type.raw_input_contents.append(bytes(4))
    wrong_shape = request("x")
    wrong_shape.inputs[0].shape[:] = [1, 1]
    surplus = request("x")
    surplus.inputs.add(name="extra", datatype="BYTES", shape=[0])
    unknown_output = request("x")
    unknown_output.outputs.add(name="logits")
    return {
        "a wrong datatype": (wrong_type, "inputs.text", "BYTES"),
        "a wrong shape": (wrong_shape, "inputs.text", "[-1]"),
        "a missing input": (oip.ModelInferRequest(model_name="minilm"), "inputs.text", "missing"),
        "a surplus input": (surplus, "inputs.extra", "text"),
        "an unknown output": (unknown_output, "outputs.logits", "embedding"),
        "a text that is none": (request("good", b"\xff\xfe"), "inputs.text", "element 1"),
        "an endless text": (request("x" * (LONGEST_TEXT_BYTES + 1)), "inputs.text", "element 0"),
        "too many rows": (request(*["x"] * 257), "inputs", "257"),
    }


@pytest.mark.parametrize("case", bad_requests())
async def test_bad_requests_name_the_field(rig: NodeRig, case: str) -> None:
    asked, field, named = bad_requests()[case]
    error = await refusal(rig, asked)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.field == field
    assert named in error.message


async def test_queue_and_compute_are_spans_of_the_call(rig: NodeRig) -> None:
    rig.exporter.clear()
    await embed(rig, "a", "b")
    spans = await rig.spans("ModelInfer")
    for name in ("queue", "compute"):
        assert spans[name].parent.span_id == spans["ModelInfer"].context.span_id
        assert spans[name].attributes["ringmesh.batch_size"] == 2
    assert spans["queue"].end_time == spans["compute"].start_time


async def test_a_second_node_finds_the_graph_compiled(demo_models: Any, tmp_path: Path) -> None:
    made: set[tuple[Path, int]] = set()
    for _ in range(2):
        await (await open_minilm(demo_models.minilm_folder, tmp_path)).close()
        made |= compiled_graphs(tmp_path)
    assert len(made) == 1


def compiled_graphs(cache_dir: Path) -> set[tuple[Path, int]]:
    return {(path, path.stat().st_mtime_ns) for path in cache_dir.glob("*/*.onnx")}


async def test_company_changes_no_bit_of_a_vector(demo_models: Any, tmp_path: Path) -> None:
    model = await open_minilm(demo_models.minilm_folder, tmp_path)
    encoder = model._encoder
    for row in encoder.tokenize(SENTENCES[:20]):
        width = padded_width(len(row), 256)
        (alone,) = encoder.encode([row], width)
        for company in (2, 7):
            for vector in encoder.encode([row] * company, width):
                assert np.array_equal(alone, vector)
        assert np.allclose(alone, encoder.encode([row], 256)[0], atol=1e-6)
    await model.close()
