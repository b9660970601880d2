"""`ringmesh trace`: a request's way through the mesh, as the tree of its spans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mesh.cli.output import JsonFlag, make_console, make_table, print_json
from mesh.cli.place import StateDir
from mesh.local.problem import LocalProblem
from mesh.local.trace_store import ID_DIGITS, TraceStore
from mesh.local.trace_tree import SpanNode, SpanRecord, TraceTree
from mesh.local.trace_wait import find_settled

app = typer.Typer()
_WIDE = 120
_MISSING_SHOWN = 3

KEY_ATTRIBUTES = (
    "gen_ai.response.model",
    "rpc.response.status_code",
    "grpc.status_code",
    "http.status_code",
    "http.response.status_code",
    "upstream_address",
)
"""Shown where a span has them, beside everything of our own (ringmesh.*)."""


@app.command()
def trace(
    trace_id: Annotated[
        str | None, typer.Argument(help="A trace's id or its beginning; none: the latest traces.")
    ] = None,
    count: Annotated[int, typer.Option("-n", help="How many of the latest.")] = 10,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Draw a request's trace, or list the latest ones."""
    store = _open_store(state_dir)
    if trace_id is None:
        _show_latest(store.latest(count), as_json=as_json)
        return
    tree = find_settled(lambda: store.find(trace_id))
    if as_json:
        print_json(asdict(tree) | {"orphans": tree.orphans, "missing": tree.missing})
        return
    console = make_console()
    console.print(draw(tree, with_bars=console.width >= _WIDE))
    if tree.missing:
        console.print(f"\n[yellow]Incomplete:[/] {escape(describe_missing(tree))}", soft_wrap=True)


def describe_missing(tree: TraceTree) -> str:
    """What a reader should not take for the whole of it."""
    shown = "; ".join(tree.missing[:_MISSING_SHOWN])
    more = len(tree.missing) - _MISSING_SHOWN
    if more > 0:
        shown += f"; and {more} more"
    return (
        f"nothing is known of {shown}. The request may be going on still, or those spans were "
        f"recorded elsewhere or lost."
    )


def draw(tree: TraceTree, *, with_bars: bool) -> Table:
    """The tree beside its timeline: offset and duration of each span."""
    table = make_table("span", "offset", "ms", *([""] if with_bars else []), "about")
    table.title = (
        f"[bold]{tree.trace_id}[/]  {tree.span_count} spans  {_ms(tree.end_ns - tree.start_ns)} ms"
    )
    for column in table.columns[:-1]:
        column.no_wrap = True
    for column in table.columns[1:3]:
        column.justify = "right"
    for guide, node in walk(tree):
        bar = [_bar(tree, node.span)] if with_bars else []
        table.add_row(*_cells(tree, guide, node.span), *bar, _about(node))
    return table


def walk(tree: TraceTree) -> Iterator[tuple[str, SpanNode]]:
    """Every span with the guide lines that stand before it."""

    def below(nodes: tuple[SpanNode, ...], prefix: str) -> Iterator[tuple[str, SpanNode]]:
        for node in nodes:
            last = node is nodes[-1]
            yield prefix + ("└ " if last else "├ "), node
            yield from below(node.children, prefix + ("  " if last else "│ "))

    for root in tree.roots:
        yield "", root
        yield from below(root.children, "")


def _cells(tree: TraceTree, guide: str, span: SpanRecord) -> tuple[str, str, str]:
    return (
        f"[dim]{guide}[/][cyan]{escape(span.service)}[/] {escape(span.name)}",
        f"{_ms(span.start_ns - tree.start_ns)}",
        f"{_ms(span.end_ns - span.start_ns)}",
    )


def _bar(tree: TraceTree, span: SpanRecord, width: int = 24) -> str:
    whole = max(tree.end_ns - tree.start_ns, 1)
    begin = (span.start_ns - tree.start_ns) * width // whole
    length = max(1, (span.end_ns - span.start_ns) * width // whole)
    bar = "━" * min(length, width - min(begin, width - 1))
    return " " * min(begin, width - 1) + f"[blue]{bar}[/]"


def _about(node: SpanNode) -> Text:
    """What is worth saying of a span, cut where the line ends."""
    attributes = node.span.attributes
    chosen: dict[str, Any] = {key: attributes[key] for key in KEY_ATTRIBUTES if key in attributes}
    chosen |= {key: value for key, value in attributes.items() if key.startswith("ringmesh.")}
    pairs = (f"{key.removeprefix('ringmesh.')}={value}" for key, value in chosen.items())
    orphan = "[yellow]its parent is missing[/]  " if node.is_orphan else ""
    error = node.span.error
    failed = "" if error is None else f"[red]error[/] {escape(error)}  "
    markup = f"{orphan}{failed}[dim]{escape('  '.join(pairs))}[/]"
    text = Text.from_markup(markup, overflow="ellipsis")
    text.no_wrap = True
    return text


def _show_latest(trees: list[TraceTree], *, as_json: bool) -> None:
    rows = [_summarize(tree) for tree in trees]
    if as_json:
        print_json(rows)
        return
    table = make_table("trace", "began", "ms", "spans", "root")
    table.columns[0].no_wrap = True
    table.columns[0].min_width = ID_DIGITS
    for row in rows:
        root = f"[cyan]{escape(row['service'])}[/] {escape(row['name'])}"
        began = datetime.fromisoformat(row["began"]).astimezone()
        table.add_row(
            row["trace_id"],
            f"{began:%H:%M:%S}",
            f"{row['duration_ms']:.1f}",
            str(row["spans"]),
            root,
        )
    make_console().print(table if rows else "No traces yet: ask a model something first.")


def _summarize(tree: TraceTree) -> dict[str, Any]:
    root = tree.roots[0].span
    return {
        "trace_id": tree.trace_id,
        "began": datetime.fromtimestamp(tree.start_ns / 1e9, UTC).isoformat(),
        "duration_ms": round((tree.end_ns - tree.start_ns) / 1e6, 3),
        "spans": tree.span_count,
        "orphans": tree.orphans,
        "service": root.service,
        "name": root.name,
    }


def _open_store(state_dir: Path) -> TraceStore:
    folder = state_dir / "traces"
    if not folder.is_dir():
        raise LocalProblem(
            f"No traces are kept in {folder}: start a mesh with `ringmesh up`, or look in the "
            f"collector that OTEL_EXPORTER_OTLP_ENDPOINT names."
        )
    return TraceStore(folder)


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f}"
