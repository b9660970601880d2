"""An instance that stays registered: put back whenever Consul has lost it.

Its health check is a gRPC one, and counts as passing from the beginning.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import consul.aio
from consul import Check

from mesh.catalog.instance import Instance
from mesh.catalog.loss import LOST, mapped
from mesh.errors import Unavailable
from mesh.logs import get_logger

REASSERT_S = 5.0
"""How often a registration is compared with what Consul has."""
CHECK_FAILURES = 3
"""Failed checks in a row that make an instance critical. One is too few: a machine that is busy for
a second would lose healthy instances. Envoy, which sees broken connections, is the fast line."""

_log = get_logger(__name__)


class Registration:
    """A registered instance whose tags may change."""

    def __init__(self, client: consul.aio.Consul, instance: Instance) -> None:
        self._client = client
        self._instance = instance

    @property
    def instance(self) -> Instance:
        """What is registered now."""
        return self._instance

    async def update_tags(self, tags: frozenset[str]) -> None:
        """Replaces the tags; the health check goes on undisturbed.

        Consul being away is no error: the tags are asserted again when it is back.
        """
        if tags == self._instance.tags:
            return
        self._instance = replace(self._instance, tags=tags)
        with suppress(Unavailable):
            await mapped(self.assert_now())

    async def assert_now(self) -> None:
        """Tells Consul what should be registered."""
        instance = self._instance
        check = Check.grpc(
            f"{instance.address}:{instance.port}", "1s", timeout="1s", deregister="1m"
        )
        await self._client.agent.service.register(
            instance.service,
            service_id=instance.id,
            address=instance.address,
            port=instance.port,
            tags=sorted(instance.tags),
            meta=dict(instance.meta),
            check={**check, "Status": "passing", "FailuresBeforeCritical": CHECK_FAILURES},
        )

    async def run_keeper(self) -> None:
        """Puts the instance back whenever Consul has lost it or has an older one."""
        while True:
            await asyncio.sleep(REASSERT_S)
            with suppress(*LOST):
                known = (await self._client.agent.services()).get(self._instance.id)
                if known is None or set(known["Tags"] or ()) != self._instance.tags:
                    await self.assert_now()
                    _log.info("registered again", instance=self._instance.id)
