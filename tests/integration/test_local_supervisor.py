"""The supervisor with real processes that are not Ringmesh's."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.local.child import Child, Stage
from mesh.local.event import CrashLooping, Ended, Event, Ready, Started
from mesh.local.restart import RestartPolicy
from mesh.local.supervisor import StartFailed, supervise

QUICK = RestartPolicy(first_s=0.01, max_s=0.05, steady_after_s=60.0, loop_after=3)

# Says in a file that it runs, and in another that it was asked to stop.
POLITE = """
import pathlib, signal, sys
here = pathlib.Path(sys.argv[1])
def stop(*_):
    here.with_suffix('.stopped').touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
here.with_suffix('.running').touch()
while True:
    signal.pause()
"""
STUBBORN = POLITE.replace("sys.exit(0)", "pass")


async def await_condition(holds: Callable[[], object], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.01)


def make_child(folder: Path, name: str, script: str = POLITE, **fields: object) -> Child:
    marker = folder / name

    async def probe() -> None:
        await await_condition(marker.with_suffix(".running").exists)

    settings: dict[str, object] = {"stage": Stage.NODE, "stop_timeout_s": 5.0, "after": ()}
    argv = (sys.executable, "-S", "-c", script, str(marker))
    return Child(name, argv, dict(os.environ), probe=probe, **{**settings, **fields})  # type: ignore[arg-type]


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_children_start_after_what_they_need_and_stop_front_first(tmp_path: Path) -> None:
    events: list[Event] = []
    children = [
        make_child(tmp_path, "front", stage=Stage.FRONT, after=("back",)),
        make_child(tmp_path, "back", stage=Stage.DISCOVERY),
    ]
    async with supervise(children, tmp_path, events.append) as supervision:
        await supervision.wait_ready(timeout_s=10)
        pids = supervision.pids
        assert all(is_running(pid) for pid in pids.values())
    names = [event.name for event in events if isinstance(event, Started | Ready)]
    assert names == ["back", "back", "front", "front"]
    assert not any(is_running(pid) for pid in pids.values())
    stopped = [(tmp_path / f"{name}.stopped").stat().st_mtime_ns for name in ("front", "back")]
    assert stopped == sorted(stopped)


async def test_a_child_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    child = make_child(tmp_path, "stubborn", STUBBORN, stop_timeout_s=0.2)
    async with supervise([child], tmp_path, lambda _: None) as supervision:
        await supervision.wait_ready(timeout_s=10)
        pid = supervision.pids["stubborn"]
    assert (tmp_path / "stubborn.stopped").exists()
    assert not is_running(pid)


async def test_a_child_of_a_child_does_not_outlive_the_mesh(tmp_path: Path) -> None:
    script = "import subprocess; subprocess.Popen(['sleep', '600']);" + POLITE
    child = make_child(tmp_path, "parent", script)
    async with supervise([child], tmp_path, lambda _: None) as supervision:
        await supervision.wait_ready(timeout_s=10)
        group = supervision.pids["parent"]
    await await_condition(lambda: not group_exists(group))


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_crashed_child_comes_back(tmp_path: Path) -> None:
    events: list[Event] = []
    child = make_child(tmp_path, "node")
    async with supervise([child], tmp_path, events.append, QUICK) as supervision:
        await supervision.wait_ready(timeout_s=10)
        first = supervision.pids["node"]
        os.kill(first, signal.SIGKILL)
        await await_condition(lambda: sum(isinstance(event, Ready) for event in events) == 2)
        assert supervision.pids["node"] != first
    (ended,) = [event for event in events if isinstance(event, Ended)]
    assert ended.how == "killed by SIGKILL"


async def test_a_crash_loop_after_readiness_is_said_once_with_the_log(tmp_path: Path) -> None:
    events: list[Event] = []
    marker = tmp_path / "node.running"
    script = f"import pathlib, time; pathlib.Path({str(marker)!r}).touch(); time.sleep(0.3); "
    child = make_child(tmp_path, "node", script + "raise SystemExit('out of luck')")
    async with supervise([child], tmp_path, events.append, QUICK) as supervision:
        await supervision.wait_ready(timeout_s=10)
        await await_condition(lambda: sum(isinstance(event, Ended) for event in events) == 5)
    (loop,) = [event for event in events if isinstance(event, CrashLooping)]
    assert "out of luck" in loop.last_lines


async def test_a_child_that_never_comes_up_fails_the_start(tmp_path: Path) -> None:
    child = make_child(tmp_path, "node", "raise SystemExit('no such model')")
    with pytest.raises(StartFailed, match=r"(?s)node ended 3 times.*no such model"):
        async with supervise([child], tmp_path, lambda _: None, QUICK) as supervision:
            await supervision.wait_ready(timeout_s=10)


async def test_a_child_that_is_never_ready_is_named(tmp_path: Path) -> None:
    child = make_child(tmp_path, "node", "import time; time.sleep(600)")
    with pytest.raises(StartFailed, match="node is not ready after 0 s"):
        async with supervise([child], tmp_path, lambda _: None) as supervision:
            await supervision.wait_ready(timeout_s=0.2)


SUPERVISOR = """
import asyncio, pathlib, sys
sys.path.insert(0, sys.argv[2])
from test_local_supervisor import make_child
from mesh.local.supervisor import supervise
async def main():
    folder = pathlib.Path(sys.argv[1])
    children = [make_child(folder, name) for name in ("one", "two")]
    async with supervise(children, folder, lambda _: None) as supervision:
        await supervision.wait_ready(timeout_s=10)
        print(*supervision.pids.values(), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), here]
    supervisor = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    pids = [int(pid) for pid in (await supervisor.stdout.readline()).split()]
    assert len(pids) == 2
    supervisor.kill()
    await supervisor.wait()
    await await_condition(lambda: not any(is_running(pid) for pid in pids))
