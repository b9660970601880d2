"""An encoder that could read nothing of a text is refused when it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition
from mesh.manifest import Manifest
from services.inference.encoders.bert_config import read_encoder
from services.inference.encoders.bert_encoder import load_bert_encoder
from tests.reference.tiny_encoders import ENCODERS, write_encoder


def load(folder: Path, max_tokens: int) -> None:
    manifest = Manifest(name="m", task="text-embedding", format="transformers")
    spec = VersionSpec(version=1, digest="0" * 64, manifest=manifest, files=())
    files = write_encoder(folder, ENCODERS["bert"])
    load_bert_encoder(
        files, read_encoder(files), spec, max_tokens=max_tokens, cache_dir=folder, backends=()
    )


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_special_tokens_must_leave_room_for_a_text(tmp_path: Path, max_tokens: int) -> None:
    with pytest.raises(FailedPrecondition, match=rf"max_tokens: {max_tokens} leave no room.*2 sp"):
        load(tmp_path, max_tokens)


def test_one_token_is_enough(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="backend"):  # the next thing that it looks for
        load(tmp_path, 3)
