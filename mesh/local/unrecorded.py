"""A trace context for calls that should leave no trace: a caller's who decided so.

What polls the mesh on a user's behalf would bury the user's own traces.
"""

from __future__ import annotations

import secrets


def make_unrecorded() -> dict[str, str]:
    """The W3C header of such a context."""
    return {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"}
