"""How a process ends, also one whose environment is wrong, and what it has for blocking work."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from mesh import lifecycle
from mesh.lifecycle import run, settings_or_exit
from mesh.settings import ServiceSettings


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


def test_many_may_wait_in_threads_and_there_is_one_for_the_next() -> None:
    async def main(stop: asyncio.Event) -> None:
        release = threading.Event()
        stuck = await fill_threads(100, release)
        async with asyncio.timeout(10):
            await asyncio.to_thread(release.set)
            await asyncio.gather(*stuck)
            end_process()
            await stop.wait()

    run("test", main)


def test_the_end_waits_for_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "THREADS", 2)
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
