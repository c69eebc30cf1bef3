"""The bundle: a directory with a model, its heads and a manifest that says they belong together.

Reads and verifies. Building one is `export`'s work.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from heads.spec import HeadSpec
from runtime.context_config import ContextConfig

FORMAT = 1
MANIFEST = "bundle.json"
MODEL = "model.gguf"
HEADS = "heads.onnx"
HEADS_RECORD = "heads.json"
AGREEMENT = "agreement.json"

Sha256 = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
Count = Annotated[int, msgspec.Meta(ge=1)]
BatchSize = Annotated[int, msgspec.Meta(ge=16, le=65_536)]
"""In tokens: room for a few sequences, and nothing that llama.cpp aborts the process over."""


class BundleError(Exception):
    """A bundle cannot be used; the text names file, expectation, finding and remedy."""

    def __init__(self, file: Path | str, expected: str, found: str, remedy: str) -> None:
        self.file, self.expected, self.found, self.remedy = str(file), expected, found, remedy
        super().__init__(f"{file}: expected {expected}, found {found}; {remedy}")


def cache_folder() -> Path:
    """Where built bundles live: $PERSONA_CACHE, else persona-chat-engine in the user's cache."""
    if own := os.environ.get("PERSONA_CACHE"):
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "persona-chat-engine"


def default_bundle_folder() -> Path:
    """Where `persona bundle build` puts the default bundle and `persona serve` looks for it."""
    return cache_folder() / "bundles" / "default"


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle, relative to it."""

    path: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Sha256


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base model that was fine-tuned."""

    name: str
    licence: str
    vocabulary_sha256: Sha256
    """Hash of the served vocabulary (pieces and types): adapter and heads refuse another."""


class ContextSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Context settings that change hidden states; the heads were calibrated under them."""

    kv_type: Literal["f16", "q8_0", "f32"] = "f16"
    flash_attention: bool = True
    n_batch: BatchSize = 512
    n_ubatch: BatchSize = 512

    def config(self, *, n_ctx: int, n_seq_max: int, n_threads: int) -> ContextConfig:
        """A context with these settings; no more sequences than a batch can hold a token of."""
        return ContextConfig(
            n_ctx=n_ctx,
            n_seq_max=min(n_seq_max, self.n_batch),
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            kv_type=self.kv_type,
            flash_attention=self.flash_attention,
        )


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`bundle.json`."""

    format: int
    name: str
    base: Base
    architecture: str
    quantisation: str
    n_embd: Count
    n_ctx_train: Count
    prompt_format: Count
    special_tokens: dict[str, Annotated[int, msgspec.Meta(ge=0)]]
    heads: HeadSpec
    context: ContextSettings = ContextSettings()
    files: tuple[FileEntry, ...]
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    parity: dict[str, Any] = {}

    def entry(self, path: str) -> FileEntry | None:
        """The entry of the file `path`, if the bundle has it."""
        return next((entry for entry in self.files if entry.path == path), None)


class HeadsRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`heads.json`, written beside `heads.onnx` by whoever fits them; a bundle is built from it."""

    heads: HeadSpec
    vocabulary_sha256: Sha256
    context: ContextSettings = ContextSettings()
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    parity: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    manifest: Manifest
    id: str = field(init=False)
    """Name and the start of the manifest's hash, as it was read: tells two builds apart."""

    def __post_init__(self) -> None:
        digest = file_sha256(self.folder / MANIFEST)
        object.__setattr__(self, "id", f"{self.manifest.name}@{digest[:12]}")

    @property
    def model(self) -> Path:
        """The GGUF that answers `/ask`."""
        return self.folder / MODEL

    @property
    def heads(self) -> Path:
        """The ONNX graph of the heads."""
        return self.folder / HEADS

    @property
    def agreement(self) -> Path | None:
        """What holds lines against decisions, if the bundle has it."""
        return self.folder / AGREEMENT if self.manifest.entry(AGREEMENT) else None


REBUILD = "run `persona bundle build` (default bundle) or `persona pull` again"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`. Raises BundleError."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        found = error.strerror or "an error"
        raise BundleError(path, "a readable manifest", found, REBUILD) from error
    try:
        version = msgspec.json.decode(raw, type=_Version).format
    except (RecursionError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise BundleError(path, "a manifest with a `format` number", str(error), REBUILD) from error
    if version != FORMAT:
        remedy = "update persona-chat-engine" if version > FORMAT else REBUILD
        raise BundleError(path, f"bundle format {FORMAT}", f"format {version}", remedy)
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except (RecursionError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise BundleError(path, f"a manifest of format {FORMAT}", str(error), REBUILD) from error


class _Version(msgspec.Struct):
    format: int


def load_bundle(
    folder: Path, *, verify_hashes: bool = True, on_progress: Callable[[int], None] | None = None
) -> Bundle:
    """The bundle in `folder`, its files present, inside it, and of the recorded size and hash.

    `on_progress` is called with the number of bytes hashed since its last call. What only the
    loaded parts can tell (special-token ids, widths) is checked where they are loaded. Raises
    BundleError.
    """
    manifest = read_manifest(folder)
    for required in (MODEL, HEADS):
        if manifest.entry(required) is None:
            raise BundleError(folder / MANIFEST, f"an entry for {required}", "none", REBUILD)
    for entry in manifest.files:
        check_file(folder, entry, verify_hashes, on_progress)
    return Bundle(folder, manifest)


def check_file(
    folder: Path,
    entry: FileEntry,
    verify_hash: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Raises BundleError unless a file of the bundle is there, inside it, and what it was."""
    pure = PurePosixPath(entry.path)
    path = folder / pure
    if pure.is_absolute() or ".." in pure.parts or "\\" in entry.path or not pure.parts:
        raise BundleError(folder / MANIFEST, "paths inside the bundle", repr(entry.path), REBUILD)
    try:
        if not path.is_file():
            raise BundleError(path, "a file", "none", REBUILD)
        if not (target := path.resolve()).is_relative_to(folder.resolve()):
            raise BundleError(path, "a file inside the bundle", f"a link to {target}", REBUILD)
        if (size := path.stat().st_size) != entry.size:
            raise BundleError(path, f"{entry.size} bytes", f"{size} bytes", REBUILD)
        if verify_hash and (found := file_sha256(path, on_progress)) != entry.sha256:
            raise BundleError(path, f"sha256 {entry.sha256}", found, REBUILD)
    except OSError as error:
        found = error.strerror or "an error"
        raise BundleError(path, "a readable file", found, REBUILD) from error


def file_sha256(path: Path, on_progress: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if on_progress is not None:
                on_progress(len(block))
    return digest.hexdigest()
