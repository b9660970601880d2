"""A log line is one JSON object: event, fields, and the traceback where there is one."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from mesh.logs import configure_logs, get_logger


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs("info", service="gateway")
    yield stream
    logging.getLogger().handlers[:], logging.getLogger().level = before


def read(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_stands_with_its_fields(lines: io.StringIO) -> None:
    get_logger("mesh.x").info("ready versions changed", nodes=2, ready={"a"})
    (line,) = read(lines)
    assert (line["service"], line["component"], line["level"]) == ("gateway", "mesh.x", "info")
    assert (line["event"], line["nodes"], line["ready"]) == ("ready versions changed", 2, "{'a'}")


def test_an_exception_is_one_line_with_its_traceback(lines: io.StringIO) -> None:
    try:
        int("no")
    except ValueError:
        get_logger("services.x").exception("call failed")
    (line,) = read(lines)
    assert "ValueError" in line["traceback"]


def test_levels_are_those_of_the_process_and_libraries_only_warn(lines: io.StringIO) -> None:
    get_logger("mesh.x").debug("hidden")
    logging.getLogger("aiohttp").info("hidden")
    logging.getLogger("aiohttp").warning("100%s shown", "%")
    assert [line["event"] for line in read(lines)] == ["100% shown"]
