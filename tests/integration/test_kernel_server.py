"""The kernel's server and channel against each other, on both server implementations."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh.channel import open_channel
from mesh.errors import InvalidArgument, ModelNotReady, QueueFull, error_from_rpc
from mesh.native_server import THREAD, keep_off
from mesh.pb import node_pb2, node_pb2_grpc
from mesh.reflection import V1, V1ALPHA
from mesh.server import FLUSH_S, QUIET_S, GrpcServer, ServiceBinding, serve
from mesh.telemetry import Telemetry, open_telemetry

NODE = "ringmesh.node.v1.Node"
LARGE = "x" * 16_000_000


class EchoServicer(node_pb2_grpc.NodeServicer):
    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.ended = asyncio.Event()

    async def Generate(self, request, context):  # noqa: N802
        if request.text == "refuse":
            raise InvalidArgument("temperature must be at most 2", field="temperature")
        if request.text == "refuse at length":
            raise InvalidArgument("ä" * 20_000, field="x" * 20_000)
        if request.text == "full":
            raise QueueFull("8 requests are waiting", retry_after_s=1.5)
        if request.text == "bug":
            raise ZeroDivisionError
        try:
            for word in request.text.split():
                yield node_pb2.GenerateResponse(delta=node_pb2.Delta(text=word))
            if request.text == "hang":
                await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):  # the latter while a response goes out
            self.cancelled.set()
            raise
        finally:
            self.ended.set()

    async def ListModels(self, request, context):  # noqa: N802
        raise ModelNotReady("minilm", "LOADING", "fetching the artefact")


@pytest.fixture
async def telemetry():
    with open_telemetry("test", "test-1", otlp_endpoint=None) as opened:
        yield opened


@pytest.fixture(params=["native", "grpcio"])
async def served(
    request: pytest.FixtureRequest, telemetry: Telemetry
) -> AsyncIterator[tuple[GrpcServer, EchoServicer]]:
    servicer = EchoServicer()
    binding = ServiceBinding(NODE, node_pb2_grpc.add_NodeServicer_to_server, servicer)
    async with serve(
        listen="127.0.0.1:0",
        services=[binding],
        telemetry=telemetry,
        implementation=request.param,
        drain_timeout_s=1,
    ) as server:
        yield server, servicer


@pytest.fixture
async def channel(served, telemetry: Telemetry) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(f"127.0.0.1:{served[0].port}", telemetry) as opened:
        yield opened


async def failure(stub: node_pb2_grpc.NodeStub, text: str) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Generate(node_pb2.GenerateRequest(text=text)):
            pass
    return caught.value


async def test_a_stream_arrives_in_order(channel) -> None:
    stub = node_pb2_grpc.NodeStub(channel)
    call = stub.Generate(node_pb2.GenerateRequest(text="one two three"))
    assert [response.delta.text async for response in call] == ["one", "two", "three"]


async def test_an_error_keeps_its_type_field_and_retry_delay(channel) -> None:
    stub = node_pb2_grpc.NodeStub(channel)
    refused = await failure(stub, "refuse")
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = error_from_rpc(refused)
    assert isinstance(error, InvalidArgument)
    assert error.field == "temperature"
    full = error_from_rpc(await failure(stub, "full"))
    assert isinstance(full, QueueFull)
    assert full.retry_after_s == 1.5


async def test_an_error_stays_itself_however_much_it_says(channel) -> None:
    error = error_from_rpc(await failure(node_pb2_grpc.NodeStub(channel), "refuse at length"))
    assert isinstance(error, InvalidArgument)
    assert error.field is not None
    assert (error.field[0], error.message[0]) == ("x", "ä")


async def test_an_error_of_a_unary_call_keeps_its_type(channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node_pb2_grpc.NodeStub(channel).ListModels(node_pb2.ListModelsRequest())
    error = error_from_rpc(caught.value)
    assert isinstance(error, ModelNotReady)
    assert error.metadata["state"] == "LOADING"


async def test_a_bug_is_internal_and_tells_the_caller_nothing_of_it(channel) -> None:
    error = await failure(node_pb2_grpc.NodeStub(channel), "bug")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivision" not in (error.details() or "")


@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\x05ab"])
@pytest.mark.parametrize(
    ("path", "streams"),
    [
        (f"/{NODE}/ListModels", False),
        (f"/{NODE}/Generate", True),
        ("/grpc.health.v1.Health/Check", False),
        ("/grpc.health.v1.Health/Watch", True),
    ],
)
async def test_bytes_that_are_no_message_are_the_callers_fault(
    channel, path: str, streams: bool, garbage: bytes
) -> None:
    call = channel.unary_stream(path)(garbage) if streams else channel.unary_unary(path)(garbage)
    with pytest.raises(grpc.aio.AioRpcError, match="cannot be decoded") as caught:
        await (anext(aiter(call)) if streams else call)
    error = error_from_rpc(caught.value)
    assert isinstance(error, InvalidArgument)
    assert error.field == "message"


async def test_a_cancelled_stream_cancels_the_handler(channel, served) -> None:
    call = node_pb2_grpc.NodeStub(channel).Generate(node_pb2.GenerateRequest(text="hang"))
    async for _ in call:
        break
    call.cancel()
    await asyncio.wait_for(served[1].cancelled.wait(), 5)


async def test_a_deadline_cancels_the_handler(channel, served) -> None:
    call = node_pb2_grpc.NodeStub(channel).Generate(
        node_pb2.GenerateRequest(text="hang"), timeout=0.2
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(served[1].cancelled.wait(), 5)


async def test_health_check_and_watch_follow_the_state(channel, served) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=NODE)
    assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(request).__aiter__()
    assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
    await served[0].health.set(NODE, serving=False)
    assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_watcher_that_leaves_takes_nobody_elses_updates(channel, served) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=NODE)
    leaving, staying = stub.Watch(request), stub.Watch(request)
    seen = staying.__aiter__()
    await anext(leaving.__aiter__())
    await anext(seen)
    leaving.cancel()
    assert await leaving.code() is grpc.StatusCode.CANCELLED
    await served[0].health.set(NODE, serving=False)
    update = await asyncio.wait_for(anext(seen), 5)
    assert update.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("implementation", ["native", "grpcio"])
async def test_an_open_watch_does_not_keep_a_server_from_stopping(
    telemetry, implementation
) -> None:
    started = asyncio.get_running_loop().time()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serve(
                listen="127.0.0.1:0",
                services=[],
                telemetry=telemetry,
                implementation=implementation,
                drain_timeout_s=30,
            )
        )
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        statuses = watch.__aiter__()
        assert (await anext(statuses)).status == health_pb2.HealthCheckResponse.SERVING
    assert (await anext(statuses)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError, match="stopping"):
        await anext(statuses)
    assert asyncio.get_running_loop().time() - started < 20
    await channel.close()


@asynccontextmanager
async def stopping(telemetry: Telemetry) -> AsyncIterator[tuple[Any, asyncio.Task[None]]]:
    """A native server that has begun to stop, and a call whose whole answer its client has to read.

    The answer has left its handler, and is larger than what a client takes in unasked.
    """
    servicer, options = EchoServicer(), [("grpc.max_receive_message_length", -1)]
    binding = ServiceBinding(NODE, node_pb2_grpc.add_NodeServicer_to_server, servicer)
    async with AsyncExitStack() as stack:
        serving = serve(
            listen="127.0.0.1:0", services=[binding], telemetry=telemetry, drain_timeout_s=60
        )
        server = await serving.__aenter__()
        options += [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
        address = f"127.0.0.1:{server.port}"
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
        call = node_pb2_grpc.NodeStub(channel).Generate(node_pb2.GenerateRequest(text=LARGE))
        await servicer.ended.wait()
        stop = asyncio.create_task(serving.__aexit__(None, None, None))
        try:
            yield call, stop
        finally:
            call.cancel()
            await stop


async def test_a_large_last_answer_waits_for_its_slow_reader(telemetry) -> None:
    async with stopping(telemetry) as (call, stop):
        await asyncio.wait({stop}, timeout=3 * (QUIET_S + FLUSH_S))
        assert not stop.done()
        assert [response.delta.text async for response in call] == [LARGE]
        await stop


async def test_a_reader_that_leaves_is_not_waited_for(telemetry) -> None:
    async with stopping(telemetry) as (call, stop):
        call.cancel()
        await asyncio.wait_for(stop, 20)


@pytest.mark.parametrize("version", [V1, V1ALPHA])
async def test_reflection_lists_the_services_in_both_versions(channel, version: str) -> None:
    call = channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    response = await anext(call.__aiter__())
    names = {service.name for service in response.list_services_response.service}
    assert {NODE, "grpc.health.v1.Health", V1, V1ALPHA} <= names
    assert reflection_pb2_grpc  # the stock stub module stays importable beside ours


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone takes advice on cores")
async def test_the_native_servers_threads_keep_off_a_core(telemetry) -> None:
    cores = os.sched_getaffinity(0)
    async with serve(listen="127.0.0.1:0", services=[], telemetry=telemetry):
        while not any(_cores_of(THREAD)):  # the library still calls them so, once they run
            await asyncio.sleep(0)
        keep_off(min(cores))
        wire = list(_cores_of(THREAD))
        assert wire == [(cores - {min(cores)}) or cores] * len(wire)


def _cores_of(name: str) -> Iterator[set[int]]:
    """The cores of this process's threads of that name."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # one of an earlier server's has just ended
            if (task / "comm").read_text().strip() == name:
                yield os.sched_getaffinity(int(task.name))


async def test_a_taken_port_is_one_clear_error(served, telemetry: Telemetry) -> None:
    with pytest.raises(Exception, match="cannot listen"):
        async with serve(listen=f"127.0.0.1:{served[0].port}", services=[], telemetry=telemetry):
            pass
