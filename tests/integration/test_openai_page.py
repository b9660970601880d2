"""What docs/api.md says of OpenAI's fields, held against a gateway: each is sent as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.integration.gateway_rig import open_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
SECTION = PAGE.split("## OpenAI\n")[1].split("\n## ")[0]
REQUESTS: dict[str, dict[str, Any]] = {
    "chat": {"model": "smollm2", "messages": [{"role": "user", "content": "hello"}]},
    "completions": {"model": "smollm2", "prompt": "hello"},
    "embeddings": {"model": "minilm", "input": "hello"},
}
PATHS = {"chat": "/v1/chat/completions"}


def rows() -> list[list[str]]:
    table = [line for line in SECTION.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def refusals() -> list[tuple[str, str]]:
    """Route and field with its value, as JSON."""
    return [
        (route, field)
        for routes, examples, _ in rows()
        for route in routes.split(", ")
        for field in re.findall(r'`("[^`]+)`', examples)
    ]


def ignored() -> list[str]:
    return re.findall(r"`([a-z_]+)`", SECTION.split("is ignored, a misspelt one too")[1])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        open_rig() as rig,
        httpx.AsyncClient(base_url=f"http://{rig.http}") as opened,
    ):
        yield opened


async def post(http: httpx.AsyncClient, route: str, change: dict[str, Any]) -> httpx.Response:
    return await http.post(PATHS.get(route, f"/v1/{route}"), json=REQUESTS[route] | change)


async def test_the_page_has_examples_of_each_route() -> None:
    assert {route for route, _ in refusals()} == set(REQUESTS)
    assert len(ignored()) >= 4


@pytest.mark.parametrize(("route", "field"), refusals())
async def test_what_the_page_calls_refused_is_refused_by_name(
    http: httpx.AsyncClient, route: str, field: str
) -> None:
    change = json.loads(f"{{{field}}}")
    answer = await post(http, route, change)
    assert answer.status_code == 400, answer.text
    (name,) = change
    assert answer.json()["error"]["param"].startswith(name)


@pytest.mark.parametrize("name", ignored())
async def test_what_the_page_calls_ignored_is(http: httpx.AsyncClient, name: str) -> None:
    assert (await post(http, "chat", {name: {"any": "thing"}})).status_code == 200


@pytest.mark.parametrize(
    ("route", "change"),
    [
        ("chat", {"tools": [], "tool_choice": "auto", "functions": [], "function_call": "none"}),
        ("chat", {"modalities": ["text"], "logit_bias": {}}),
        ("chat", {"top_logprobs": 2, "logprobs": True}),
        ("completions", {"prompt": [1, 2]}),
        ("completions", {"n": 3, "best_of": 3}),
    ],
)
async def test_what_the_page_calls_passing_passes(
    http: httpx.AsyncClient, route: str, change: dict[str, Any]
) -> None:
    assert (await post(http, route, change)).status_code == 200
