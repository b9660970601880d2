"""Who computes is left alone on its core, where there is another."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mesh.cores import LOOKED_AT, TOLD_AGAIN, CoreWatch, keep_off

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone takes advice on cores")

ALL = frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else frozenset()


@contextmanager
def thread_called(name: str) -> Iterator[int]:
    """A thread that the system knows by this name; its number."""
    ready, done = threading.Event(), threading.Event()

    def wait() -> None:
        ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
        ready.set()
        done.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    try:
        assert thread.native_id is not None
        yield thread.native_id
    finally:
        done.set()
        thread.join()


def test_threads_of_the_name_run_elsewhere_and_all_others_as_before() -> None:
    core = min(ALL)
    with thread_called("ringmesh-wire") as named, thread_called("ringmesh-other") as other:
        keep_off("ringmesh-wire", core)
        assert os.sched_getaffinity(named) == ((ALL - {core}) or ALL)
        assert os.sched_getaffinity(other) == os.sched_getaffinity(0) == ALL
        keep_off("ringmesh-wire", max(ALL))
        assert os.sched_getaffinity(named) == ((ALL - {max(ALL)}) or ALL)


def test_the_only_core_is_shared() -> None:
    with thread_called("ringmesh-wire") as named:
        os.sched_setaffinity(0, {min(ALL)})
        try:
            keep_off("ringmesh-wire", min(ALL))
        finally:
            os.sched_setaffinity(0, ALL)
        assert os.sched_getaffinity(named) == ALL


def test_a_core_is_told_when_it_changes_and_now_and_then() -> None:
    told: list[int] = []
    watch = CoreWatch(told.append)
    try:
        for core in (min(ALL), max(ALL)):
            os.sched_setaffinity(0, {core})
            for _ in range(LOOKED_AT):
                watch.look()
        assert told == sorted({min(ALL), max(ALL)})
        told.clear()
        for _ in range(LOOKED_AT * TOLD_AGAIN):
            watch.look()
        assert told == [max(ALL)]
    finally:
        os.sched_setaffinity(0, ALL)
