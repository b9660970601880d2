"""What language models count, under the names that vLLM gave these things.

Routers, autoscalers and dashboards made for vLLM read them as they are. `engine` is the model's
version. A slot is to us what a block of the KV cache is to vLLM: a request takes one whole, so the
share of the cache in use is the share of slots. Durations rest on the engine's own clock readings
and say nothing of how fast a caller reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.inference.live_gauge import LiveGauge
from services.inference.llm.engine import Occupancy
from services.inference.llm.request import Delta, Event, FinishReason, Started

_LABELS = ("model_name", "engine")
_NS_PER_S = 1e9

# fmt: off
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0,
)
_EACH_TOKEN_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 10.0,
)
# fmt: on


class LanguageModelMetrics:
    """The metrics of all language models of a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"vllm:{name}", about, _LABELS, registry=registry)

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"vllm:{name}", about, (*_LABELS, *labels), registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"vllm:{name}", about, _LABELS, registry=registry, buckets=buckets)

        self.running = LiveGauge(gauge("num_requests_running", "Requests that have a slot."))
        self.waiting = LiveGauge(gauge("num_requests_waiting", "Requests that wait for a slot."))
        usage = gauge("kv_cache_usage_perc", "Share of the slots in use; 1 is all of them.")
        self.usage = LiveGauge(usage, combine=max)
        self.queries = counter("prefix_cache_queries", "Prompt tokens looked up in the slots.")
        self.hits = counter("prefix_cache_hits", "Prompt tokens found in a slot.")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.preemptions = counter("num_preemptions", "Answers that gave up their slot for now.")
        self.failed_runs = Counter(
            "ringmesh_engine_failed_runs", "Runs that failed.", _LABELS, registry=registry
        )
        self.successes = counter("request_success", "Requests answered.", "finished_reason")
        self.first_token_s = histogram(
            "time_to_first_token_seconds", "From the request to its first token.", _FIRST_TOKEN_S
        )
        self.each_token_s = histogram(
            "time_per_output_token_seconds", "From a token to the next.", _EACH_TOKEN_S
        )

    def engine_meter(self, model: str, version: int) -> EngineCounts:
        """Counts what the engine of a version does."""
        return EngineCounts(self, (model, str(version)))

    @contextmanager
    def watching(
        self, model: str, version: int, occupancy: Callable[[], Occupancy]
    ) -> Iterator[Callable[[int], RequestMeter]]:
        """Shows how busy the model is for as long as it is loaded; gives meters for requests."""
        labels = (model, str(version))
        with (
            self.running.showing(labels, lambda: occupancy().running),
            self.waiting.showing(labels, lambda: occupancy().waiting),
            self.usage.showing(labels, lambda: occupancy().running / occupancy().slots),
        ):
            counts = RequestCounts(self, labels)
            yield lambda arrived_ns: RequestMeter(counts, arrived_ns)


class EngineCounts:
    """Counts for one engine, which has a thread of its own."""

    def __init__(self, metrics: LanguageModelMetrics, labels: tuple[str, str]) -> None:
        self._preemptions = metrics.preemptions.labels(*labels)
        self._failed_runs = metrics.failed_runs.labels(*labels)

    def count_preemption(self) -> None:
        """An answer has given up its slot for now."""
        self._preemptions.inc()

    def count_failed_run(self) -> None:
        """A run has failed."""
        self._failed_runs.inc()


class RequestCounts:
    """What the requests to one version add up to; looked up once, for it is counted per token."""

    def __init__(self, metrics: LanguageModelMetrics, labels: tuple[str, str]) -> None:
        self.queries = metrics.queries.labels(*labels)
        self.hits = metrics.hits.labels(*labels)
        self.prompt_tokens = metrics.prompt_tokens.labels(*labels)
        self.generation_tokens = metrics.generation_tokens.labels(*labels)
        self.first_token_s = metrics.first_token_s.labels(*labels)
        self.each_token_s = metrics.each_token_s.labels(*labels)
        self._successes = metrics.successes
        self._labels = labels

    def count_success(self, reason: FinishReason) -> None:
        """A request has been answered."""
        self._successes.labels(*self._labels, reason.value).inc()


class RequestMeter:
    """Counts one request as its events pass."""

    def __init__(self, counts: RequestCounts, arrived_ns: int) -> None:
        self._counts = counts
        self._arrived_ns = arrived_ns
        self._token_ns = 0

    def see(self, event: Event) -> None:
        """Counts what the event tells."""
        if isinstance(event, Delta):
            if event.token_ids:
                self._count_tokens(event)
        elif isinstance(event, Started):
            self._start(event)
        else:
            self._counts.count_success(event.reason)

    def _start(self, started: Started) -> None:
        counts = self._counts
        counts.prompt_tokens.inc(started.prompt_tokens)
        counts.queries.inc(started.prompt_tokens)
        counts.hits.inc(started.cached_tokens)

    def _count_tokens(self, delta: Delta) -> None:
        counts, count = self._counts, len(delta.token_ids)
        counts.generation_tokens.inc(count)
        if not self._token_ns:
            # Tokens that come as one were ready together, as far as anybody can tell.
            counts.first_token_s.observe((delta.at_ns - self._arrived_ns) / _NS_PER_S)
        else:
            each_s = (delta.at_ns - self._token_ns) / count / _NS_PER_S
            for _ in range(count):
                counts.each_token_s.observe(each_s)
        self._token_ns = delta.at_ns
