"""What is seen of a generation from outside: spans for its phases, and when it was made."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace import Span, Tracer

from services.inference.llm.request import Delta, Event, Finished, Started
from services.inference.models.timing import Execution, Timing

NS_PER_US = 1000


class PhaseSpans:
    """The spans `queue`, `prefill` and `decode` under the call's own, begun and ended by events."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._context = trace.set_span_in_context(trace.get_current_span())
        self._span: Span = tracer.start_span("queue", self._context)
        self.is_decoding = False

    def see(self, event: Event) -> None:
        """Moves on to the phase that the event begins."""
        match event:
            case Started():
                self._next("prefill", event.at_ns)
                self._span.set_attribute("ringmesh.prompt_tokens", event.prompt_tokens)
                self._span.set_attribute("ringmesh.cached_tokens", event.cached_tokens)
            case Delta() if not self.is_decoding:
                self.is_decoding = True
                self._next("decode", event.at_ns)
            case Finished():
                self._span.set_attribute("ringmesh.completion_tokens", event.completion_tokens)
                self._span.set_attribute("ringmesh.batch_size", event.largest_batch)
                self._span.set_attribute("ringmesh.finish_reason", event.reason.value)

    def close(self) -> None:
        """Ends the phase that is going on."""
        self._span.end()

    def _next(self, name: str, at_ns: int) -> None:
        self._span.end(at_ns)
        self._span = self._tracer.start_span(name, self._context, start_time=at_ns)


def generation_timing(finished: Finished) -> Timing:
    """When a generation was made: it counts as one execution, though its steps had company."""
    began_ns = finished.at_ns - (finished.prefill_us + finished.decode_us) * NS_PER_US
    return Timing(
        began_ns=began_ns,
        ended_ns=finished.at_ns,
        executions=(Execution(1, began_ns, finished.at_ns),),
        queued_ns=began_ns - finished.queue_us * NS_PER_US,
    )
