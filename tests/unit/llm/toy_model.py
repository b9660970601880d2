"""A language model on the toy backend: everything above its slots is real."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from prometheus_client import CollectorRegistry

from services.inference.llm.architecture import SamplingDefaults, TextRules
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.scheduler import open_scheduler
from services.inference.models.statistics import VersionStatistics
from tests.unit.llm.toy_backend import ToyBackend
from tests.unit.llm.toy_vocabulary import END, make_vocabulary

RULES = TextRules(
    bos_token="",
    eos_token="<end>",
    bos_id=None,
    add_bos=False,
    end_ids=frozenset({END}),
    chat_template=None,
    sampling=SamplingDefaults(),
)


async def open_toy(name: str, backend: ToyBackend) -> LoadedLanguageModel:
    """Version 1 of a language model that computes on this backend."""
    lifetime = AsyncExitStack()
    vocabulary = make_vocabulary()
    scheduler = await lifetime.enter_async_context(
        open_scheduler(backend, vocabulary.text_bytes, chunk_tokens=16, max_queue=16)
    )
    metrics = LanguageModelMetrics(CollectorRegistry())
    meter = lifetime.enter_context(metrics.watching(name, 1, lambda: scheduler.occupancy))
    return LoadedLanguageModel(
        name,
        1,
        rules=RULES,
        vocabulary=vocabulary,
        backend=backend,
        scheduler=scheduler,
        meter=meter,
        lifetime=lifetime,
    )


class OneModel:
    """A table of one model, whatever it is asked for."""

    def __init__(self, model: LoadedLanguageModel) -> None:
        self._model = model
        self.counts = VersionStatistics(model.name, model.version)

    async def resolve(self, *_: Any) -> LoadedLanguageModel:
        return self._model

    def statistics(self, *_: Any) -> VersionStatistics:
        return self.counts

    def statuses(self) -> tuple[()]:
        return ()
