"""A machine whose engines are the graphs themselves, run by the oracle in the memory of a host GPU.

Builds, caches, headers and swaps are the real ones; only the plan's content is of another make.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

from services.inference.backends.backend import BackendUnavailable, Obstacle
from services.inference.backends.tensorrt.build_process import BuildJob, read_job
from services.inference.backends.tensorrt.gpu import Architecture, Gpu
from services.inference.backends.tensorrt.machine import Identity
from tests.unit.tensorrt.host_gpu import HostGpu
from tests.unit.tensorrt.oracle_engine import OracleEngine

_LOOK_AROUND_S = 0.005  # how soon a build sees that it, and no other, was ended
ADA = Identity("oracle", "1.0", Architecture(8, 9))


class OracleMachine:
    """Keeps the graphs that it has "built" in a folder; a plan says which and for what shapes."""

    def __init__(self, folder: Path, identity: Identity = ADA) -> None:
        self.folder = folder
        self.identity = identity
        self.may_build = threading.Event()
        self.may_build.set()
        self.refusal: BackendUnavailable | None = None
        self.build_failure = ""
        self.tilt = 0.0
        self.loading_error: Exception | None = None
        self.capacity_bytes = 1 << 30
        self.begun = 0
        self.built: list[BuildJob] = []
        self.gpus: list[HostGpu] = []

    def identify(self) -> Identity:
        if self.refusal is not None:
            raise self.refusal
        return self.identity

    def open_gpu(self) -> Gpu:
        self.gpus.append(HostGpu(self.capacity_bytes))
        return self.gpus[-1]

    def new_build(self) -> OracleBuild:
        return OracleBuild(self)

    def finish(self, job: BuildJob) -> None:
        if self.build_failure:
            raise BackendUnavailable("tensorrt", Obstacle.BUILD_FAILED, self.build_failure)
        self.built.append(job)
        kept = self.folder / str(len(self.built))
        shutil.copytree(job.graph.parent, kept)
        fields = json.loads(job.to_json()) | {"graph": str(kept / job.graph.name)}
        job.plan.write_text(json.dumps(fields))

    def load(self, plan: bytes, gpu: Gpu, kernels: Path) -> OracleEngine:
        del gpu, kernels
        if self.loading_error is not None:
            raise self.loading_error
        job = read_job(json.loads(plan))
        return OracleEngine(job.graph, job.profiles, tilt=self.tilt)

    def refuse_builds(self, detail: str) -> None:
        self.build_failure = detail

    def refuse(self, obstacle: Obstacle, detail: str) -> None:
        self.refusal = BackendUnavailable("tensorrt", obstacle, detail)


class OracleBuild:
    """A build that takes as long as the machine says."""

    def __init__(self, machine: OracleMachine) -> None:
        self._machine = machine
        self._is_closed = False

    def run(self, job: BuildJob) -> None:
        self._machine.begun += 1
        while not (self._is_closed or self._machine.may_build.wait(_LOOK_AROUND_S)):
            pass
        if self._is_closed:
            raise BackendUnavailable("tensorrt", Obstacle.BUILD_FAILED, "given up")
        self._machine.finish(job)

    def close(self) -> None:
        self._is_closed = True
