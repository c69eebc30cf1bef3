"""API keys: who may ask. Keys come from the environment and from a file that can be read again."""

import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from heads.bundle import cache_folder
from server.errors import Forbidden, Unauthorized
from server.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

KEYS_FILE = "api-keys"
MIN_LENGTH = 16
"""Characters of a key: fewer could be guessed."""
_ID_LENGTH = 12


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys that open the game's routes, kept as hashes. An empty ring lets everyone in."""

    hashes: dict[str, bytes] = field(default_factory=dict, repr=False)
    """SHA-256 of each key, by its id: the first digits of that hash."""

    @classmethod
    def of(cls, keys: Iterable[str]) -> "KeyRing":
        """A ring of these keys."""
        hashes = [hashlib.sha256(key.encode()) for key in keys]
        return cls({hash_.hexdigest()[:_ID_LENGTH]: hash_.digest() for hash_ in hashes})

    def owner(self, authorization: str) -> str:
        """Id of the key in an `Authorization` header; empty where no key is needed.

        Takes the same time whichever key it is. Raises Unauthorized.
        """
        if not self.hashes:
            return ""
        given = hashlib.sha256(bearer(authorization).encode()).digest()
        found = [id_ for id_, hash_ in self.hashes.items() if hmac.compare_digest(given, hash_)]
        if not found:
            what = "is none of this server's" if authorization else "is missing"
            raise Unauthorized(f"the API key {what}; send it as `Authorization: Bearer KEY`")
        return found[0]


def bearer(authorization: str) -> str:
    """The token of an `Authorization` header; empty if it has another form."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def check_admin(authorization: str, host: str, key: str | None) -> None:
    """Let in who has the admin key, or where none is set callers on this machine.

    Raises Forbidden.
    """
    if key is None:
        if not is_loopback(host):
            raise Forbidden("set PERSONA_ADMIN_KEY to use admin routes from another machine")
    elif not hmac.compare_digest(bearer(authorization).encode(), key.encode()):
        raise Forbidden("send the admin key as `Authorization: Bearer KEY`")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_keys(settings: Settings) -> KeyRing:
    """The ring that the settings ask for.

    Where others can reach us and no key is given, one is made, stored and printed once. Raises
    SettingsError.
    """
    if settings.auth == "off":
        return KeyRing()
    keys = [key for key in settings.api_keys.split(",") if key]
    for key in keys:
        _check(key, "PERSONA_API_KEYS")
    if settings.api_keys_file is not None:
        keys += _read_file(settings.api_keys_file)
    if not keys and not is_loopback(settings.host):
        keys = _own_keys(cache_folder() / KEYS_FILE)
    return KeyRing.of(keys)


def _own_keys(file: Path) -> list[str]:
    if file.exists():
        return _read_file(file)
    key = secrets.token_urlsafe(32)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(f"{key}\n")
    except FileExistsError:
        return _read_file(file)  # another server of this machine was first
    except OSError as error:
        remedy = "set PERSONA_API_KEYS, or PERSONA_AUTH=off where something else keeps watch"
        raise SettingsError(f"{file}: no API key can be stored here: {error}; {remedy}") from error
    print(f"API key, shown this once and stored in {file}: {key}", flush=True)
    return [key]


def _read_file(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        remedy = "write one key a line"
        raise SettingsError(f"{file}: the API keys cannot be read: {error}; {remedy}") from error
    stripped = ((number, line.strip()) for number, line in enumerate(lines, 1))
    keys = {number: line for number, line in stripped if line and not line.startswith("#")}
    for number, key in keys.items():
        _check(key, f"{file}:{number}")
    if not keys:
        raise SettingsError(f"{file}: has no API key; write one a line, or remove the file")
    return list(keys.values())


def _check(key: str, where: str) -> None:
    if len(key) < MIN_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"{where}: a key has {len(key)} characters; write at least {MIN_LENGTH}, of ASCII "
            "without spaces (`openssl rand -hex 24` makes one)"
        )
