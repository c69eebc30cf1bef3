"""Hooks for schemathesis (SCHEMATHESIS_HOOKS): most bodies name an NPC that there is."""

from typing import Any

import schemathesis

from server.openapi import document

_LIMITS = document()["components"]["schemas"]["AskRequest"]["properties"]["npc_id"]


@schemathesis.hook
def map_body(_: schemathesis.HookContext, body: Any) -> Any:
    """What a schema cannot say: which ids the world knows. Ids that it forbids stay as they are."""
    if not isinstance(body, dict) or not isinstance(body.get("npc_id"), str):
        return body
    length = len(body["npc_id"])
    if not _LIMITS["minLength"] <= length <= _LIMITS["maxLength"] or length % 8 == 0:
        return body
    return body | {"npc_id": "mina" if length % 2 else "rook"}
