"""The whole mesh on this machine, from an empty state folder to an answer of each demo model.

The composition root of `ringmesh up`: what is shown and how it ends a terminal's wait is decided
by the command line, which passes `report` and `stop`.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc

from mesh.catalog import Catalog
from mesh.local.demo import DemoModel, await_answer, list_demos, publish_demo
from mesh.local.demo_models import DemoModels
from mesh.local.event import Event, Note, Ready, Report, Started, Stopping
from mesh.local.plan import Plan, plan_children
from mesh.local.probe import http_probe
from mesh.local.problem import LocalProblem
from mesh.local.publish import Publisher
from mesh.local.run_state import MeshRecord, ProcessRecord, remove_record, write_record
from mesh.local.supervisor import Supervision, supervise

_CONSUL_WAIT_S = 5.0

T = TypeVar("T")

OnReady = Callable[[MeshRecord, str | None], None]
"""Called with the record of the mesh and the trace id of its first chat, if it had one."""


async def run_mesh(
    plan: Plan, models: DemoModels | None, report: Report, on_ready: OnReady, stop: asyncio.Event
) -> None:
    """Starts the mesh, and keeps it running until `stop` is set; then nothing of it is left.

    Raises:
        LocalProblem: it does not come up.
        RingmeshError: the registry refuses a demo model.
    """
    if plan.settings.consul_address is not None:
        await _require_consul(plan.settings.consul_address)
    recorder = _Recorder(plan)
    async with Catalog.open(plan.addresses.consul) as catalog:
        children = plan_children(plan, catalog)
        watched = recorder.watching(report)
        async with supervise(children, plan.state_dir / "logs", watched) as supervision:
            recorder.begin(supervision)
            work = _bring_up(plan, catalog, supervision, list_demos(models), report)
            trace_ids = await _unless(stop, work)
            if trace_ids is None:
                return
            on_ready(recorder.note_ready(supervision), next(iter(trace_ids), None))
            await _unless(stop, supervision.wait_failed())


async def _bring_up(
    plan: Plan,
    catalog: Catalog,
    supervision: Supervision,
    demos: list[DemoModel],
    report: Report,
) -> list[str]:
    """Returns when each demo model has answered, with the trace ids of the answers."""
    timeout_s = plan.settings.start_timeout_s
    await asyncio.gather(
        supervision.wait_ready(timeout_s=timeout_s),
        _publish_all(plan, catalog, supervision, demos, report),
    )
    if demos:
        report(Note("Waiting for an answer of each model through the edge"))
    edge = plan.addresses.edge
    return await asyncio.gather(*(await_answer(edge, demo, timeout_s) for demo in demos))


async def _publish_all(
    plan: Plan,
    catalog: Catalog,
    supervision: Supervision,
    demos: list[DemoModel],
    report: Report,
) -> None:
    await supervision.wait_ready("registry", timeout_s=plan.settings.start_timeout_s)
    address = await _find(catalog, "registry")
    async with grpc.aio.insecure_channel(address) as channel:
        publisher = Publisher(channel)
        for demo in demos:
            if await publish_demo(publisher, demo):
                report(Note(f"Published {demo.manifest.name}"))


async def _find(catalog: Catalog, service: str) -> str:
    async for instances in catalog.watch_instances(service):
        for instance in instances:
            return f"{instance.address}:{instance.port}"
    raise AssertionError("a watch never ends")


async def _require_consul(address: str) -> None:
    try:
        async with asyncio.timeout(_CONSUL_WAIT_S):
            await http_probe(f"http://{address}/v1/status/leader")()
    except TimeoutError:
        raise LocalProblem(
            f"CONSUL_HTTP_ADDR is {address}, where no Consul answers: start that one, or unset the "
            f"variable to have one started."
        ) from None


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None when `stop` is set before it is there."""
    stopping = asyncio.create_task(stop.wait())
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (stopping, working):
            task.cancel()
        await asyncio.wait({stopping, working})


class _Recorder:
    """Keeps the record of the mesh up to date."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._began = time.monotonic()
        self._ready_after_s: float | None = None
        self._supervision: Supervision | None = None

    def watching(self, report: Report) -> Report:
        """A report that also writes the record when a process is there again."""

        def watched(event: Event) -> None:
            report(event)
            if isinstance(event, Started | Ready) and self._supervision is not None:
                self._write(self._supervision)
            if isinstance(event, Stopping):
                self._supervision = None
                remove_record(self._plan.state_dir)

        return watched

    def begin(self, supervision: Supervision) -> None:
        """From now on there is something to record."""
        self._supervision = supervision

    def note_ready(self, supervision: Supervision) -> MeshRecord:
        """Says that the mesh answers now."""
        self._ready_after_s = round(time.monotonic() - self._began, 2)
        return self._write(supervision)

    def _write(self, supervision: Supervision) -> MeshRecord:
        plan, addresses = self._plan, self._plan.addresses
        logs = plan.state_dir / "logs"
        record = MeshRecord(
            pid=os.getpid(),
            state_dir=str(plan.state_dir),
            edge=addresses.edge,
            consul=addresses.consul,
            envoy_admin=addresses.envoy_admin,
            mesh=addresses.mesh,
            controlplane=addresses.controlplane,
            otlp_endpoint=plan.otlp_endpoint,
            traces_dir=None if plan.traces_dir is None else str(plan.traces_dir),
            ready_after_s=self._ready_after_s,
            processes={
                name: ProcessRecord(pid, str(logs / f"{name}.log"))
                for name, pid in supervision.pids.items()
            },
        )
        write_record(plan.state_dir, record)
        return record
