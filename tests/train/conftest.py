"""Fixtures of the tests that hold PyTorch models against others."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.tiny_models import ARCHITECTURES

if TYPE_CHECKING:
    from tests.train.grounds import Ground


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: sums run in one order."""
    import torch  # noqa: PLC0415 (most tests here do without)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> "dict[str, Ground]":
    """A tiny base of each architecture."""
    from tests.train.grounds import make_grounds  # noqa: PLC0415 (imports PyTorch)

    return make_grounds(tmp_path_factory.mktemp("bases"))


@pytest.fixture(params=ARCHITECTURES)
def ground(request: pytest.FixtureRequest, grounds: "dict[str, Ground]") -> "Ground":
    """Each architecture."""
    return grounds[request.param]


@pytest.fixture
def qwen3(grounds: "dict[str, Ground]") -> "Ground":
    """One, for tests that the architecture does not matter to."""
    return grounds["qwen3"]
