"""Settings, parsed once from `PERSONA_*` environment variables."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from heads.bundle import default_bundle_folder
from rag.embedder import DEFAULT
from rag.retriever import NOTE_TOKENS
from rag.schema_errors import locate

PREFIX = "PERSONA_"
_FOREIGN = {"PERSONA_CACHE", "PERSONA_URL"}
"""What heads.bundle reads, and where clients look for a server."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class SettingsError(Exception):
    """An environment variable is unknown or has a value that cannot be used."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Each field is read from `PERSONA_` and its name in capitals."""

    bundle: Path = msgspec.field(default_factory=default_bundle_folder)
    world: Path = Path("worlds/mulmaru")
    embedder: Annotated[str, msgspec.Meta(min_length=1)] = DEFAULT
    """Sentence encoder: `default`, `use`, `none`, or the folder of an exported one."""
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8000
    verify_hashes: bool = True
    n_ctx: Annotated[int, msgspec.Meta(ge=2_048)] = 16_384
    """KV cells, shared by all conversations."""
    n_sequences: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    """Requests evaluated together."""
    n_residents: Annotated[int, msgspec.Meta(ge=0, le=255)] = 24
    """Finished requests whose KV cells are kept for the next one that begins like them."""
    prefix_mb: Annotated[int, msgspec.Meta(ge=0)] = 512
    """Megabytes of disk for what was evaluated of the NPCs' and scenes' descriptions, so that a
    restarted server answers its first player warm; 0: none."""
    swap_mb: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Megabytes of memory for the states of conversations that the cache has no room for; 0: they
    are evaluated again."""
    n_conversations: Count = 1_024
    """Conversations whose transcripts are remembered."""
    threads: Count | None = None
    """Threads of llama.cpp. These three, if not set, are what `persona tune` found for the bundle
    on this machine (server.tuned), else all cores and the bundle's own batch."""
    threads_batch: Count | None = None
    """Threads for prompts, and for several replies together; `threads` if only that is set."""
    step_tokens: Annotated[int, msgspec.Meta(ge=32)] | None = None
    """Tokens that the engine evaluates at once: a deadline or a cancelled request waits for them.
    Never fewer than sequences, never more than the bundle's batch."""
    max_waiting: Count = 64
    """Requests that may wait; one more is an overload."""
    on_overload: Literal["fallback", "reject"] = "fallback"
    fallback: Literal["model", "authored"] = "model"
    """Who speaks where the main path is closed: the model, or the world's authored lines."""
    prompt_tokens: Annotated[int, msgspec.Meta(ge=256)] = 2_048
    """Budget of a prompt: older turns of the history are dropped to fit it."""
    note_tokens: Annotated[int, msgspec.Meta(ge=0)] = NOTE_TOKENS
    """Budget of the lore and model dialogues that one turn brings into the prompt."""
    deadline_ms: Count = 60_000
    """Time a reply may take before it is cut or replaced by an authored line."""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1_024)] = 1_048_576
    auth: Literal["auto", "off"] = "auto"
    """`auto`: an API key is needed unless none is set and only this machine can reach the server.
    """
    api_keys: str = ""
    """API keys, with commas between them."""
    api_keys_file: Path | None = None
    """A file with an API key a line; a reload reads it again."""
    rate_per_key: Count | None = None
    """Turns a minute that one API key may ask for; no limit if it is not set."""
    rate_per_player: Count | None = None
    """Turns a minute of one player of one API key."""
    cors_origins: str = ""
    """Web pages that may call the server, as origins with commas between them, or `*`."""
    drain_ms: Annotated[int, msgspec.Meta(ge=0)] = 1_000
    """After SIGTERM `/readyz` is red for so long before connections are refused, so that what
    balances the load notices."""
    admin_key: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """Bearer token of the admin routes; without one they answer callers on this machine only."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    log_text: bool = False
    """Whether the log shows what was said, with what looks like an address or a number hidden."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from `environment`. Raises SettingsError naming the variable and the remedy."""
    values = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name not in _FOREIGN
    }
    known = {field.name for field in msgspec.structs.fields(Settings)}
    for name in sorted(values.keys() - known):
        names = ", ".join(sorted(PREFIX + field.upper() for field in known))
        raise SettingsError(f"{PREFIX}{name.upper()} is not a setting; the settings are {names}")
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=_read_path)
    except msgspec.ValidationError as error:
        path, what = locate(error)
        field = path.removeprefix("$.")
        raise SettingsError(f"{PREFIX}{field.upper()}={values[field]!r}: {what}") from error


def _read_path(kind: type, value: str) -> Path:
    assert kind is Path, "all other fields are msgspec's own types"
    if not value:
        raise ValueError("is empty; name a folder or unset it")
    return Path(value)
