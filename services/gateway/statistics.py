"""What a model version has done on all nodes together: each node's counts, added up.

The question goes to every node that has the version ready, at the address by which Consul knows it,
and not through Envoy, which would choose one. A node that does not answer makes the whole question
fail: a sum without it would look like work undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from mesh.pb import inference_pb2 as oip
from mesh.pb import inference_pb2_grpc
from services.gateway.directory import VersionState
from services.gateway.fleet import Fleet, answers_of

TIMEOUT_S = 5.0
"""A node answers from memory; one that computes hard may need a moment to come to it."""

Version = tuple[str, str]


@dataclass(frozen=True, slots=True)
class FleetStatistics:
    """Asks the nodes."""

    fleet: Fleet

    async def read(
        self, versions: Iterable[VersionState], holders: Mapping[str, Iterable[str]]
    ) -> oip.ModelStatisticsResponse:
        """The counts of these versions; `holders` are the addresses of the nodes of each."""
        wanted = {(each.model, str(each.version)) for each in versions}
        names = (f"{model}@{version}" for model, version in wanted)
        nodes = sorted({address for name in names for address in holders.get(name, ())})
        replies = await self.fleet.ask({address: address for address in nodes}, _ask)
        counts = (each for answer in answers_of(replies) for each in answer.model_stats)
        meant = (each for each in counts if (each.name, each.version) in wanted)
        return oip.ModelStatisticsResponse(model_stats=add_up(meant))


async def _ask(channel: grpc.aio.Channel) -> oip.ModelStatisticsResponse:
    stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    answer: oip.ModelStatisticsResponse = await stub.ModelStatistics(
        oip.ModelStatisticsRequest(), timeout=TIMEOUT_S
    )
    return answer


def add_up(counts: Iterable[oip.ModelStatistics]) -> list[oip.ModelStatistics]:
    """One entry per version, in order; the last inference is the last on any node."""
    sums: dict[Version, oip.ModelStatistics] = {}
    for each in counts:
        version = (each.name, each.version)
        if version not in sums:
            sums[version] = oip.ModelStatistics(name=each.name, version=each.version)
        _add(sums[version], each)
    return [sums[version] for version in sorted(sums, key=lambda v: (v[0], int(v[1])))]


def _add(total: oip.ModelStatistics, more: oip.ModelStatistics) -> None:
    total.last_inference = max(total.last_inference, more.last_inference)
    total.inference_count += more.inference_count
    total.execution_count += more.execution_count
    _add_durations(total.inference_stats, more.inference_stats)
    for place, response in more.response_stats.items():
        _add_durations(total.response_stats[place], response)
    for batch in more.batch_stats:
        _add_durations(_same(total.batch_stats, batch, "batch_size"), batch)
    total.batch_stats.sort(key=lambda batch: batch.batch_size)
    for memory in more.memory_usage:
        _same(total.memory_usage, memory, "type", "id").byte_size += memory.byte_size


def _same(entries: Any, wanted: Any, *keys: str) -> Any:
    """The entry that has the same keys; a new one, where there is none yet."""
    named = {key: getattr(wanted, key) for key in keys}
    for entry in entries:
        if all(getattr(entry, key) == value for key, value in named.items()):
            return entry
    return entries.add(**named)


def _add_durations(total: Any, more: Any) -> None:
    """Adds each duration of one message to that of the other, of the same kind."""
    for field in more.DESCRIPTOR.fields:
        if field.message_type is not None:
            one, other = getattr(total, field.name), getattr(more, field.name)
            one.count += other.count
            one.ns += other.ns
