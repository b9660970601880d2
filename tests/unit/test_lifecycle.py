"""How a process ends, also one whose environment is wrong, and what it has for blocking work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import lifecycle
from mesh.lifecycle import run, settings_or_exit
from mesh.settings import ServiceSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RINGMESH_DRAIN_TIMEOUT_S", "soon"),
        ("RINGMESH_LISTEN", "here"),
        ("CONSUL_HTTP_ADDR", "http://consul/"),
    ],
)
def test_a_wrong_variable_is_named_as_the_user_wrote_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        settings_or_exit(ServiceSettings)
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"settings: {variable}: ")
    assert "Value error" not in complaint


async def fill_threads(count: int, release: threading.Event) -> list[asyncio.Future[bool]]:
    """Work that ends when it is released; returns when all that can begin has begun."""
    begun = threading.Semaphore(0)

    def work() -> bool:
        begun.release()
        return release.wait()

    loop = asyncio.get_running_loop()
    stuck = [loop.run_in_executor(None, work) for _ in range(count)]
    for _ in range(min(count, lifecycle.THREADS)):
        begun.acquire()
    return stuck


def end_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def many_wait() -> None:
    async def main(stop: asyncio.Event) -> None:
        release = threading.Event()
        stuck = await fill_threads(100, release)
        async with asyncio.timeout(10):
            await asyncio.to_thread(release.set)
            await asyncio.gather(*stuck)
            end_process()
            await stop.wait()

    run("test", main)


def all_threads_are_stuck() -> None:
    lifecycle.THREADS = 2
    release = threading.Event()

    async def main(stop: asyncio.Event) -> None:
        await fill_threads(5, release)
        end_process()
        async with asyncio.timeout(10):
            await stop.wait()
            assert await asyncio.to_thread(release.is_set) is False

    run("test", main)
    assert not release.is_set()
    release.set()


@pytest.mark.parametrize("main", [many_wait, all_threads_are_stuck])
def test_many_may_wait_in_threads_and_the_end_waits_for_none(main: Callable[[], None]) -> None:
    """In a process of its own: a library may have made signals deadly to the one of all tests.

    OpenVINO leaves the thread that opened it with an alternate signal stack that is gone.
    """
    code = f"from tests.unit.test_lifecycle import {main.__name__}; {main.__name__}()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
