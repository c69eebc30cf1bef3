"""A model repository on the Hugging Face Hub, through its official client.

HF_ENDPOINT, HF_TOKEN and the login are the client's own. A version's branch starts from the
repository's first commit, so that a claim holds nothing, and is filled by a single commit.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.hub_errors import HubStatus, hub_errors_told
from export.hub_operations import Operation, promotion, publication
from export.hub_snapshot import HubSnapshot
from export.remote import (
    LATEST,
    RemoteError,
    Snapshot,
    Upload,
    branch_of,
    numbers_of,
    promoted_meanwhile,
    unknown_revision,
)
from export.reporter import TransferReporter

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

_CONFLICT = (409, 412)


@dataclass(frozen=True, slots=True)
class RemoteHub:
    """The model repository `owner/name` on the Hub."""

    repository: str
    api: "HfApi"
    reporter: TransferReporter

    @property
    def address(self) -> str:
        """As it was given."""
        return f"hf:{self.repository}"

    @property
    def name(self) -> str:
        """The name without its owner."""
        return self.repository.split("/")[1]

    def versions(self) -> list[int]:
        """Numbers of the branches that are there."""
        return numbers_of(self._branches().keys())

    def snapshot(self, revision: str) -> HubSnapshot:
        """The commit that `revision` is now, and its list of files."""
        branches = self._branches()
        try:
            with hub_errors_told(self.address):
                commit = branches.get(revision) or self._commit_of(revision)
        except HubStatus as error:
            if error.status != 404:
                raise
            raise unknown_revision(self.address, revision, branches.keys()) from error
        subject, files = f"{self.address} {revision}", self._files(commit)
        return HubSnapshot(subject, commit, self.repository, files, self.api, self.reporter)

    def publish(self, files: Sequence[Upload]) -> int:
        """Claims a branch, uploads, and fills it with one commit."""
        number = max(self.versions(), default=0)
        start = self._first_commit()
        self.reporter.stage("hashing")
        operations = publication(files, self._files(start))
        number = self._claim(number, start)
        branch = branch_of(number)
        try:
            self.reporter.say(f"uploading {branch}")
            with hub_errors_told(self.address), self.reporter.aside():
                self._commit(operations, branch, f"Publish {branch}", start)
        except BaseException:
            with suppress(RemoteError), hub_errors_told(self.address):
                self.api.delete_branch(self.repository, branch=branch)
            raise
        return number

    def promote(self, snapshot: Snapshot) -> bool:
        """One commit on `latest` that copies what differs and deletes what is stale."""
        try:
            with hub_errors_told(self.address):
                return self._promote(snapshot.commit)
        except HubStatus as error:
            if error.status not in _CONFLICT:
                raise
            raise promoted_meanwhile(self.address) from error

    def _promote(self, commit: str) -> bool:
        parent = self._branches().get(LATEST)
        if parent is None:
            self.api.create_branch(self.repository, branch=LATEST, revision=commit)
            return True
        operations = promotion(commit, self._files(commit), self._files(parent))
        if operations:
            self._commit(operations, LATEST, f"Promote {commit}", parent)
        return bool(operations)

    def _commit(
        self, operations: Sequence[Operation], branch: str, title: str, parent: str
    ) -> None:
        self.api.create_commit(
            self.repository,
            operations,
            commit_message=title,
            revision=branch,
            parent_commit=parent,
        )

    def _claim(self, number: int, start: str) -> int:
        while True:
            number += 1
            try:
                with hub_errors_told(self.address):
                    branch = branch_of(number)
                    self.api.create_branch(self.repository, branch=branch, revision=start)
            except HubStatus as error:
                if error.status != 409:
                    raise
            else:
                return number

    def _branches(self) -> dict[str, str]:
        with hub_errors_told(self.address):
            refs = self.api.list_repo_refs(self.repository)
        return {branch.name: branch.target_commit for branch in refs.branches}

    def _first_commit(self) -> str:
        with hub_errors_told(self.address):
            return self.api.list_repo_commits(self.repository)[-1].commit_id

    def _commit_of(self, revision: str) -> str:
        found = self.api.model_info(self.repository, revision=revision).sha
        assert found is not None, "the Hub names the commit of every model"
        return found

    def _files(self, commit: str) -> dict[str, "RepoFile"]:
        with hub_errors_told(self.address):
            listed = self.api.list_repo_tree(self.repository, recursive=True, revision=commit)
            return {file.path: file for file in listed if hasattr(file, "blob_id")}


def open_hub(repository: str, reporter: TransferReporter) -> RemoteHub:
    """The repository `owner/name`. Raises RemoteError without the client."""
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415 (an extra)
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # noqa: PLC0415
            disable_progress_bars,
        )
    except ModuleNotFoundError as error:
        remedy = "pip install 'persona-chat-engine[hub]'"
        found = f"no package {error.name!r}"
        raise RemoteError(f"hf:{repository}", "the Hub's client", found, remedy) from error
    if not sys.stderr.isatty() and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        disable_progress_bars()
    # Read now: the client would keep what it was when something first imported it.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return RemoteHub(repository, HfApi(endpoint, library_name="persona-chat-engine"), reporter)
