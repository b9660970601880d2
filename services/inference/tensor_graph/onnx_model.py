"""Opens an ONNX file of any signature: loads it, tries it out, and puts a queue before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from mesh.batching_options import BatchingOptions
from mesh.deployment import VersionSpec
from mesh.manifest import Manifest
from services.inference.backends.backend import Graph
from services.inference.backends.choice import open_first
from services.inference.backends.instance_group import InstanceGroup, open_instances
from services.inference.batching.batcher import open_batcher
from services.inference.batching.ragged import RaggedAxis
from services.inference.graph import session
from services.inference.loading_thread import load_in_thread
from services.inference.models.tensor_model import Signature
from services.inference.models.tensor_place import TensorPlace
from services.inference.tensor_graph.company import Company
from services.inference.tensor_graph.loaded_graph import LoadedGraph
from services.inference.tensor_graph.model import Answerer, GraphModel, RequestAnswerer, RowAnswerer
from services.inference.tensor_graph.onnx_file import find_onnx, tensors_without_rank
from services.inference.tensor_graph.ragged_axes import make_ragged
from services.inference.tensor_graph.signature import make_signature
from services.inference.tensor_graph.trial import Tried, try_out

_ONE_BY_ONE = {"max_batch_size": 1, "max_queue_delay_ms": 0.0, "preferred_batch_sizes": ()}


async def open_onnx_model(folder: Path, spec: VersionSpec, place: TensorPlace) -> GraphModel:
    """Loads the graph in `folder` and opens its queue.

    Raises:
        FailedPrecondition: it cannot be loaded, contradicts its manifest, or fails when tried.
    """
    tried = await load_in_thread(
        lambda: load_onnx(folder, spec, place), lambda tried: tried.graph.instances.close()
    )
    graph = tried.graph
    async with AsyncExitStack() as opened:
        opened.push_async_callback(asyncio.to_thread, graph.instances.close)
        answerer = await opened.enter_async_context(_open_queue(graph, spec, place))
        remark = "; ".join(each for each in (graph.opening.remark, tried.remark) if each)
        return GraphModel(spec, graph, answerer, tried.sample, remark, lifetime=opened.pop_all())


def load_onnx(folder: Path, spec: VersionSpec, place: TensorPlace) -> Tried:
    """Loads and tries the graph; blocking. Raises as `open_onnx_model` does."""
    path, manifest = find_onnx(folder), spec.manifest
    source = Graph(
        model=manifest.name,
        digest=spec.digest,
        onnx=lambda: path,
        cache_dir=place.cache_dir,
        compute=manifest.precision,
        has_rows=manifest.batching is not None,
    )
    instances, opening = open_first(
        manifest.backend,
        place.backends,
        lambda backend: open_instances(lambda: backend.open_graph(source), manifest.instances),
    )
    with ExitStack() as opened:
        opened.callback(instances.close)
        signature = _signature(path, manifest, instances)
        graph = LoadedGraph(instances, opening, signature, _ragged(manifest, instances))
        tried = try_out(graph, manifest.warm_up or ())
        opened.pop_all()  # it has passed: it stays open
    return tried


def _signature(path: Path, manifest: Manifest, instances: InstanceGroup) -> Signature:
    inputs, outputs = instances.inputs, instances.outputs
    has_scalars = any(not tensor.shape for tensor in (*inputs, *outputs))
    signature = make_signature(
        session.PLATFORM,
        inputs,
        outputs,
        rankless=tensors_without_rank(path) if has_scalars else (),
        batching=manifest.batching,
        labels=manifest.labels or {},
        instances=manifest.instances,
    )
    return replace(signature, instances=manifest.instances)


def _ragged(manifest: Manifest, instances: InstanceGroup) -> tuple[RaggedAxis, ...]:
    declared = () if manifest.batching is None else manifest.batching.ragged
    return make_ragged(declared, instances.inputs, instances.outputs)


@asynccontextmanager
async def _open_queue(
    graph: LoadedGraph, spec: VersionSpec, place: TensorPlace
) -> AsyncIterator[Answerer]:
    meter = place.metrics.meter(spec.manifest.name, spec.version)
    options = graph.signature.batching or BatchingOptions()
    if graph.company in (None, Company.NONE):
        options = options.model_copy(update=_ONE_BY_ONE)
        async with open_batcher(
            spec.manifest.name, graph.request_runs, options, meter, max_rows=place.max_queue_rows
        ) as requests:
            yield RequestAnswerer(requests)
    else:
        async with open_batcher(
            spec.manifest.name, graph.row_runs, options, meter, max_rows=place.max_queue_rows
        ) as rows:
            yield RowAnswerer(rows, graph)
