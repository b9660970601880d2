from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh.local.cache import find_cache_dir, obtain_once


def test_cache_dir_can_be_moved(tmp_path: Path) -> None:
    assert find_cache_dir({"RINGMESH_CACHE_DIR": str(tmp_path)}) == tmp_path
    assert find_cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/ringmesh")
    assert find_cache_dir({}) == Path("~/.cache/ringmesh").expanduser()


def test_an_entry_is_made_once_however_many_ask(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(into: Path) -> None:
        made.append(into)
        (into / "file").write_text("content")

    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda _: obtain_once(tmp_path / "entry", make), range(8)))
    assert len(made) == 1
    assert {(entry / "file").read_text() for entry in entries} == {"content"}


def test_a_failed_entry_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def fail(into: Path) -> None:
        (into / "half").write_text("a half")
        raise ValueError

    with pytest.raises(ValueError):
        obtain_once(tmp_path / "entry", fail)
    assert not (tmp_path / "entry").exists()
    assert obtain_once(tmp_path / "entry", lambda into: None).is_dir()
    assert not list((tmp_path / "entry").iterdir())
