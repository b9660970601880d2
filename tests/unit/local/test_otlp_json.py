import base64
import json
from typing import Any

from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from mesh.local.tracesink.otlp_json import encode_request

text = st.text(max_size=8)
uint64 = st.integers(0, 2**64 - 1)
uint32 = st.integers(0, 2**32 - 1)
scalars = st.one_of(
    st.builds(AnyValue, string_value=text),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
    st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
    st.builds(AnyValue, bytes_value=st.binary(max_size=8)),
    st.builds(AnyValue),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(AnyValue, array_value=st.builds(ArrayValue, values=st.lists(inner, max_size=3))),
        st.builds(
            AnyValue,
            kvlist_value=st.builds(
                KeyValueList,
                values=st.lists(st.builds(KeyValue, key=text, value=inner), max_size=3),
            ),
        ),
    ),
    max_leaves=4,
)
attributes = st.lists(st.builds(KeyValue, key=text, value=values), max_size=3)
trace_ids = st.binary(min_size=16, max_size=16)
span_ids = st.binary(min_size=8, max_size=8)
events = st.builds(Span.Event, time_unix_nano=uint64, name=text, attributes=attributes)
links = st.builds(
    Span.Link, trace_id=trace_ids, span_id=span_ids, attributes=attributes, flags=uint32
)
spans = st.builds(
    Span,
    trace_id=trace_ids,
    span_id=span_ids,
    parent_span_id=st.one_of(st.just(b""), span_ids),
    trace_state=text,
    flags=uint32,
    name=text,
    kind=st.sampled_from(Span.SpanKind.values()),
    start_time_unix_nano=uint64,
    end_time_unix_nano=uint64,
    attributes=attributes,
    dropped_attributes_count=uint32,
    events=st.lists(events, max_size=2),
    links=st.lists(links, max_size=2),
    status=st.builds(Status, message=text, code=st.sampled_from(Status.StatusCode.values())),
)
requests = st.builds(
    ExportTraceServiceRequest,
    resource_spans=st.lists(
        st.builds(
            ResourceSpans,
            resource=st.builds(Resource, attributes=attributes),
            scope_spans=st.lists(
                st.builds(ScopeSpans, spans=st.lists(spans, max_size=2)), max_size=2
            ),
        ),
        max_size=2,
    ),
)


def read_otlp_json(line: str) -> ExportTraceServiceRequest:
    """With protobuf's own reader, after undoing the one thing in which OTLP JSON differs."""

    def to_base64(node: Any) -> Any:
        if isinstance(node, dict):
            return {
                key: base64.b64encode(bytes.fromhex(value)).decode()
                if key in ("traceId", "spanId", "parentSpanId")
                else to_base64(value)
                for key, value in node.items()
            }
        return [to_base64(each) for each in node] if isinstance(node, list) else node

    return json_format.ParseDict(to_base64(json.loads(line)), ExportTraceServiceRequest())


@given(requests)
def test_what_is_written_reads_back_as_what_came(request: ExportTraceServiceRequest) -> None:
    line = encode_request(request)
    assert "\n" not in line
    read = read_otlp_json(line)
    # An empty message that is set and one that is not are written alike, as in protobuf JSON.
    for message in (read, request):
        for group in message.resource_spans:
            group.resource.SetInParent()
            for scope in group.scope_spans:
                scope.scope.SetInParent()
    assert read == request


def test_ids_are_hexadecimal_and_enums_are_numbers() -> None:
    span = Span(
        trace_id=bytes(range(16)), span_id=bytes(range(8)), kind=Span.SPAN_KIND_SERVER, name="n"
    )
    request = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[span])])]
    )
    (written,) = json.loads(encode_request(request))["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert written["traceId"] == "000102030405060708090a0b0c0d0e0f"
    assert written["spanId"] == "0001020304050607"
    assert written["kind"] == 2
    assert "parentSpanId" not in written
