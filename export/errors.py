"""What can go wrong while a bundle is made: always what was expected, what was found, a remedy."""

import errno
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ExportError(Exception):
    """A bundle, or a part of one, cannot be made from what was given."""

    def __init__(self, subject: Path | str, expected: str, found: str, remedy: str) -> None:
        self.subject, self.expected, self.found, self.remedy = str(subject), expected, found, remedy
        super().__init__(f"{subject}: expected {expected}, found {found}; {remedy}")


class GgufError(ExportError):
    """A file is no GGUF that we can read, or a tensor of it is not what it should be."""


class VocabularyError(ExportError):
    """A vocabulary cannot be trimmed, or has no room for the special tokens."""


class AdapterError(ExportError):
    """A LoRA adapter cannot be merged into this base without losing or bending a part of it."""


class QuantiseError(ExportError):
    """Weights cannot be written in the type asked for."""


class BuildError(ExportError):
    """A bundle cannot be built; what was there before is untouched."""


def os_error_in_words(error: OSError) -> str:
    """What the operating system found, and where."""
    if error.errno in FULL:
        return "a full disk"
    found = error.strerror or str(error)
    return f"{found}: {error.filename}" if error.filename else found
