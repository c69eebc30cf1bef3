"""What a commit on the Hugging Face Hub consists of: files added, copied and deleted."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, Union

from export.hub_snapshot import ATTRIBUTES
from export.remote import Upload

if TYPE_CHECKING:
    from huggingface_hub import (
        CommitOperationAdd,
        CommitOperationCopy,
        CommitOperationDelete,
        RepoFile,
    )

Operation: TypeAlias = Union["CommitOperationAdd", "CommitOperationCopy", "CommitOperationDelete"]


def publication(files: Sequence[Upload], there: Mapping[str, "RepoFile"]) -> list[Operation]:
    """Adds files, which reads them once for their hashes, and deletes whatever else is there."""
    from huggingface_hub import CommitOperationAdd  # noqa: PLC0415 (an extra)

    stale = there.keys() - {file.path for file in files} - {ATTRIBUTES}
    return [*_deletions(stale), *(CommitOperationAdd(file.path, file.content) for file in files)]


def promotion(
    commit: str, wanted: Mapping[str, "RepoFile"], there: Mapping[str, "RepoFile"]
) -> list[Operation]:
    """Copies from `commit` the files that differ, and deletes those that it lacks."""
    from huggingface_hub import CommitOperationCopy  # noqa: PLC0415 (an extra)

    changed = [
        CommitOperationCopy(path, path, src_revision=commit)
        for path, file in sorted(wanted.items())
        if path not in there or there[path].blob_id != file.blob_id
    ]
    return [*_deletions(there.keys() - wanted.keys()), *changed]


def _deletions(paths: set[str]) -> list[Operation]:
    from huggingface_hub import CommitOperationDelete  # noqa: PLC0415 (an extra)

    return [CommitOperationDelete(path, is_folder=False) for path in sorted(paths)]
