"""A repository of each kind, each a real one, and nothing of the user's within reach."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.hub_server import Hub, running_hub
from tests.export.remotes import (
    FolderRepository,
    GitRepository,
    HubRepository,
    Repository,
    environment,
    make_bundle,
)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        for name, value in environment(tmp_path / "cache", hub).items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture
def folder_repository(tmp_path: Path) -> FolderRepository:
    return FolderRepository(tmp_path / "shared")


@pytest.fixture
def git_repository(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "npc.git")


@pytest.fixture
def hub_repository(hub: Hub) -> HubRepository:
    return HubRepository(hub)


@pytest.fixture(params=["folder", "git", "hub"])
def repository(request: pytest.FixtureRequest) -> Repository:
    """One of each kind."""
    found: Repository = request.getfixturevalue(f"{request.param}_repository")
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where to pull to."""
    return tmp_path / "pulled"
