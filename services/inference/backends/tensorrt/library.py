"""The TensorRT that is installed here: the one module that imports it.

There are two flavours with nearly the same interface. `tensorrt` runs on every NVIDIA GPU since
Turing and builds on the GPU that it builds for; `tensorrt_rtx` is a small wheel that runs on the
GPUs of desktops and workstations, builds without a GPU, and finishes its kernels on the machine.
All that differs between them is decided here; the rest of the package sees a `Library`.

The library keeps the first logger of a process for good, so a process makes one `Library`.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Any, cast

from services.inference.backends.backend import BackendUnavailable, Obstacle
from services.inference.backends.tensorrt import api, rtx_api
from services.inference.backends.tensorrt.gpu import Architecture

BACKEND = "tensorrt"
_KEPT_LINES = 40
# The library says this of every int64 input; that is how token ids come.
_EXPECTED = "has Int64 binding"


class Flavour(Enum):
    """Which TensorRT; the values are the names of their modules."""

    FULL = "tensorrt"
    RTX = "tensorrt_rtx"


class BuildLog:
    """The last warnings and errors of the library: where it says why something failed."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def add(self, line: str) -> None:
        """Keeps a line."""
        if _EXPECTED not in line:
            self._lines.append(line)

    def take(self) -> str:
        """What was said since the last time."""
        lines, text = self._lines, ""
        if lines:
            text = "; ".join(dict.fromkeys(lines))
            lines.clear()
        return text


