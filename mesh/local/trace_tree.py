"""A trace as a tree, from spans that arrive in any order and perhaps not all.

Pure. A span whose parent is not among the spans is an orphan: it is shown at the top, marked,
because a missing parent is what one looks for in a broken trace. The root is no orphan even where
its parent is a caller outside that records its spans elsewhere. What is missing can be told from
what is there: every process of the mesh records its part, so a call has two sides, and the edge,
where requests come in, is the root of all that came through it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

EDGE = "envoy-edge"
STATUS_ERROR = 2
KINDS = ("", "internal", "server", "client", "producer", "consumer")


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One span, as read from OTLP JSON."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    error: str | None
    """None: no error; else its message, which may be empty."""
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SpanNode:
    """A span with the spans that it caused, earliest first."""

    span: SpanRecord
    children: tuple["SpanNode", ...]
    is_orphan: bool


@dataclass(frozen=True, slots=True)
class TraceTree:
    """All spans of one trace."""

    trace_id: str
    start_ns: int
    end_ns: int
    span_count: int
    roots: tuple[SpanNode, ...]

    @property
    def orphans(self) -> int:
        """How many spans lack their parent."""
        return sum(root.is_orphan for root in self.roots)

    @property
    def missing(self) -> tuple[str, ...]:
        """What is not there and should be, as far as the rest tells."""
        return tuple(dict.fromkeys(_missing(self.roots)))


def build_tree(spans: Iterable[SpanRecord]) -> TraceTree:
    """The tree of one trace's spans, of which there is at least one."""
    known = {span.span_id: span for span in spans}
    children: dict[str, list[SpanRecord]] = {}
    for span in known.values():
        children.setdefault(span.parent_id, []).append(span)
    tops = sorted((span for span in known.values() if span.parent_id not in known), key=_start)
    return TraceTree(
        trace_id=tops[0].trace_id,
        start_ns=min(span.start_ns for span in known.values()),
        end_ns=max(span.end_ns for span in known.values()),
        span_count=len(known),
        roots=tuple(
            _make_node(top, children, is_orphan=bool(top.parent_id) and top is not tops[0])
            for top in tops
        ),
    )


def walk_spans(nodes: Iterable[SpanNode]) -> Iterator[SpanNode]:
    """These spans and all below them."""
    for node in nodes:
        yield node
        yield from walk_spans(node.children)


def _missing(roots: tuple[SpanNode, ...]) -> Iterator[str]:
    for root in roots:
        if root.span.parent_id and root.span.service != EDGE:
            yield f"what called {root.span.service} {root.span.name}"
    for node in walk_spans(roots):
        if node.span.kind == "client" and not node.children and node.span.error is None:
            yield f"what {node.span.service} {node.span.name} reached"


def read_spans(request: Mapping[str, Any]) -> list[SpanRecord]:
    """The spans of one OTLP JSON export request."""
    return [
        _read_span(span, _read_attributes(group.get("resource", {})).get("service.name", ""))
        for group in request.get("resourceSpans", ())
        for scope in group.get("scopeSpans", ())
        for span in scope.get("spans", ())
    ]


def _read_span(span: Mapping[str, Any], service: str) -> SpanRecord:
    status = span.get("status", {})
    return SpanRecord(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        service=str(service),
        name=span.get("name", ""),
        kind=KINDS[span.get("kind", 0)],
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        error=status.get("message", "") if status.get("code") == STATUS_ERROR else None,
        attributes=_read_attributes(span),
    )


def _read_attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {each["key"]: _read_value(each["value"]) for each in holder.get("attributes", ())}


def _read_value(value: Mapping[str, Any]) -> Any:
    for kind, content in value.items():
        match kind:
            case "intValue":
                return int(content)
            case "arrayValue":
                return [_read_value(each) for each in content.get("values", ())]
            case "kvlistValue":
                return {each["key"]: _read_value(each["value"]) for each in content["values"]}
            case _:
                return content
    return None


def _make_node(
    span: SpanRecord, children: Mapping[str, list[SpanRecord]], *, is_orphan: bool
) -> SpanNode:
    caused = sorted(children.get(span.span_id, ()), key=_start)
    nodes = tuple(_make_node(each, children, is_orphan=False) for each in caused)
    return SpanNode(span, nodes, is_orphan)


def _start(span: SpanRecord) -> tuple[int, str]:
    return span.start_ns, span.span_id
