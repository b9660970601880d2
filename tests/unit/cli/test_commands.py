import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import typer
from typer.testing import CliRunner

from mesh.cli.call import CallFailed, call
from mesh.cli.chat_command import ask, describe
from mesh.cli.config_command import read_value
from mesh.cli.deploy_command import read_targets
from mesh.cli.log_line import render_line
from mesh.cli.main import COMMANDS, app, load_command
from mesh.cli.publish_command import read_manifest
from mesh.cli.registry_call import render_targets
from mesh.cli.trace_command import walk
from mesh.cli.up_command import make_welcome, read_settings
from mesh.errors import Unavailable
from mesh.local.problem import LocalProblem
from mesh.local.run_state import MeshRecord
from mesh.local.trace_tree import SpanRecord, build_tree
from mesh.pb.registry_pb2 import ListModelsRequest
from mesh.pb.registry_pb2_grpc import RegistryStub


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_speaks_json(name: str) -> None:
    command = load_command(name)
    leaves = getattr(command, "commands", {name: command}).values()
    for leaf in leaves:
        assert "--json" in [option for param in leaf.params for option in param.opts]
        assert leaf.help


def test_help_needs_none_of_the_clients() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)


def test_a_problem_is_one_sentence_and_an_exit_status(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--state-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "start one with `ringmesh up`" in result.stderr
    assert "Traceback" not in result.stderr


def test_down_without_a_mesh_is_content(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["down", "--state-dir", str(tmp_path), "--json"])
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"stopped": None})


def test_logs_name_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/envoy.log").write_text("one\ntwo\n")
    runner = CliRunner()
    shown = runner.invoke(app, ["logs", "--state-dir", str(tmp_path), "-n", "1", "--json"])
    assert json.loads(shown.stdout) == {"process": "envoy", "line": "two"}
    unknown = runner.invoke(app, ["logs", "gateway", "--state-dir", str(tmp_path)])
    assert unknown.exit_code == 1
    assert "known are: envoy" in unknown.stderr


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain words", "plain words"),
        (
            '{"event": "serving", "port": 7, "timestamp": "2026-11-21T05:20:17.157818Z"}',
            "05:20:17.157 serving port=7",
        ),
        ('{"method": "GET", "path": "/v2", "status": 503, "flags": "-"}', "GET /v2 503 "),
        ('{"event": "broke", "exception": "Traceback"}', "broke \nTraceback"),
        ('{"event": "broke", "traceback": "Traceback\\n  File"}', "broke \nTraceback\n  File"),
    ],
)
def test_log_lines_are_made_readable(line: str, shown: str) -> None:
    assert render_line(line).plain.startswith(shown)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGMESH_EDGE_PORT", "99999")
    with pytest.raises(LocalProblem, match=r"RINGMESH_EDGE_PORT: .*65535"):
        read_settings()


def test_a_wrong_address_is_answered_with_the_form_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "somewhere")
    with pytest.raises(
        LocalProblem, match=r"^CONSUL_HTTP_ADDR: 'somewhere' is not host:port, such"
    ):
        read_settings()


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONSUL_HTTP_ADDR", "OTEL_EXPORTER_OTLP_ENDPOINT", "RINGMESH_EDGE_PORT"):
        monkeypatch.setenv(name, "")
    settings = read_settings()
    assert (settings.consul_address, settings.otlp_endpoint) == (None, None)
    assert settings.edge_port == 8080


def test_a_stray_variable_is_told_of_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RINGMESH_EGDE_PORT", "18080")
    monkeypatch.setenv("RINGMESH_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CONSUL_BIN", str(tmp_path / "nothing"))  # which ends it right after
    for arguments in (["up"], ["up", "--json"]):
        result = CliRunner().invoke(app, arguments)
        assert "RINGMESH_EGDE_PORT changes nothing: no such variable is known" in result.stdout
        assert "did you mean RINGMESH_EDGE_PORT?" in result.stdout


def test_targets_are_versions_with_weights() -> None:
    targets = [(each.version, each.weight) for each in read_targets(["3", "champion:10"])]
    assert targets == [("3", 100), ("champion", 10)]
    with pytest.raises(typer.BadParameter, match="is not VERSION"):
        read_targets(["3:ten"])


def test_shares_are_shown_in_per_cent() -> None:
    targets = [{"version": "1", "weight": 30}, {"version": "2", "weight": 10}]
    assert render_targets({"targets": targets}) == "1: 75 %, 2: 25 %"
    assert render_targets({"targets": targets[:1]}) == "1"
    assert render_targets(None) == "-"


@pytest.mark.parametrize(("text", "value"), [("150", 150), ("maglev", "maglev"), ('"a"', "a")])
def test_a_setting_is_json_or_plain_text(text: str, value: object) -> None:
    assert json.loads(read_value(text)) == value


def test_a_manifest_is_guessed_from_the_files(tmp_path: Path) -> None:
    guessed = read_manifest(tmp_path / "Tiny.gguf", None, None)
    assert (guessed.name, guessed.task, guessed.format) == ("tiny", "text-generation", "gguf")
    (tmp_path / "modules.json").touch()
    assert read_manifest(tmp_path, None, "encoder").format == "sentence-transformers"


