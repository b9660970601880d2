"""The package's use of TensorRT against what both flavours really offer."""

from __future__ import annotations

import ast
import inspect
import re
from types import ModuleType
from typing import Any

import pytest

from services.inference.backends.tensorrt import api, library, rtx_api
from tests.integration.tensorrt_bindings import full_tensorrt_classes

ALIASES = {"IParserError": "ParserError"}
# Asked for behind a test of the flavour only.
RTX_ONLY = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInvalidityDiagnostics",
    "EngineValidity",
}
# `let_attention_decompose` goes through these two untyped.
ATTENTION = {"IAttentionInputLayer": {"attention"}, "IAttention": {"decomposable"}}


@pytest.fixture(scope="module")
def full() -> dict[str, dict[str, Any]]:
    return full_tensorrt_classes()


def members(module: ModuleType) -> dict[str, set[str]]:
    """What the protocols of a module list, by the class that each stands for."""
    listed: dict[str, set[str]] = {}
    for name, kind in vars(module).items():
        if inspect.isclass(kind) and kind.__module__ == module.__name__:
            own = {m for m in (*vars(kind), *kind.__annotations__) if not m.startswith("_")}
            listed[ALIASES.get(name, name)] = own
    return listed


def constants() -> dict[str, set[str]]:
    """`Class.MEMBER` as `library` reads them off the module: the classes, and what of them."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(library))):
        match = re.match(r"(?:self\._module|module)\.([A-Z]\w*)(?:\.(\w+))?", _dotted(node))
        if match:
            found.setdefault(match[1], set()).update({match[2]} - {None})
    return found


def _dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute) else ""


def test_the_lists_are_read_as_they_should_be() -> None:
    assert "build_serialized_network" in members(api)["Builder"]
    assert "profiling_verbosity" in members(api)["IBuilderConfig"]
    assert "set_compute_capability" in members(rtx_api)["IBuilderConfig"]
    assert constants()["NetworkDefinitionCreationFlag"] == {"STRONGLY_TYPED"}
    assert constants().keys() >= RTX_ONLY


def test_full_tensorrt_has_every_member_that_both_should_have(
    full: dict[str, dict[str, Any]],
) -> None:
    wanted = members(api) | ATTENTION
    wanted |= {name: parts for name, parts in constants().items() if name not in RTX_ONLY}
    absent = [
        f"{name}.{member}"
        for name, parts in wanted.items()
        for member in (parts or {"__init__"})
        if member not in full.get(name, {}) and member != "__members__"
    ]
    assert absent == []


def test_full_tensorrt_makes_contexts_from_a_runtime_configuration(
    full: dict[str, dict[str, Any]],
) -> None:
    makes = full["ICudaEngine"]["create_execution_context"]
    assert "runtime_config: " in makes
    assert (
        "ExecutionContextAllocationStrategy"
        in full["IRuntimeConfig"]["set_execution_context_allocation_strategy"]
    )


def test_what_is_for_tensorrt_rtx_alone_would_be_missed_in_the_full_one(
    full: dict[str, dict[str, Any]],
) -> None:
    assert not RTX_ONLY & full.keys()
    own = {(name, m) for name, parts in members(rtx_api).items() for m in parts}
    assert not {(name, m) for name, m in own if m in full.get(name, {})}


def test_tensorrt_rtx_has_all_of_it() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="the extra `tensorrt` is not installed")
    wanted = [*members(api).items(), *members(rtx_api).items(), *constants().items()]
    absent = [
        f"{name}.{member}"
        for name, parts in [*wanted, *ATTENTION.items()]
        for member in (parts or {"__init__"})
        if not hasattr(getattr(rtx, name, None), member)
    ]
    # The runtime cache has no name of its own in the module.
    assert {entry for entry in absent if not entry.startswith("IRuntimeCache.")} == set()
