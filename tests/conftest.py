"""Fixtures for all tests: tiny random models, and the real one of the default bundle."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from export.build_key import DEFAULT_FOLDER
from export.cli import add_commands
from heads.bundle import HEADS_RECORD, MODEL, cache_folder, default_bundle_folder
from runtime.llama_backend import LlamaModel
from tests.tiny_models import ARCHITECTURES, make_tiny

GEMMA = pytest.param("gemma", marks=pytest.mark.gemma)

# A shared machine stalls at times; how long an example takes says nothing about the code.
settings.register_profile("persona", deadline=None)
settings.load_profile("persona")


def build_default() -> Path:
    """`persona bundle build`: a no-op when the bundle is there. The weights' path."""
    has_heads = (DEFAULT_FOLDER / HEADS_RECORD).is_file()
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    args = parser.parse_args(["bundle", "build", *([] if has_heads else ["--model-only"])])
    assert args.run(args) == 0, "persona bundle build failed; it says why on stderr"
    folder = default_bundle_folder() if has_heads else cache_folder() / "models" / "default"
    return folder / MODEL


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """What a test makes of the root logger is gone after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


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
    model = LlamaModel(build_default())
    yield model
    model.close()


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