class Library:
    """A TensorRT, with what tells its flavours apart."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.flavour = Flavour.RTX if hasattr(module, "ComputeCapability") else Flavour.FULL
        self.version: str = module.__version__
        self.log = BuildLog()
        self._logger = _make_logger(module, self.log)

    def __repr__(self) -> str:
        return f"<Library {self.flavour.value} {self.version}>"

    @property
    def supported(self) -> frozenset[Architecture] | None:
        """The architectures that it runs on; None where it does not say."""
        if self.flavour is Flavour.FULL:
            return None
        names = self._module.ComputeCapability.__members__
        return frozenset(Architecture.parse(n) for n in names if n.startswith("SM"))

    def check_architecture(self, architecture: Architecture) -> None:
        """Raises `BackendUnavailable` for a GPU that this flavour does not run on."""
        supported = self.supported
        if supported is not None and architecture not in supported:
            raise BackendUnavailable(
                BACKEND,
                Obstacle.UNSUPPORTED_GPU,
                f"TensorRT-RTX {self.version} does not run on {architecture} (it runs on "
                f"{', '.join(map(str, sorted(supported)))}); install full TensorRT for this GPU: "
                "pip install tensorrt",
            )

    def make_builder(self) -> api.Builder:
        """A builder; it wants a GPU of the full flavour only."""
        try:
            return cast("api.Builder", self._module.Builder(self._logger))
        except (RuntimeError, TypeError) as error:  # the bindings' word for a null pointer
            what = f"no builder could be made: {error}"
            raise self.failure(Obstacle.BUILD_FAILED, what) from error

    def make_network(self, builder: api.Builder) -> api.INetworkDefinition:
        """An empty network whose tensors have the types that the model gives them."""
        flag = self._module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(flag))

    def make_parser(self, network: api.INetworkDefinition) -> api.OnnxParser:
        """A parser that fills the network."""
        return cast("api.OnnxParser", self._module.OnnxParser(network, self._logger))

    def make_config(
        self, builder: api.Builder, targets: Sequence[Architecture]
    ) -> api.IBuilderConfig:
        """How to build: with what an inspector can read, for these architectures.

        The full flavour builds for the GPU of this machine, whatever the targets. Float32 is
        computed in float32, and not in the ten bits of TF32 that both flavours take by themselves.
        """
        config = builder.create_builder_config()
        config.clear_flag(self._module.BuilderFlag.TF32)
        config.profiling_verbosity = self._module.ProfilingVerbosity.DETAILED
        if self.flavour is Flavour.RTX and targets:
            rtx = cast("rtx_api.IBuilderConfig", config)
            rtx.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets):
                capability = self._module.ComputeCapability.__members__[target.code]
                rtx.set_compute_capability(capability, index)
        return config

    def let_attention_decompose(self, network: api.INetworkDefinition) -> None:
        """Allows attention for which there is no fused kernel to run as several."""
        wanted = self._module.LayerType.ATTENTION_INPUT
        for index in range(network.num_layers):
            layer: Any = network.get_layer(index)
            if layer.type == wanted:
                # The library hands out plain layers; this is its own way to the derived one.
                layer.__class__ = self._module.IAttentionInputLayer
                layer.attention.decomposable = True

    def make_runtime(self) -> api.Runtime:
        """What loads engines."""
        return cast("api.Runtime", self._module.Runtime(self._logger))

    def check_plan(self, runtime: api.Runtime, plan: bytes) -> None:
        """Raises `BackendUnavailable` for a plan that is known not to run on this GPU."""
        if self.flavour is Flavour.FULL:
            return  # it tells when it loads the plan
        validity, bits = cast("rtx_api.Runtime", runtime).get_engine_validity(plan)
        if validity == self._module.EngineValidity.INVALID:
            reasons = self._diagnostics(bits)
            raise self.failure(_obstacle_of(reasons), ", ".join(reasons) or "the plan is invalid")

    def make_context_config(self, engine: api.ICudaEngine) -> api.IRuntimeConfig:
        """Contexts that share one working memory, which we give them."""
        config = engine.create_runtime_config()
        strategy = self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        config.set_execution_context_allocation_strategy(strategy)
        if self.flavour is Flavour.RTX:
            self._use_rtx(cast("rtx_api.IRuntimeConfig", config))
        return config

    def make_kernel_cache(
        self, config: api.IRuntimeConfig, saved: bytes | None
    ) -> rtx_api.IRuntimeCache | None:
        """The cache of kernels made on this machine, where the flavour makes any."""
        if self.flavour is Flavour.FULL:
            return None
        rtx = cast("rtx_api.IRuntimeConfig", config)
        cache = rtx.create_runtime_cache()
        if saved is not None:
            cache.deserialize(saved)  # one of another driver is refused, and made anew
        rtx.set_runtime_cache(cache)
        return cache

    def is_input(self, engine: api.ICudaEngine, name: str) -> bool:
        """Whether a tensor of an engine goes in."""
        return bool(engine.get_tensor_mode(name) == self._module.TensorIOMode.INPUT)

    def datatype(self, engine: api.ICudaEngine, name: str) -> str:
        """A tensor's type in the Open Inference Protocol's words."""
        code: str = engine.get_tensor_dtype(name).name
        return _DATATYPES.get(code, code)

    def failure(self, obstacle: Obstacle, what: str) -> BackendUnavailable:
        """An error with what the library has said of it."""
        said = self.log.take()
        return BackendUnavailable(BACKEND, obstacle, f"{what}: {said}" if said else what)

    def _use_rtx(self, config: rtx_api.IRuntimeConfig) -> None:
        strategies = self._module.DynamicShapesKernelSpecializationStrategy
        # A shape that is new runs on general kernels until its own are ready.
        config.dynamic_shapes_kernel_specialization_strategy = strategies.LAZY
        config.cuda_graph_strategy = self._module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE

    def _diagnostics(self, bits: int) -> list[str]:
        members = self._module.EngineInvalidityDiagnostics.__members__
        return [name for name, flag in members.items() if bits & int(flag.value)]


def load_library() -> Library:
    """The TensorRT of this machine, the full one first.

    Raises:
        BackendUnavailable: there is none.
    """
    problems = []
    for flavour in Flavour:
        try:
            return Library(importlib.import_module(flavour.value))
        except (ImportError, OSError) as error:  # OSError: a shared library of it is missing
            problems.append(f"{flavour.value}: {error}")
    raise BackendUnavailable(
        BACKEND,
        Obstacle.MISSING_LIBRARY,
        f"neither flavour can be imported ({'; '.join(problems)}); "
        "install one: pip install 'ringmesh[tensorrt]', or full TensorRT: pip install tensorrt",
    )


_DATATYPES = {
    "FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT64": "INT64", "INT32": "INT32",
    "INT8": "INT8", "UINT8": "UINT8", "BOOL": "BOOL",
}  # fmt: skip
_WRONG_GPU = {"UNSUPPORTED_CC", "VERSION_MISMATCH", "MALFORMED_ENGINE"}
_NO_DRIVER = {"CUDA_ERROR", "OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME"}


def _obstacle_of(reasons: Sequence[str]) -> Obstacle:
    if _WRONG_GPU.intersection(reasons):
        return Obstacle.PLAN_FOR_ANOTHER_GPU
    if "INSUFFICIENT_GPU_MEMORY" in reasons:
        return Obstacle.OUT_OF_MEMORY
    # Without a GPU it answers "invalid" and gives no reason.
    return (
        Obstacle.NO_GPU
        if _NO_DRIVER.intersection(reasons) or not reasons
        else (Obstacle.PLAN_FOR_ANOTHER_GPU)
    )


def _make_logger(module: Any, log: BuildLog) -> Any:
    class Logger(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            # Smaller is worse; below warnings it tells its life.
            if severity <= module.ILogger.Severity.WARNING:
                log.add(msg.strip()[:400])

    return Logger()
