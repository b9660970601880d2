"""The instances of a graph: a runner for each thread that will run it at once.

A runner that takes several threads is shared by all instances, so that its weights lie in memory
once; of others there is one per instance. Who runs what when is the batcher's business.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from services.inference.backends.backend import GraphRunner, GraphTensor


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """A graph that runs so many times at once; the same runner may stand in several places."""

    runners: tuple[GraphRunner, ...]

    @property
    def inputs(self) -> tuple[GraphTensor, ...]:
        """What the graph takes."""
        return self.runners[0].inputs

    @property
    def outputs(self) -> tuple[GraphTensor, ...]:
        """What it gives."""
        return self.runners[0].outputs

    @property
    def memory_bytes(self) -> int:
        """What all of it takes."""
        return sum(runner.memory_bytes for runner in self._opened())

    def close(self) -> None:
        """Frees everything; no run may be under way."""
        for runner in self._opened():
            runner.close()

    def _opened(self) -> list[GraphRunner]:
        return list({id(runner): runner for runner in self.runners}.values())


def open_instances(open_runner: Callable[[], GraphRunner], count: int) -> InstanceGroup:
    """Opens as many runners as so many instances need; raises what opening one raises."""
    with ExitStack() as opened:
        runners = [open_runner()]
        opened.callback(runners[0].close)
        if runners[0].is_concurrent:
            runners *= count
        while len(runners) < count:
            runners.append(open_runner())
            opened.callback(runners[-1].close)
        opened.pop_all()  # all of them are open: they stay
    return InstanceGroup(tuple(runners))
