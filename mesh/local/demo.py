"""The demo models as a mesh serves them: published once, then left to the user.

A model that is deployed in any way is not touched: whoever moved it wants it so.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from mesh.local.demo_models import MINILM, SMOLLM2, DemoModels
from mesh.local.problem import LocalProblem
from mesh.local.publish import LocalFile, Publisher, local_file
from mesh.local.unrecorded import make_unrecorded
from mesh.manifest import Manifest

REPLICAS = 2
_ASK_INTERVAL_S = 0.2
_ASK_TIMEOUT_S = 30.0


class NoAnswer(LocalProblem):
    """A demo model does not answer through the edge."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model to publish, and a question that proves that it is served."""

    manifest: Manifest
    files: tuple[LocalFile, ...]
    path: str
    question: Any


def list_demos(models: DemoModels | None) -> list[DemoModel]:
    """The three demo models; the digests of their files were checked when they were fetched."""
    if models is None:
        return []
    ((gguf, gguf_digest),) = SMOLLM2.digests.items()
    minilm = models.minilm_folder
    prompt = {"role": "user", "content": "Name a colour."}
    tensor = {"name": "x", "datatype": "INT32", "shape": [1], "data": [7]}
    return [
        DemoModel(
            Manifest(name="smollm2", task="text-generation", format="gguf"),
            (local_file(gguf, models.smollm2_gguf, gguf_digest),),
            "/v1/chat/completions",
            {"model": "smollm2", "messages": [prompt], "max_tokens": 4, "temperature": 0},
        ),
        DemoModel(
            Manifest(name="minilm", task="text-embedding", format="sentence-transformers"),
            tuple(local_file(p, minilm / p, digest) for p, digest in MINILM.digests.items()),
            "/v1/embeddings",
            {"model": "minilm", "input": "ready"},
        ),
        DemoModel(
            Manifest(name="identity", task="tensor", format="identity"),
            (),
            "/v2/models/identity/infer",
            {"inputs": [tensor]},
        ),
    ]


async def publish_demo(publisher: Publisher, demo: DemoModel) -> bool:
    """Publishes and deploys the model unless it is deployed; says whether it did."""
    if await publisher.is_deployed(demo.manifest.name):
        return False
    version = await publisher.publish(demo.manifest, demo.files, "demo model")
    await publisher.deploy(demo.manifest.name, str(version.version), REPLICAS)
    return True


async def await_answer(edge: str, demo: DemoModel, timeout_s: float) -> str:
    """Asks until a real answer comes through the edge; returns the trace id of one.

    The attempts leave no traces: they would bury the user's own.

    Raises:
        NoAnswer: none came in time.
    """
    last = "no connection"
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(
                base_url=f"http://{edge}", timeout=_ASK_TIMEOUT_S, trust_env=False
            ) as client,
        ):
            while (problem := await _ask(client, demo, make_unrecorded())) is not None:
                last = problem
                await asyncio.sleep(_ASK_INTERVAL_S)
            answer = await client.post(demo.path, json=demo.question)
            return str(answer.headers.get("x-ringmesh-trace-id", ""))
    except TimeoutError:
        raise NoAnswer(
            f"{demo.manifest.name} does not answer after {timeout_s:.0f} s ({last}); see "
            f"`ringmesh logs` and `ringmesh status`."
        ) from None


async def _ask(client: httpx.AsyncClient, demo: DemoModel, headers: dict[str, str]) -> str | None:
    """What is wrong with the answer; None if nothing is."""
    try:
        answer = await client.post(demo.path, json=demo.question, headers=headers)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    return None if answer.is_success else f"status {answer.status_code}: {answer.text[:300]}"
