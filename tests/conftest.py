"""Fixtures for all tests: tiny random models, and the real one of the default bundle."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from runtime.llama_backend import LlamaModel
from tests.tiny_models import ARCHITECTURES, make_tiny

GEMMA = pytest.param("gemma", marks=pytest.mark.gemma)

# A shared machine stalls at times; how long an example takes says nothing about the code.
settings.register_profile("persona", deadline=None)
settings.load_profile("persona")


@contextmanager
def loaded(path: Path) -> Iterator[LlamaModel]:
    """A model, closed at the end."""
    model = LlamaModel(path)
    try:
        yield model
    finally:
        model.close()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LlamaModel]]:
    """A tiny random F32 model of each architecture, with the special tokens."""
    folder = tmp_path_factory.mktemp("tiny")
    models: dict[str, LlamaModel] = {
        name: LlamaModel(make_tiny(name, folder).path) for name in ARCHITECTURES
    }
    yield models
    for model in models.values():
        model.close()


@pytest.fixture(scope="session")
def gemma() -> Iterator[LlamaModel]:
    """The model of the default bundle, built if it is not in the cache yet."""
    with loaded(Path("/tmp/rt/gemma.gguf")) as model:
        yield model


@pytest.fixture(scope="session", params=ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, tiny_models: dict[str, LlamaModel]) -> LlamaModel:
    """Each tiny model."""
    return tiny_models[request.param]


@pytest.fixture(scope="session")
def qwen(tiny_models: dict[str, LlamaModel]) -> LlamaModel:
    """One tiny model, for tests that the architecture does not matter to."""
    return tiny_models["qwen2"]


@pytest.fixture(scope="session", params=[*ARCHITECTURES, GEMMA])
def model(request: pytest.FixtureRequest, tiny_models: dict[str, LlamaModel]) -> LlamaModel:
    """Each tiny model and the default bundle's."""
    if request.param == "gemma":
        found: LlamaModel = request.getfixturevalue("gemma")
        return found
    return tiny_models[request.param]
