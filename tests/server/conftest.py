"""A service on a tiny model for what must hold with any, and one on the default bundle."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime.encoder import find_special_ids
from runtime.llama_backend import LlamaModel
from server.service import Service
from tests.conftest import build_default
from tests.heads.bundles import write_bundle
from tests.server.serving import client_of, opened
from tests.server.small_world import write_small_world
from tests.tiny_models import N_EMBD, make_tiny


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world of two NPCs."""
    return write_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny random model and random heads."""
    folder = tmp_path_factory.mktemp("tiny-bundle")
    shutil.move(make_tiny("qwen2", folder).path, folder / "model.gguf")
    model = LlamaModel(folder / "model.gguf", vocab_only=True)
    ids = find_special_ids(model)
    model.close()
    return write_bundle(folder, N_EMBD, lambda manifest: manifest.update(special_tokens=ids))


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
