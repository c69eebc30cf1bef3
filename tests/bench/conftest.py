"""A tiny server for benchmarks that start one."""

from pathlib import Path

import msgspec
import pytest

from tests.server.small_world import write_small_world
from tests.tiny_bundle import write_tiny_bundle
from tests.train.nari import turn


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Bundle, world and lines of a server that compares nothing by meaning."""
    folders = {name: tmp_path / name for name in ("bundle", "world", "data")}
    for folder in folders.values():
        folder.mkdir()
    write_tiny_bundle(folders["bundle"])
    write_small_world(folders["world"])
    place = {"quest_stage": "started", "location": "pier"}
    lines = [
        turn(f"c{number}", 0, f"hello {number}", "help", npc_id="mina", tags=place)
        for number in range(8)
    ]
    (folders["data"] / "all.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    settings = {"CACHE": tmp_path / "cache", "EMBEDDER": "none", "N_CTX": 4_096, "THREADS": 1}
    for name, value in settings.items():
        monkeypatch.setenv(f"PERSONA_{name}", str(value))
    return [text for name, path in folders.items() for text in (f"--{name}", str(path))]
