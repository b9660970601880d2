"""How a process ends whose environment is wrong."""

from __future__ import annotations

import pytest

from mesh.lifecycle import settings_or_exit
from mesh.settings import ServiceSettings


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RINGMESH_DRAIN_TIMEOUT_S", "soon"),
        ("RINGMESH_LISTEN", "here"),
        ("CONSUL_HTTP_ADDR", "http://consul/"),
    ],
)
def test_a_wrong_variable_is_named_as_the_user_wrote_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        settings_or_exit(ServiceSettings)
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"settings: {variable}: ")
    assert "Value error" not in complaint
