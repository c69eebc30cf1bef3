"""How the engine works here: what is set, else what `persona tune` found, else all cores.

What was found is kept in the user's cache for each bundle and machine; whatever is wrong with it is
logged once, and the engine works without it.
"""

import logging
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

import msgspec

from heads.bundle import Bundle, cache_folder
from runtime.host import cpu_model, num_cores
from server.settings import Settings

logger = logging.getLogger(__name__)

FORMAT = 1
MAX_THREADS = 512
"""ggml's own bound."""

Threads = Annotated[int, msgspec.Meta(ge=1, le=MAX_THREADS)]


class Tuned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the engine that change its speed, and nothing that heads are calibrated to."""

    threads: Threads
    """For a batch of a single token."""
    threads_batch: Threads
    """For any other batch: prompts, and several replies together."""
    step_tokens: Annotated[int, msgspec.Meta(ge=1)]
    """At most so many tokens in one step."""

    def __str__(self) -> str:
        return (
            f"threads {self.threads}, for prompts {self.threads_batch}, "
            f"at most {self.step_tokens} tokens a step"
        )


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    found: dict[str, Tuned]
    """By bundle and machine."""


def tuned_file() -> Path:
    """Where `persona tune` writes and the server reads."""
    return cache_folder() / "tuned.json"


def in_force(settings: Settings, bundle: Bundle) -> Tuned:
    """What the engine works with: a variable that is set wins over what was found.

    PERSONA_THREADS alone stands for prompts too.
    """
    found = read_tuned(bundle.id)
    most = bundle.manifest.context.n_batch
    if found is None:
        found = Tuned(num_cores(), num_cores(), most)
    return Tuned(
        threads=settings.threads or found.threads,
        threads_batch=settings.threads_batch or settings.threads or found.threads_batch,
        step_tokens=min(settings.step_tokens or found.step_tokens, most),
    )


def read_tuned(bundle_id: str) -> Tuned | None:
    """What was found for this bundle on this machine, if anything usable."""
    path = tuned_file()
    try:
        entries = _read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        logger.warning("%s is ignored: %s; run `persona tune` again", path, error)
        return None
    key = _key(bundle_id)
    if key not in entries:
        logger.info("%s has nothing for %s; `persona tune` finds it", path, key)
    return entries.get(key)


def write_tuned(bundle_id: str, tuned: Tuned) -> Path:
    """Keep what was found beside what the file has for others; it is whole at any moment.

    Raises OSError.
    """
    path = tuned_file()
    try:
        entries = _read(path)
    except (OSError, ValueError):
        entries = {}
    entries[_key(bundle_id)] = tuned
    raw = msgspec.json.format(msgspec.json.encode(_File(FORMAT, entries)), indent=2) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        beside = Path(file.name)
        try:
            file.write(raw)
            file.close()
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    return path


def _read(path: Path) -> dict[str, Tuned]:
    content = msgspec.json.decode(path.read_bytes(), type=_File)
    if content.format != FORMAT:
        raise ValueError(f"format {content.format} where {FORMAT} was expected")
    return content.found


def _key(bundle_id: str) -> str:
    return f"{bundle_id} on {cpu_model()}, {num_cores()} cores"
