"""The cache of compiled models: made once, kept while it is of use."""

from __future__ import annotations

import os
import time
from pathlib import Path

from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from services.inference.graph.compiled_folder import (
    KEPT_FOLDERS,
    SAFE_AGE_S,
    USE_FILE,
    compiled_folder,
    old_folders,
)

DAY_S = 24 * 3600.0


def build(place: Path) -> None:
    (place / "content").write_text("whole")


def make(cache_dir: Path, number: int, *, model: str = "m", days_ago: float = 0) -> Path:
    """A model's folder that was last used so many days ago."""
    place = compiled_folder(cache_dir, model, (number,), build)
    used_s = time.time() - days_ago * DAY_S
    os.utime(place / USE_FILE, (used_s, used_s))
    return place


@given(st.dictionaries(st.integers(0, 50).map(lambda n: Path(str(n))), st.floats(0, 10 * DAY_S)))
def test_only_old_folders_go_and_never_the_newest(used_s: dict[Path, float]) -> None:
    now_s = 10 * DAY_S
    old = old_folders(used_s, now_s)
    kept = set(used_s) - set(old)
    assert all(now_s - used_s[place] > SAFE_AGE_S for place in old)
    assert len(kept) >= min(KEPT_FOLDERS, len(used_s))
    assert all(used_s[one] >= used_s[other] for one in kept for other in old)


def test_a_new_folder_replaces_those_that_nobody_used_for_long(tmp_path: Path) -> None:
    old = [make(tmp_path, number, days_ago=20 - number) for number in range(6)]
    others = [make(tmp_path, number, model="other", days_ago=30) for number in range(10, 13)]
    new = make(tmp_path, 7)
    gone = len(old) + 1 - KEPT_FOLDERS
    left = {path for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {*old[gone:], *others, new}
    assert {(path / "content").read_text() for path in left} == {"whole"}


def test_a_use_keeps_a_folder(tmp_path: Path) -> None:
    old = [make(tmp_path, number, days_ago=20 - number) for number in range(KEPT_FOLDERS)]
    assert compiled_folder(tmp_path, "m", (0,), build) == old[0]
    make(tmp_path, 7)
    assert [place.exists() for place in old] == [True, False, True, True]


def test_what_was_used_today_stays(tmp_path: Path) -> None:
    places = [make(tmp_path, number, days_ago=0.5) for number in range(2 * KEPT_FOLDERS)]
    assert all(place.exists() for place in places)


def test_a_folder_that_another_node_has_locked_stays(tmp_path: Path) -> None:
    old = [make(tmp_path, number, days_ago=20 - number) for number in range(KEPT_FOLDERS)]
    oldest = old[0]
    with FileLock(oldest.with_suffix(".lock")):
        make(tmp_path, 7)
        assert oldest.exists()


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    first = make(tmp_path, 0, days_ago=90)
    for number in range(1, KEPT_FOLDERS + 1):
        make(tmp_path, number)
    assert not first.exists()
    assert make(tmp_path, 0) == first
    assert (first / "content").read_text() == "whole"
