"""Everything that a first start has to fetch, before anything is started.

Runs in threads, and its subprocesses are leashed to this process; so an interrupted start can
simply end, and the next one begins with clean cache entries.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mesh.local.demo_models import DemoModels, has_demo_models, obtain_demo_models
from mesh.local.event import Note, Report
from mesh.local.settings import LocalSettings
from mesh.local.toolchain import Tools, find_consul, find_envoy, has_consul


def obtain_all(
    settings: LocalSettings, cache_dir: Path, report: Report
) -> tuple[Tools, DemoModels | None]:
    """The programs and, if wanted, the demo models; over the network only the first time."""
    needs_consul = settings.consul_address is None
    missing = ["Consul (15 MB)"] if needs_consul and not has_consul(cache_dir) else []
    needs_models = settings.demo and not has_demo_models(cache_dir)
    missing += ["the demo models (175 MB)"] if needs_models else []
    if missing:
        report(Note(f"First start: fetching {' and '.join(missing)} into {cache_dir}"))
    with ThreadPoolExecutor() as pool:
        models = pool.submit(obtain_demo_models, cache_dir) if settings.demo else None
        envoy = find_envoy()
        consul = find_consul(cache_dir) if needs_consul else None
        return Tools(consul, envoy), None if models is None else models.result()
