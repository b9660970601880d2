"""`ringmesh chat`: a conversation with a language model, or one answer."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from mesh.cli.http_call import open_edge, read_events, require_success
from mesh.cli.output import JsonFlag, is_interactive, make_console, print_json
from mesh.cli.place import Edge, StateDir, find_edge

app = typer.Typer()

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, with what it took."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any] | None
    first_token_s: float
    total_s: float
    node: str
    version: str
    trace_id: str


@app.command()
def chat(
    prompt: Annotated[
        list[str] | None, typer.Argument(help="What to say; none: a conversation.")
    ] = None,
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model, model@3, model@alias.")
    ] = "smollm2",
    system: Annotated[str | None, typer.Option(help="How the model should behave.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answer.")] = None,
    session: Annotated[str | None, typer.Option(help="The session: it stays on one node.")] = None,
    edge: Edge = None,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Talk to a language model."""
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    asked = {"model": model} | {key: value for key, value in options.items() if value is not None}
    history = [{"role": "system", "content": system}] if system else []
    with open_edge(find_edge(edge, state_dir)) as client:
        client.headers["x-session-id"] = session or f"cli-{uuid.uuid4()}"
        if prompt or not is_interactive():
            said = " ".join(prompt) if prompt else sys.stdin.read()
            _answer_once(client, asked, [*history, _user(said)], as_json=as_json)
        else:
            _converse(client, asked, history)


def ask(
    client: httpx.Client,
    options: dict[str, Any],
    messages: list[Message],
    on_text: Callable[[str], None],
) -> Reply:
    """Streams one answer; `on_text` gets each piece as it comes."""
    body = {**options, "messages": messages, "stream": True}
    body["stream_options"] = {"include_usage": True}
    began = time.monotonic()
    first_token_s = 0.0
    pieces: list[str] = []
    finish_reason, usage = None, None
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        require_success(answer)
        for event in read_events(answer):
            usage = event.get("usage") or usage
            for choice in event.get("choices", ()):
                finish_reason = choice.get("finish_reason") or finish_reason
                if piece := choice.get("delta", {}).get("content"):
                    first_token_s = first_token_s or time.monotonic() - began
                    pieces.append(piece)
                    on_text(piece)
        headers = answer.headers
    return Reply(
        text="".join(pieces),
        finish_reason=finish_reason,
        usage=usage,
        first_token_s=first_token_s,
        total_s=time.monotonic() - began,
        node=headers.get("x-ringmesh-node", ""),
        version=headers.get("x-ringmesh-version", ""),
        trace_id=headers.get("x-ringmesh-trace-id", ""),
    )


def describe(reply: Reply) -> str:
    """Where the answer came from and what it took, on a line."""
    tokens = (reply.usage or {}).get("completion_tokens", 0)
    decode_s = max(reply.total_s - reply.first_token_s, 1e-9)
    rate = f"{(tokens - 1) / decode_s:.0f} tokens/s" if tokens > 1 else ""
    parts = (
        f"{reply.node} version {reply.version}" if reply.node else "",
        f"first token {reply.first_token_s * 1000:.0f} ms",
        f"{tokens} tokens",
        rate,
        f"trace {reply.trace_id[:8]}" if reply.trace_id else "",
    )
    return " · ".join(part for part in parts if part)


def _answer_once(
    client: httpx.Client, options: dict[str, Any], messages: list[Message], *, as_json: bool
) -> None:
    reply = ask(client, options, messages, (lambda _: None) if as_json else _write)
    if as_json:
        print_json({field: getattr(reply, field) for field in Reply.__slots__})
        return
    _write("\n")
    if sys.stderr.isatty():
        Console(stderr=True, highlight=False).print(f"[dim]{describe(reply)}[/]")


def _converse(client: httpx.Client, options: dict[str, Any], history: list[Message]) -> None:
    console = make_console()
    console.print(f"[dim]Talking to {options['model']}; an empty line or Ctrl-D ends it.[/]")
    while True:
        try:
            said = console.input("[bold cyan]> [/]").strip()
        except EOFError:
            return
        if not said:
            return
        history.append(_user(said))
        reply = ask(client, options, history, _write)
        history.append({"role": "assistant", "content": reply.text})
        console.print(f"\n[dim]{describe(reply)}[/]")


def _user(said: str) -> Message:
    return {"role": "user", "content": said}


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
