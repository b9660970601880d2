"""OTLP export requests as OTLP JSON lines.

OTLP JSON is protobuf JSON with two exceptions: ids are hexadecimal, not base64, and enums are
numbers. `google.protobuf.json_format` takes over 0.1 ms a span, before the ids are put right; a
mesh under load makes thousands of spans a second, so the few messages of a trace are written out
by hand here, at 0.03 ms a span.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

Json = dict[str, Any]


def encode_request(request: ExportTraceServiceRequest) -> str:
    """The request as one line of JSON, without the newline."""
    spans = [_resource_spans(each) for each in request.resource_spans]
    return json.dumps({"resourceSpans": spans}, ensure_ascii=False, separators=(",", ":"))


def _resource_spans(group: ResourceSpans) -> Json:
    return {
        "resource": _resource(group.resource),
        "scopeSpans": [_scope_spans(each) for each in group.scope_spans],
        **_optional(schemaUrl=group.schema_url),
    }


def _resource(resource: Resource) -> Json:
    return {"attributes": _attributes(resource.attributes)}


def _scope_spans(group: ScopeSpans) -> Json:
    return {
        "scope": _scope(group.scope),
        "spans": [_span(span) for span in group.spans],
        **_optional(schemaUrl=group.schema_url),
    }


def _scope(scope: InstrumentationScope) -> Json:
    return _optional(name=scope.name, version=scope.version)


def _span(span: Span) -> Json:
    return {
        "traceId": span.trace_id.hex(),
        "spanId": span.span_id.hex(),
        **_optional(
            parentSpanId=span.parent_span_id.hex(),
            traceState=span.trace_state,
            flags=span.flags,
        ),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start_time_unix_nano),
        "endTimeUnixNano": str(span.end_time_unix_nano),
        **_optional(
            attributes=_attributes(span.attributes),
            droppedAttributesCount=span.dropped_attributes_count,
            events=[_event(event) for event in span.events],
            droppedEventsCount=span.dropped_events_count,
            links=[_link(link) for link in span.links],
            droppedLinksCount=span.dropped_links_count,
        ),
        "status": _optional(message=span.status.message, code=span.status.code),
    }


def _event(event: Span.Event) -> Json:
    return {
        "timeUnixNano": str(event.time_unix_nano),
        "name": event.name,
        **_optional(attributes=_attributes(event.attributes)),
    }


def _link(link: Span.Link) -> Json:
    return {
        "traceId": link.trace_id.hex(),
        "spanId": link.span_id.hex(),
        **_optional(
            traceState=link.trace_state, attributes=_attributes(link.attributes), flags=link.flags
        ),
    }


def _attributes(attributes: Iterable[KeyValue]) -> list[Json]:
    return [{"key": each.key, "value": _value(each.value)} for each in attributes]


def _value(value: AnyValue) -> Json:
    kind = value.WhichOneof("value")
    if kind is None:
        return {}
    name, encode = _KINDS[kind]
    return {name: encode(getattr(value, kind))}


def _double(value: float) -> float | str:
    """JSON knows neither infinity nor NaN; protobuf JSON writes them as strings."""
    if value != value:  # noqa: PLR0124 - NaN is the one value that differs from itself
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _optional(**fields: Any) -> Json:
    """The fields that are not at their default, which protobuf JSON leaves out."""
    return {name: value for name, value in fields.items() if value}


_KINDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "string_value": ("stringValue", str),
    "bool_value": ("boolValue", bool),
    "int_value": ("intValue", str),
    "double_value": ("doubleValue", _double),
    "array_value": ("arrayValue", lambda array: {"values": [_value(v) for v in array.values]}),
    "kvlist_value": ("kvlistValue", lambda pairs: {"values": _attributes(pairs.values)}),
    "bytes_value": ("bytesValue", lambda value: base64.b64encode(value).decode()),
}
