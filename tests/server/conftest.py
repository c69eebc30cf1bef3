"""A service on a tiny model for what must hold with any, and one on the default bundle."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.service import Service
from tests.conftest import build_default
from tests.server.serving import client_of, opened
from tests.server.small_world import write_small_world
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world of two NPCs."""
    return write_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny random model and random heads."""
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny-bundle"))


@pytest.fixture(scope="session")
def default_bundle() -> Path:
    """The default bundle, built into the user's cache if it is not there; or PERSONA_BUNDLE."""
    given = os.environ.get("PERSONA_BUNDLE")
    return Path(given) if given else build_default().parent


@pytest.fixture(scope="session")
def tiny_service(tiny_bundle: Path, small_world: Path) -> Iterator[Service]:
    """A service that answers in milliseconds."""
    with opened(tiny_bundle, small_world) as service:
        yield service


@pytest.fixture(scope="session")
def gemma_service(default_bundle: Path, small_world: Path) -> Iterator[Service]:
    """A service on the default bundle."""
    with opened(default_bundle, small_world) as service:
        yield service


@pytest.fixture(scope="session")
def client(tiny_service: Service) -> Iterator[httpx.Client]:
    """A client of the tiny service."""
    with client_of(tiny_service) as client:
        yield client


@pytest.fixture(scope="session")
def gemma_client(gemma_service: Service) -> Iterator[httpx.Client]:
    """A client of the service on the default bundle."""
    with client_of(gemma_service) as client:
        yield client
