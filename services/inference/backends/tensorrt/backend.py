"""TensorRT as the node sees it: engines that are there are opened, those that are not are built.

Building takes minutes, so opening never waits for it. A model whose engine is missing is refused as
`NOT_BUILT_YET` and opens on the next backend; the refusal has what would build the engine, and
after that the model opens here. Two that ask for one engine build it once: the second finds the
first one's, or waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.inference.backends.backend import (
    BackendFailed,
    BackendUnavailable,
    Device,
    Graph,
    Obstacle,
)
from services.inference.backends.kept_weights import KeptWeights
from services.inference.backends.pending import NotBuiltYet, Pending
from services.inference.backends.tensorrt.build_process import BuildJob
from services.inference.backends.tensorrt.engine import KERNELS_FILE
from services.inference.backends.tensorrt.engine_cache import EngineCache, engine_folder
from services.inference.backends.tensorrt.engine_file import EngineKey
from services.inference.backends.tensorrt.gpu import Gpu
from services.inference.backends.tensorrt.graph_runner import TensorRtGraph
from services.inference.backends.tensorrt.graph_shapes import graph_profile
from services.inference.backends.tensorrt.library import BACKEND
from services.inference.backends.tensorrt.machine import GraphEngine, Machine
from services.inference.backends.tensorrt.precision import (
    decoder_form,
    is_half,
    kept_weights,
)
from services.inference.backends.tensorrt.shapes import Profile, slot_shapes
from services.inference.backends.tensorrt.slots import TensorRtSlots
from services.inference.graph.half import write_half
from services.inference.llm.decoder import Decoder
from services.inference.llm.decoder_graph import build_standard_decoder_graph
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.standard_graph import GRAPH_VERSION
from services.inference.llm.weights import Precision


@dataclass(frozen=True, slots=True)
class _Engine:
    """An engine that a model asks for: its key, where it is kept, how its graph is written."""

    key: EngineKey
    model: str
    cache_dir: Path
    profiles: tuple[Profile, ...]
    write_graph: Callable[[Path], Path]


class TensorRtBackend:
    """Models as TensorRT engines."""

    name = BACKEND

    def __init__(self, machine: Machine, cache: EngineCache) -> None:
        self._machine = machine
        self._cache = cache

    def check(self) -> Device:
        """On the first GPU, if the library runs on its architecture."""
        self._machine.identify()
        return Device.GPU

    def kept_weights(self, wanted: Precision, compute: str) -> KeptWeights:
        """As asked for; float32 is what `precision` says."""
        architecture = self._machine.identify().architecture
        return kept_weights(decoder_form(wanted, compute, architecture), wanted)

    def open_slots(self, decoder: Decoder, slots: int) -> SlotBackend:
        """Loads the decoder's engine, and runs it in every shape once."""
        architecture = self._machine.identify().architecture
        form = decoder_form(decoder.precision, decoder.compute, architecture)
        shapes = slot_shapes(
            decoder.config, form, slots=slots, context_tokens=decoder.context_tokens
        )

        def write_graph(folder: Path) -> Path:
            return build_standard_decoder_graph(
                decoder.open_weights(),
                decoder.config,
                positions=shapes.positions,
                form=form,
                folder=folder,
            )

        wanted = _Engine(
            key=self._key(
                decoder.digest,
                kind=f"decoder-{GRAPH_VERSION}",
                profile=f"slots={slots} context={decoder.context_tokens}",
                precision=str(form),
            ),
            model=decoder.model,
            cache_dir=decoder.cache_dir,
            profiles=shapes.profiles(),
            write_graph=write_graph,
        )
        with self._loaded(wanted) as (engine, gpu):
            return TensorRtSlots(engine, gpu, shapes)

    def open_graph(self, graph: Graph) -> TensorRtGraph:
        """Loads the graph's engine; an encoder computes in half precision unless told not to."""
        if not graph.has_rows:
            text = (
                f"{graph.model} may mix its rows, and runs are padded: its manifest has no batching"
            )
            raise BackendUnavailable(BACKEND, Obstacle.UNSUPPORTED_MODEL, text)
        source = graph.onnx()
        profile = graph_profile(graph.model, source, graph.encoder)
        half = graph.encoder is not None and is_half(graph.compute)
        wanted = _Engine(
            key=self._key(
                graph.digest,
                kind=f"graph {source.parent.name}",
                profile=" ".join(f"{each.name}={each.most}" for each in profile),
                precision="fp16" if half else "as it is",
            ),
            model=graph.model,
            cache_dir=graph.cache_dir,
            profiles=(profile,),
            write_graph=partial(write_half, source) if half else lambda _folder: source,
        )
        with self._loaded(wanted) as (engine, gpu):
            return TensorRtGraph(engine, gpu, profile, engine.tensors)

    def _key(self, digest: str, *, kind: str, profile: str, precision: str) -> EngineKey:
        here = self._machine.identify()
        return EngineKey(
            digest=digest,
            kind=kind,
            flavour=here.flavour,
            version=here.version,
            architecture=here.architecture,
            profile=profile,
            precision=precision,
        )

    @contextmanager
    def _loaded(self, wanted: _Engine) -> Iterator[tuple[GraphEngine, Gpu]]:
        """The engine on the GPU; nothing of either is left where what follows fails."""
        plan = self._cache.load(wanted.cache_dir, wanted.key)
        if plan is None:
            raise NotBuiltYet(self._work(wanted), "the engine is to be built")
        kernels = engine_folder(wanted.cache_dir, wanted.key) / KERNELS_FILE
        with _unusable(), ExitStack() as undo:
            gpu = self._machine.open_gpu()
            undo.callback(gpu.close)
            engine = self._machine.load(plan, gpu, kernels)
            undo.callback(engine.close)
            yield engine, gpu
            undo.pop_all()

    def _work(self, wanted: _Engine) -> Pending:
        process = self._machine.new_build()

        def build(folder: Path, plan: Path) -> None:
            graph = wanted.write_graph(folder)
            target = wanted.key.architecture
            process.run(BuildJob(graph, wanted.profiles, (target,), plan))

        obtain = partial(self._cache.obtain, wanted.cache_dir, wanted.model, wanted.key, build)
        return Pending(BACKEND, obtain, process.close)


@contextmanager
def _unusable() -> Iterator[None]:
    """An engine that fails before it has served anybody is no engine; the model has others.

    The library's bindings answer a null pointer with TypeError, and what they throw with
    RuntimeError.
    """
    try:
        yield
    except (BackendFailed, RuntimeError, TypeError) as error:
        detail = f"the engine fails in its first runs: {error}"
        raise BackendUnavailable(BACKEND, Obstacle.BUILD_FAILED, detail) from error
