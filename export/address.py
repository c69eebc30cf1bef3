"""Opens a model repository by its address.

hf:owner/name       the Hugging Face Hub
git+URL             any git remote: git+https://…, git+ssh://…, git+git@host:owner/name, git+/path
/path, ./path       a folder
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from export.remote import Remote, RemoteError
from export.remote_folder import RemoteFolder
from export.remote_git import open_git
from export.remote_hub import open_hub
from export.reporter import TransferReporter

_HUB, _GIT = "hf:", "git+"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_EXPECTED = "hf:owner/name, git+URL or a folder"


@contextmanager
def open_remote(address: str, reporter: TransferReporter) -> Iterator[Remote]:
    """The repository at `address`. Raises RemoteError for one that is none."""
    if address.startswith(_HUB):
        repository = address.removeprefix(_HUB)
        if not _REPOSITORY.fullmatch(repository):
            raise _bad(address, f"write it like {_HUB}my-team/npc-model")
        yield open_hub(repository, reporter)
    elif address.startswith(_GIT):
        url = _git_url(address)
        with open_git(url, _without_secrets(url), _last_part(url), reporter) as remote:
            yield remote
    elif not address.strip() or _SCHEME.match(address):
        raise _bad(address, f"write {_GIT}URL for a git remote, {_HUB}owner/name for the Hub")
    else:
        yield RemoteFolder(Path(address).absolute(), reporter)


def _git_url(address: str) -> str:
    url = address.removeprefix(_GIT)
    if not _last_part(url) or url.startswith("-"):  # a dash would be an option to git
        raise _bad(address, f"write it like {_GIT}https://host/owner/name or {_GIT}/path/name.git")
    is_local = ":" not in url
    return str(Path(url).absolute()) if is_local else url


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _last_part(url: str) -> str:
    return re.split(r"[/:]", url.rstrip("/"))[-1].removesuffix(".git")


def _bad(address: str, remedy: str) -> RemoteError:
    return RemoteError(repr(address), _EXPECTED, "something else", remedy)
