"""A tiny server for benchmarks that start one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.server.small_world import write_small_world
from tests.tiny_bundle import write_tiny_bundle
from tests.train.nari import turn

NUM_CONVERSATIONS = 7
"""Of two lines each: all with Mina in Korean, but the last with Rook in English."""


@dataclass(frozen=True)
class Played:
    """Folders of a tiny bundle, a small world, and what players say in it."""

    bundle: Path
    world: Path
    data: Path

    @property
    def options(self) -> list[str]:
        """As the commands take them."""
        named = {"--bundle": self.bundle, "--world": self.world, "--data": self.data}
        return [text for name, path in named.items() for text in (name, str(path))]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Played:
    bundle, world, data = map(tmp_path_factory.mktemp, ("bundle", "world", "data"))
    write_tiny_bundle(bundle)
    write_small_world(world)
    place = {"quest_stage": "started", "location": "pier"}
    mina: dict[str, Any] = {"npc_id": "mina", "tags": place}
    rook: dict[str, Any] = {"npc_id": "rook", "lang": "en"}
    lines = [
        turn(f"c{number}", at, f"hello {number} {at}", "help", **who)
        for number, who in enumerate([*[mina] * (NUM_CONVERSATIONS - 1), rook])
        for at in range(2)
    ]
    (data / "all.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    return Played(bundle, world, data)


@pytest.fixture
def played(folders: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    """Of a server that keeps to itself and compares nothing by meaning."""
    settings = {"CACHE": tmp_path / "cache", "EMBEDDER": "none", "N_CTX": 4_096, "THREADS": 1}
    for name, value in settings.items():
        monkeypatch.setenv(f"PERSONA_{name}", str(value))
    return folders


@pytest.fixture
def options(played: Played) -> list[str]:
    """Its folders, as the commands take them."""
    return played.options
