"""Puts the gateway's parts together over a directory and a channel: one servicer, one application.

Apart from `__main__` so that tests run the whole gateway against a channel of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import grpc
from starlette.types import ASGIApp

from mesh.channel import open_channel
from mesh.oip_service import SERVICE
from mesh.pb.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.server import ServiceBinding
from mesh.telemetry import Telemetry
from services.gateway.dataplane import Dataplane
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.fleet import Fleet
from services.gateway.generation import TextGeneration
from services.gateway.http.app import Protocol, build_app
from services.gateway.http.exchange import Routes
from services.gateway.live_settings import LiveSettings
from services.gateway.node_client import NodeClient
from services.gateway.oip.administration_rest import AdministrationRest
from services.gateway.oip.rest import OipRest
from services.gateway.oip.rest import render_error as render_oip_error
from services.gateway.oip.setting import ServerSettings
from services.gateway.oip_servicer import OipServicer
from services.gateway.openai.embedding import EmbeddingRest
from services.gateway.openai.error import render_error as render_openai_error
from services.gateway.openai.model_list import ModelListRest
from services.gateway.openai.rest import openai_routes
from services.gateway.openai.text import TextRest
from services.gateway.repository import FleetRepository
from services.gateway.settings import GatewaySettings
from services.gateway.shared_memory import SharedMemory
from services.gateway.statistics import FleetStatistics
from services.gateway.text_inference import TextInference


@dataclass(frozen=True, slots=True)
class Front:
    """What the two listeners serve."""

    grpc: tuple[ServiceBinding, ...]
    http: ASGIApp


def make_front(
    watch: DirectoryWatch,
    channel: grpc.aio.Channel,
    settings: GatewaySettings,
    telemetry: Telemetry,
) -> Front:
    """The whole gateway but for its listeners."""
    nodes = NodeClient(channel)
    fleet = Fleet(partial(open_channel, telemetry=telemetry))
    statistics = FleetStatistics(fleet)
    generation = TextGeneration(watch, nodes, settings.generate_timeout_s, settings.resume_attempts)
    texts = TextInference(generation)
    memory = SharedMemory()
    dataplane = Dataplane(watch, nodes, statistics, texts, memory, settings.infer_timeout_s)
    repository = FleetRepository(watch, fleet, dataplane.is_ready, dataplane.is_routed)
    server_settings = ServerSettings(LiveSettings(channel), watch)
    servicer = OipServicer(dataplane, repository, server_settings, memory)
    binding = ServiceBinding(SERVICE, add_GRPCInferenceServiceServicer_to_server, servicer)
    administration = AdministrationRest(repository, server_settings, memory)
    oip_routes = (*administration.routes(), *OipRest(dataplane).routes())
    protocols = (
        Protocol("/v2", oip_routes, render_oip_error),
        Protocol("/v1", _openai(watch, nodes, generation, settings), render_openai_error),
    )
    app = build_app(protocols, telemetry, max_body_bytes=settings.max_body_bytes)
    return Front((binding,), app)


def _openai(
    watch: DirectoryWatch,
    nodes: NodeClient,
    generation: TextGeneration,
    settings: GatewaySettings,
) -> Routes:
    return openai_routes(
        TextRest(generation),
        EmbeddingRest(watch, nodes, settings.infer_timeout_s),
        ModelListRest(watch),
    )
