"""What can go wrong while a bundle is made: always what was expected, what was found, a remedy."""

from pathlib import Path


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
