"""What a node still knows of versions that it held: enough for late callers, and no more."""

from __future__ import annotations

import pytest

from mesh.errors import ModelNotFound, ModelNotReady
from services.inference.models.state import Change, ModelState
from services.inference.models.table import REMEMBERED, ModelTable


def come_and_go(table: ModelTable, version: int) -> None:
    key = ("a", version)
    table.place(key)
    table.change(key, Change.REMOVED, "finishing")
    table.change(key, Change.DRAINED, "no longer placed")


async def test_months_of_reloads_leave_a_bounded_memory() -> None:
    table = ModelTable()
    table.place(("kept", 1))
    for version in range(1, 10 * REMEMBERED):
        come_and_go(table, version)
    known = list(table.statuses())
    assert len(known) == REMEMBERED + 1
    assert known[0].model == "kept"
    with pytest.raises(ModelNotReady, match="UNLOADED: no longer placed"):
        table.find("a", str(10 * REMEMBERED - 1), None)
    with pytest.raises(ModelNotFound):
        table.find("a", "1", None)


async def test_the_last_to_go_are_those_that_stay_known() -> None:
    table = ModelTable()
    for version in range(1, REMEMBERED + 1):
        come_and_go(table, version)
    come_and_go(table, 1)  # came back, and is the last one now
    come_and_go(table, REMEMBERED + 1)
    known = {each.version for each in table.statuses()}
    assert known == {1, *range(3, REMEMBERED + 2)}
    assert {each.state for each in table.statuses()} == {ModelState.UNLOADED}
