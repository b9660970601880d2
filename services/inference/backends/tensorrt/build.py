"""Builds an engine from an ONNX file: parse, shapes, targets, plan. It takes seconds to minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.inference.backends.backend import Obstacle
from services.inference.backends.tensorrt import api
from services.inference.backends.tensorrt.gpu import Architecture
from services.inference.backends.tensorrt.library import Library
from services.inference.backends.tensorrt.shapes import Profile


def build_plan(
    library: Library, graph: Path, profiles: Sequence[Profile], targets: Sequence[Architecture]
) -> bytes:
    """The plan of a graph.

    Raises:
        BackendUnavailable: it cannot be built; the message has what the library said.
    """
    builder = library.make_builder()
    network = parse_network(library, builder, graph)
    library.let_attention_decompose(network)
    config = library.make_config(builder, targets)
    for profile in profiles:
        config.add_optimization_profile(_make_profile(builder, profile))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise library.failure(Obstacle.BUILD_FAILED, f"{graph.name} cannot be built")
    return bytes(memoryview(plan))


def parse_network(library: Library, builder: api.Builder, graph: Path) -> api.INetworkDefinition:
    """The network that a graph stands for; raises like `build_plan`."""
    network = library.make_network(builder)
    parser = library.make_parser(network)
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        what = f"{graph.name} cannot be parsed: {'; '.join(errors)}"
        raise library.failure(Obstacle.BUILD_FAILED, what)
    return network


def _make_profile(builder: api.Builder, profile: Profile) -> api.IOptimizationProfile:
    made = builder.create_optimization_profile()
    for each in profile:
        made.set_shape(each.name, each.least, each.usual, each.most)
    return made
