from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.inference.backends.tensorrt import engine_file
from services.inference.backends.tensorrt.engine_file import (
    EngineDamaged,
    EngineKey,
    read_engine,
    write_engine,
)
from services.inference.backends.tensorrt.gpu import Architecture

KEY = EngineKey(
    digest="d" * 64,
    kind="decoder-1",
    flavour="tensorrt_rtx",
    version="1.7.1",
    architecture=Architecture(8, 9),
    profile="slots=8 context=2048",
    precision="int8-fp16",
)
PLAN = b"plan\n" * 1000


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    (tmp_path / "plan").write_bytes(PLAN)
    write_engine(tmp_path / "engine", KEY, tmp_path / "plan")
    return tmp_path / "engine"


def test_an_engine_that_was_built_another_way_is_not_found(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = KEY.name
    monkeypatch.setattr(engine_file, "BUILD_VERSION", engine_file.BUILD_VERSION + 1)
    assert KEY.name != before
    with pytest.raises(EngineDamaged, match="built for"):
        read_engine(engine, KEY)


def test_a_plan_comes_back(engine: Path) -> None:
    assert read_engine(engine, KEY) == PLAN


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "e" * 64},
        {"kind": "decoder-2"},
        {"flavour": "tensorrt"},
        {"version": "1.7.2"},
        {"architecture": Architecture(9, 0)},
        {"profile": "slots=9 context=2048"},
        {"precision": "fp16"},
    ],
)
def test_an_engine_for_anything_else_is_not_taken(engine: Path, other: dict[str, object]) -> None:
    key = replace(KEY, **other)  # type: ignore[arg-type]
    assert key.name != KEY.name
    with pytest.raises(EngineDamaged, match="built for"):
        read_engine(engine, key)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_byte_can_be_changed_unseen(engine: Path, data: st.DataObject) -> None:
    content = engine.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    damaged = engine.with_name("damaged")
    damaged.write_bytes(changed)
    with pytest.raises(EngineDamaged):
        read_engine(damaged, KEY)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_engine_that_was_cut_short_is_not_taken(engine: Path, data: st.DataObject) -> None:
    content = engine.read_bytes()
    damaged = engine.with_name("damaged")
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(EngineDamaged):
        read_engine(damaged, KEY)
