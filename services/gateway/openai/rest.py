"""The table of OpenAI's routes."""

from __future__ import annotations

from services.gateway.http.exchange import Routes
from services.gateway.openai.embedding import EmbeddingRest
from services.gateway.openai.model_list import ModelListRest
from services.gateway.openai.text import TextRest


def openai_routes(text: TextRest, embedding: EmbeddingRest, models: ModelListRest) -> Routes:
    """Method, path and handler of every route."""
    return (
        ("GET", "/v1/models", models.models),
        ("GET", "/v1/models/{model}", models.model),
        ("POST", "/v1/chat/completions", text.chat),
        ("POST", "/v1/completions", text.completions),
        ("POST", "/v1/embeddings", embedding.embeddings),
    )