def test_a_written_manifest_wins_and_its_faults_are_named(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"name": "a", "task": "tensor", "format": "identity"}')
    assert read_manifest(tmp_path, None, None).name == "a"
    assert read_manifest(tmp_path, None, "b").name == "b"
    manifest.write_text('{"name": "a", "task": "tensor", "formt": "identity"}')
    with pytest.raises(LocalProblem, match=r"manifest.json: .*; did you mean 'format'\?$"):
        read_manifest(tmp_path, None, None)


def make_client(*lines: str, status: int = 200) -> httpx.Client:
    def answer(_request: httpx.Request) -> httpx.Response:
        headers = {"x-ringmesh-node": "node-1", "x-ringmesh-version": "1"}
        return httpx.Response(status, headers=headers, text="\n\n".join(lines))

    return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://edge")


def event(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}"


def piece(text: str, finish_reason: str | None = None) -> str:
    return event(choices=[{"delta": {"content": text}, "finish_reason": finish_reason}])


def test_an_answer_is_put_together_from_its_pieces() -> None:
    stream = [piece("Hel"), piece("lo", "stop"), event(choices=[], usage={"completion_tokens": 2})]
    heard: list[str] = []
    with make_client(*stream, "data: [DONE]") as client:
        reply = ask(client, {"model": "m"}, [], heard.append)
    assert (reply.text, heard, reply.finish_reason) == ("Hello", ["Hel", "lo"], "stop")
    assert describe(reply).startswith("node-1 version 1 · first token")


def test_an_answer_that_breaks_off_is_a_failure() -> None:
    with make_client(piece("Hel")) as client, pytest.raises(CallFailed, match="broke off"):
        ask(client, {}, [], lambda _: None)


def test_only_a_lost_connection_is_called_one() -> None:
    async def refused(_channel: grpc.aio.Channel) -> None:
        raise Unavailable("the artefact store has failed: no space left on device")

    with pytest.raises(CallFailed, match=r"^the artefact store has failed: .* \(UNAVAILABLE\)$"):
        call("127.0.0.1:1", refused)

    async def lost(channel: grpc.aio.Channel) -> None:
        await RegistryStub(channel).ListModels(ListModelsRequest(), timeout=5)

    with pytest.raises(CallFailed, match=r"^The mesh at 127.0.0.1:1 does not answer .* is it up\?"):
        call("127.0.0.1:1", lost)


def test_an_error_within_a_stream_is_told() -> None:
    stream = [piece("Hel"), event(error={"message": "the node died"})]
    with make_client(*stream) as client, pytest.raises(CallFailed, match="the node died"):
        ask(client, {}, [], lambda _: None)


def test_an_error_is_told_in_the_words_of_either_protocol() -> None:
    for body in ('{"error": "no such model"}', '{"error": {"message": "no such model"}}'):
        with (
            make_client(body, status=404) as client,
            pytest.raises(CallFailed, match=r"no such model \(status 404\)"),
        ):
            ask(client, {}, [], lambda _: None)


def test_the_guides_of_a_trace_draw_a_tree() -> None:
    def span(span_id: str, parent_id: str, start: int) -> SpanRecord:
        return SpanRecord("t", span_id, parent_id, "s", span_id, "", start, start + 1, None, {})

    tree = build_tree([span("a", "", 0), span("b", "a", 1), span("c", "b", 2), span("d", "a", 3)])
    drawn = [guide + node.span.name for guide, node in walk(tree)]
    assert drawn == ["a", "├ b", "│ └ c", "└ d"]


def test_the_commands_to_paste_are_for_this_mesh() -> None:
    record = MeshRecord(
        pid=1,
        state_dir="/elsewhere/state",
        edge="127.0.0.1:18080",
        consul="127.0.0.1:18500",
        envoy_admin="127.0.0.1:19901",
        mesh="",
        controlplane="",
        otlp_endpoint="",
        traces_dir="/elsewhere/state/traces",
        ready_after_s=1.0,
        processes={},
    )
    text = make_welcome(record, "abc")
    assert "curl -s http://127.0.0.1:18080/v1/chat/completions" in text
    assert "RINGMESH_STATE_DIR=/elsewhere/state" in text
    assert text.rstrip().endswith("trace abc")
    assert "trace abc" not in make_welcome(replace(record, traces_dir=None), "abc")


@pytest.mark.parametrize("name", ["Bad Name", "a" * 64, ""])
def test_a_name_that_no_model_can_have_is_told_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a", "task": "tensor", "format": "identity"}')
    with pytest.raises(LocalProblem, match=r"^('.*' cannot name a model: up to 63|a model name)"):
        read_manifest(tmp_path, None, name)
    with pytest.raises(LocalProblem, match=r"No model name can be made of '\+.gguf': give one"):
        read_manifest(tmp_path / "+.gguf", None, None)
