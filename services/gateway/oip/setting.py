"""Triton's trace and log settings, read from and written to the mesh's live settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.errors import InvalidArgument, ModelNotFound, Unimplemented
from mesh.live_setting import LOG_LEVEL, SAMPLE_RATIO
from services.gateway.directory import parse_reference
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.live_settings import LiveSettings
from services.gateway.oip.log_setting import Value, change_log, show_log
from services.gateway.oip.trace_setting import Settings, change_trace, show_trace


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What can be seen and changed of a running server."""

    live: LiveSettings
    watch: DirectoryWatch

    async def trace(self, changes: Settings, model: str = "") -> Settings:
        """The trace settings after the changes; the same for every model.

        Raises:
            Unimplemented: a change for one model alone, or of what cannot change.
            InvalidArgument: no such model or setting, or a value that it cannot have.
        """
        if model:
            self._check_known(model)
        ratio, default = await self.live.read(SAMPLE_RATIO.key)
        if not changes:
            return show_trace(ratio)
        if model:
            raise Unimplemented("model_name: traces are set for all models together")
        wanted = change_trace(changes, ratio, default)
        if wanted != ratio:
            await self.live.write(SAMPLE_RATIO.key, wanted)
        return show_trace(wanted)

    def _check_known(self, model: str) -> None:
        try:
            self.watch.now.states(parse_reference(model, field="model_name"))
        except ModelNotFound:
            # Triton's words and code, for the settings alone.
            message = f"Request for unknown model : {model[:80]}"
            raise InvalidArgument(message, field="model_name") from None

    async def log(self, changes: Mapping[str, Value]) -> Mapping[str, Value]:
        """The log settings after the changes.

        Raises:
            Unimplemented: a change of what cannot change.
            InvalidArgument: no such setting, or a value that it cannot have.
        """
        level, _ = await self.live.read(LOG_LEVEL.key)
        wanted = change_log(changes, level) if changes else level
        if wanted != level:
            await self.live.write(LOG_LEVEL.key, wanted)
        return show_log(wanted)
