import json
from pathlib import Path
from typing import Any

import pytest

from mesh.local.trace_store import TraceAmbiguous, TraceNotFound, TraceStore
from mesh.local.trace_tree import SpanNode
from mesh.local.tracesink.file_ring import FileRing, list_files

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER = "0bf7651916cd43dd8448eb211c80319c"


def make_span(span_id: str, parent_id: str, start: int, trace_id: str = TRACE) -> dict[str, Any]:
    return {
        "traceId": trace_id,
        "spanId": span_id,
        **({"parentSpanId": parent_id} if parent_id else {}),
        "name": f"span {span_id}",
        "kind": 2,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 10),
        "status": {},
    }


def make_line(service: str, *spans: dict[str, Any]) -> str:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    group = {"resource": resource, "scopeSpans": [{"spans": list(spans)}]}
    return json.dumps({"resourceSpans": [group]}, separators=(",", ":"))


def write(folder: Path, *lines: str) -> TraceStore:
    with FileRing(folder) as ring:
        for line in lines:
            ring.append(line)
    return TraceStore(folder)


def outline(node: SpanNode) -> str:
    inner = "".join(map(outline, node.children))
    return f"({node.span.service}:{node.span.span_id}{inner})"


def test_a_tree_is_built_from_spans_in_any_order_and_file(tmp_path: Path) -> None:
    store = write(
        tmp_path,
        make_line("node", make_span("c", "b", 30)),
        make_line("other", make_span("x", "", 5, OTHER)),
        make_line("edge", make_span("a", "", 10), make_span("d", "a", 15)),
        make_line("gateway", make_span("b", "a", 20)),
    )
    tree = store.find("0AF7")
    assert [outline(root) for root in tree.roots] == ["(edge:a(edge:d)(gateway:b(node:c)))"]
    assert (tree.trace_id, tree.span_count, tree.orphans) == (TRACE, 4, 0)
    assert (tree.start_ns, tree.end_ns) == (10, 40)


def test_a_span_without_its_parent_is_an_orphan_but_the_first_one_is_the_root(
    tmp_path: Path,
) -> None:
    spans = [make_span("a", "caller", 10), make_span("b", "a", 11), make_span("z", "lost", 12)]
    tree = write(tmp_path, make_line("edge", *spans)).find(TRACE)
    assert [(outline(root), root.is_orphan) for root in tree.roots] == [
        ("(edge:a(edge:b))", False),
        ("(edge:z)", True),
    ]


def test_a_prefix_of_two_traces_is_refused_with_both(tmp_path: Path) -> None:
    store = write(tmp_path, make_line("a", make_span("a", "", 1), make_span("b", "", 2, OTHER)))
    with pytest.raises(TraceAmbiguous, match=f"{TRACE}, {OTHER}"):
        store.find("0")
    assert store.find("0b").trace_id == OTHER


def test_an_unknown_trace_says_what_may_be_the_matter(tmp_path: Path) -> None:
    with pytest.raises(TraceNotFound, match="not be written yet"):
        TraceStore(tmp_path).find("ff")


def test_the_latest_come_newest_first(tmp_path: Path) -> None:
    store = write(tmp_path, make_line("a", make_span("a", "", 1), make_span("b", "", 2, OTHER)))
    assert [tree.trace_id for tree in store.latest(5)] == [OTHER, TRACE]
    assert [tree.trace_id for tree in store.latest(1)] == [OTHER]


def test_a_half_written_line_is_left_for_later(tmp_path: Path) -> None:
    store = write(tmp_path, make_line("a", make_span("a", "", 1)))
    with list_files(tmp_path)[0].open("a") as file:
        file.write(make_line("a", make_span("b", "a", 2))[:-20])
    assert store.find(TRACE).span_count == 1


def test_the_ring_keeps_the_newest_files(tmp_path: Path) -> None:
    with FileRing(tmp_path, file_bytes=10, files=3) as ring:
        for number in range(10):
            ring.append(f"line {number:06d}")
    assert [path.name for path in list_files(tmp_path)] == [
        "000009.jsonl",
        "000010.jsonl",
        "000011.jsonl",
    ]
    with FileRing(tmp_path, file_bytes=10, files=3) as ring:
        ring.append("after a restart")
    assert list_files(tmp_path)[-1].name == "000012.jsonl"
