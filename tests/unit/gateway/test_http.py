"""What every route shares: bodies under a limit, encodings, and clients that leave."""

import asyncio
import gzip
import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Cancelled, InvalidArgument, PayloadTooLarge
from services.gateway.http.body import inflate, read_body
from services.gateway.http.compression import accepted_encoding, compress
from services.gateway.http.endpoint import run_while_connected
from services.gateway.http.event_stream import DONE, EventStream, frame
from services.gateway.http.json import dump_json, parse_json
from services.gateway.http.long_work import IN_THREAD_BYTES, carry_out

LIMIT = 1000


def receiving(*chunks: bytes, then: str = "http.request"):
    """An ASGI receive that gives these chunks, and counts how often it was asked."""
    messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    messages.append({"type": then, "body": b"", "more_body": False})
    asked = []

    async def receive() -> dict:
        asked.append(1)
        return messages.pop(0)

    return receive, asked


@given(st.lists(st.binary(max_size=100), max_size=12))
async def test_a_body_arrives_whole_or_not_at_all(chunks: list[bytes]) -> None:
    receive, _ = receiving(*chunks)
    whole = b"".join(chunks)
    if len(whole) <= LIMIT:
        assert await read_body(receive, {}, LIMIT) == whole
    else:
        with pytest.raises(PayloadTooLarge, match="1000"):
            await read_body(receive, {}, LIMIT)


async def test_a_declared_length_over_the_limit_is_not_read() -> None:
    receive, asked = receiving(b"x" * 2000)
    with pytest.raises(PayloadTooLarge):
        await read_body(receive, {"content-length": "1001"}, LIMIT)
    assert not asked


async def test_reading_stops_where_the_limit_is_passed() -> None:
    receive, asked = receiving(*[b"x" * 400] * 100)
    with pytest.raises(PayloadTooLarge):
        await read_body(receive, {}, LIMIT)
    assert len(asked) == 3


async def test_a_client_that_leaves_while_sending_is_gone() -> None:
    receive, _ = receiving(b"half", then="http.disconnect")
    with pytest.raises(Cancelled):
        await read_body(receive, {}, LIMIT)


async def test_a_body_that_may_grow_large_is_inflated_beside_the_loop() -> None:
    plain = bytes(IN_THREAD_BYTES)
    receive, _ = receiving(gzip.compress(plain))
    other = asyncio.create_task(asyncio.sleep(0))
    assert await read_body(receive, {"content-encoding": "gzip"}, len(plain)) == plain
    assert other.done()  # `receive` does not wait, so only inflating can have let it


@pytest.mark.parametrize(("size", "in_thread"), [(IN_THREAD_BYTES - 1, False), (2**40, True)])
async def test_only_work_on_many_bytes_goes_to_a_thread(size: int, in_thread: bool) -> None:
    ran_in = await carry_out(threading.current_thread, size)
    assert (ran_in is not threading.current_thread()) == in_thread


@given(st.binary(max_size=LIMIT), st.sampled_from(["gzip", "deflate", "GZIP", "identity", ""]))
def test_inflating_undoes_compressing(plain: bytes, encoding: str) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding.lower(), bytes)(plain)
    assert inflate(packed, encoding, LIMIT) == plain


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_inflating_stops_at_the_limit(pack) -> None:
    assert len(inflate(pack(bytes(LIMIT)), "gzip", LIMIT)) == LIMIT
    with pytest.raises(PayloadTooLarge):
        inflate(pack(bytes(LIMIT + 1)), "gzip", LIMIT)


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", gzip.compress(b"x")[:-1], gzip.compress(b"x") + b"tail"]
)
def test_broken_compression_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        inflate(body, "gzip", LIMIT)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate, gzip", "deflate"),
        ("br, gzip;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("identity", None),
        ("*", None),
    ],
)
def test_the_first_encoding_that_is_accepted(accept: str, encoding: str | None) -> None:
    assert accepted_encoding(accept) == encoding


@pytest.mark.parametrize("size", [10, 1024 * 1024])
async def test_answers_are_compressed_as_announced(size: int) -> None:
    assert gzip.decompress(await compress(bytes(size), "gzip")) == bytes(size)
    assert zlib.decompress(await compress(bytes(size), "deflate")) == bytes(size)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_json(number: float) -> None:
    assert parse_json(dump_json(number)) == number


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"NaN", b"[1,]"])
def test_what_is_not_json_says_so(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match="the body is not valid JSON"):
        parse_json(text)


async def never() -> dict:
    return await asyncio.get_running_loop().create_future()


async def test_work_is_done_while_the_client_stays() -> None:
    done = []

    async def work() -> None:
        done.append(1)

    assert await run_while_connected(work(), never)
    assert done


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    left, begun, cancelled = asyncio.Event(), asyncio.Event(), []

    async def receive() -> dict:
        await left.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        begun.set()
        try:
            await never()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    running = asyncio.create_task(run_while_connected(work(), receive))
    await begun.wait()
    left.set()
    assert not await running
    assert cancelled


async def test_a_failure_in_sending_is_not_hidden() -> None:
    async def work() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await run_while_connected(work(), never)


async def test_a_stream_sends_each_event_and_closes_its_source() -> None:
    closed, sent = [], []

    async def events():
        try:
            yield frame(b"1")
            yield DONE
        finally:
            closed.append(1)

    async def send(message: dict) -> None:
        sent.append(message)

    await EventStream(events(), {"x-a": "b"})({}, never, send)
    assert [m.get("body") for m in sent] == [None, b"data: 1\n\n", DONE, b""]
    assert (b"x-a", b"b") in sent[0]["headers"]
    assert not [name for name, _ in sent[0]["headers"] if name == b"content-length"]
    assert closed
