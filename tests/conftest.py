"""What all tests share: the model files and the binaries, obtained once per machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mesh.local.cache import find_cache_dir
from mesh.local.demo_models import DemoModels, obtain_demo_models
from mesh.local.toolchain import find_consul, find_envoy

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def demo_models() -> DemoModels:
    """The demo models' files (`smollm2_gguf`, `minilm_folder`)."""
    return obtain_demo_models(find_cache_dir())


@pytest.fixture(scope="session")
def consul_binary() -> Path:
    """A real Consul."""
    return find_consul(find_cache_dir())


@pytest.fixture(scope="session")
def envoy_binary() -> Path:
    """A real Envoy."""
    return find_envoy()
