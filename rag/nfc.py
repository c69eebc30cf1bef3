"""One spelling for what looks the same: macOS writes Hangul as single jamo (NFD), others do not."""

from typing import Any
from unicodedata import normalize

import msgspec


def in_nfc(value: Any) -> Any:
    """`value` with all its text in NFC, keys included: text, lists, dicts and Structs of them."""
    if isinstance(value, str):
        return normalize("NFC", value)
    if isinstance(value, list):
        return [in_nfc(item) for item in value]
    if isinstance(value, dict):
        return {in_nfc(key): in_nfc(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        fields = {name: in_nfc(item) for name, item in msgspec.structs.asdict(value).items()}
        return msgspec.structs.replace(value, **fields)
    return value
