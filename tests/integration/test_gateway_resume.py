"""Generations that break off on the node are taken up again, unless that would be endless."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.integration.gateway_node_servicer import WORDS, text_of
from tests.integration.gateway_rig import Rig, open_rig

BODY = {"model": "smollm2", "messages": [{"role": "user", "content": "count"}]}
PATH = "/v1/chat/completions"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway() -> AsyncIterator[Rig]:
    async with open_rig(resume_attempts=2) as opened:
        yield opened


def events_of(answer: httpx.Response) -> list[str]:
    return [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]


def text_in(events: list[str]) -> str:
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


@pytest.mark.parametrize("end_early", [False, True], ids=["reset", "ended without Finished"])
@pytest.mark.parametrize("deaths", [[5], [0], [3, 4]])
async def test_the_client_notices_nothing(gateway: Rig, http, deaths, end_early: bool) -> None:
    gateway.node.deaths, gateway.node.end_early = list(deaths), end_early
    options = {"stream": True, "stream_options": {"include_usage": True}}
    events = events_of(await http.post(PATH, json=BODY | options))
    assert events[-1] == "[DONE]"
    assert text_in(events) == text_of()
    assert json.loads(events[-2])["usage"]["completion_tokens"] == WORDS
    assert sum('"role"' in event for event in events) == 1
    first, *later = gateway.node.generations
    assert len(later) == len(deaths)
    assert not first.resume_token_ids
    assert list(later[-1].resume_token_ids) == list(range(sum(deaths)))
    for each in later:
        assert each.sampling.seed == first.sampling.seed
        assert each.request_id == first.request_id
        assert each.chat == first.chat
        assert each.model_version == "1"
    models = [each["x-ringmesh-model"] for each in gateway.node.metadata]
    assert models == ["smollm2", *["smollm2@1"] * len(later)]


async def test_whole_answers_resume_as_well(gateway: Rig, http) -> None:
    gateway.node.deaths = [7]
    answer = await http.post(PATH, json=BODY)
    assert answer.json()["choices"][0]["message"]["content"] == text_of()


async def test_too_many_deaths_are_an_error_in_the_stream_and_no_done(gateway: Rig, http) -> None:
    gateway.node.deaths = [2, 2, 2]
    events = events_of(await http.post(PATH, json=BODY | {"stream": True}))
    assert "[DONE]" not in events
    error = json.loads(events[-1])["error"]
    assert error["code"] == "unavailable"
    assert "smollm2" in error["message"]
    assert text_in(events[:-1]) == text_of(6)


async def test_a_node_that_always_dies_at_once_is_a_plain_503(gateway: Rig, http) -> None:
    gateway.node.deaths = [0, 0, 0]
    gateway.node.starts = False
    answer = await http.post(PATH, json=BODY | {"stream": True})
    assert answer.status_code == 503
    assert "smollm2" in answer.json()["error"]["message"]


async def test_a_refusal_is_not_repeated(gateway: Rig, http) -> None:
    answer = await http.post(PATH, json=BODY | {"temperature": 2})
    assert answer.status_code == 400
    assert len(gateway.node.generations) == 1
