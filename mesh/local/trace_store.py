"""Reads the files of the trace sink: one trace by the beginning of its id, or the latest ones."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mesh.local.problem import LocalProblem
from mesh.local.trace_tree import SpanRecord, TraceTree, build_tree, read_spans
from mesh.local.tracesink.file_ring import list_files

ID_DIGITS = 32


class TraceNotFound(LocalProblem):
    """No trace has an id that begins so."""


class TraceAmbiguous(LocalProblem):
    """More than one trace has an id that begins so."""


@dataclass(frozen=True, slots=True)
class TraceStore:
    """The folder that the trace sink writes."""

    folder: Path

    def find(self, prefix: str) -> TraceTree:
        """The trace whose id begins with `prefix`.

        Raises:
            TraceNotFound: none does.
            TraceAmbiguous: several do.
        """
        wanted = prefix.strip().lower()
        spans = [span for span in self._read(f'"traceId":"{wanted}') if _begins(span, wanted)]
        ids = sorted({span.trace_id for span in spans})
        if not ids:
            raise TraceNotFound(
                f"No trace begins with {prefix!r} in {self.folder}: it may not be written yet, not "
                f"be sampled, or be too old; `ringmesh trace` lists the latest."
            )
        if len(ids) > 1:
            raise TraceAmbiguous(
                f"{len(ids)} traces begin with {prefix!r}: give more digits of one of "
                f"{', '.join(ids[:5])}."
            )
        return build_tree(spans)

    def latest(self, count: int) -> list[TraceTree]:
        """The `count` traces that began last, the newest first."""
        traces: dict[str, list[SpanRecord]] = {}
        # A trace may straddle two files; the one before the newest two holds older ones.
        for span in self._read("", files=2):
            traces.setdefault(span.trace_id, []).append(span)
        trees = sorted(map(build_tree, traces.values()), key=lambda tree: -tree.start_ns)
        return trees[:count]

    def _read(self, needle: str, *, files: int | None = None) -> Iterator[SpanRecord]:
        for path in list_files(self.folder)[-files if files else None :]:
            yield from _read_file(path, needle)


def _read_file(path: Path, needle: str) -> Iterable[SpanRecord]:
    """Spans of the lines that contain `needle`; parsing is what costs, so it looks first."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if needle in line and line.endswith("\n"):  # the last line may be half written
                yield from read_spans(json.loads(line))


def _begins(span: SpanRecord, prefix: str) -> bool:
    return span.trace_id.startswith(prefix)
