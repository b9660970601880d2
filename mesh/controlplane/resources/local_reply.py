"""Envoy's own answers, in the shape of the protocol that asked.

HTTP gets `{"error": ...}`, the OpenAI paths an object in it; gRPC stays gRPC, where the plain text
becomes the status message.
"""

from __future__ import annotations

import base64
from typing import Any

from mesh.controlplane.xds.messages import Spec
from mesh.errors import DETAILS_KEY, ModelNotReady, error_to_status

OPENAI_PREFIX = "/v1/"


def edge_replies() -> Spec:
    """Answers at the edge."""
    message = "%LOCAL_REPLY_BODY% (%RESPONSE_CODE_DETAILS%)"
    openai = {"error": {"message": message, "type": "api_error", "param": None, "code": None}}
    return {
        "mappers": [
            _mapper(_all_of(_not_grpc(), _is_openai()), openai),
            _mapper(_not_grpc(), {"error": message}),
        ]
    }


def mesh_replies() -> Spec:
    """Answers to the gateway: that no node is ready is said with a reason that it can read."""
    error = ModelNotReady("", "")
    error.message, error.metadata = "no node has this model version ready", {}
    details = base64.b64encode(error_to_status(error).SerializeToString()).decode().rstrip("=")
    return {
        "mappers": [
            {
                "filter": {"response_flag_filter": {"flags": ["UH"]}},
                "body_format_override": {"text_format_source": {"inline_string": error.message}},
                "headers_to_add": [{"header": {"key": DETAILS_KEY, "value": details}}],
            }
        ]
    }


def _mapper(condition: Spec, body: dict[str, Any]) -> Spec:
    return {"filter": condition, "body_format_override": {"json_format": body}}


def _all_of(*conditions: Spec) -> Spec:
    return {"and_filter": {"filters": list(conditions)}}


def _not_grpc() -> Spec:
    return _header("content-type", "application/grpc", invert_match=True)


def _is_openai() -> Spec:
    return _header(":path", OPENAI_PREFIX)


def _header(name: str, prefix: str, **fields: Any) -> Spec:
    header = {
        "name": name,
        "string_match": {"prefix": prefix},
        "treat_missing_header_as_empty": True,
        **fields,
    }
    return {"header_filter": {"header": header}}
