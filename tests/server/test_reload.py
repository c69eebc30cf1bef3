"""`/admin/reload`: a world that changed, a world with errors, and who may ask for it."""

import gc
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import ref

import httpx
import msgspec
import pytest

from heads.bundle import MANIFEST, MODEL
from rag.calibration import CALIBRATION
from runtime.errors import DecodeError, Overloaded
from runtime.llama_backend import LlamaContext
from runtime.sequence import EngineSequence, Request
from server.service import Service
from tests.rag.fake_embedder import GramEmbedder
from tests.server.serving import (
    PATIENCE_S,
    Gate,
    HookedHeads,
    ask_body,
    check_problem,
    client_of,
    opened,
    wait_until,
)
from tests.server.small_world import DOCUMENTS, write_small_world


@dataclass
class Reloadable:
    """A server, and the world that it serves."""

    client: httpx.Client
    service: Service
    world: Path

    def write(self, documents: list[dict[str, Any]]) -> None:
        (self.world / "world.json").write_text(json.dumps(documents))

    def unmet(self) -> str | None:
        answer = self.client.post("/ask", json=ask_body(explain=True)).json()
        reason: str | None = answer["meta"]["reason"]
        return reason


@pytest.fixture
def reloadable(tiny_bundle: Path, tmp_path: Path) -> Iterator[Reloadable]:
    world = write_small_world(tmp_path / "world")
    with opened(tiny_bundle, world) as service, client_of(service) as client:
        yield Reloadable(client, service, world)


TERMS = {
    "id": "terms",
    "type": "trigger_def",
    "npc_id": "mina",
    "trigger": {"required_game_state": {"tide": "low"}},
}


def test_an_edited_document_changes_what_happens(reloadable: Reloadable) -> None:
    assert reloadable.unmet() is None
    reloadable.write([*DOCUMENTS, TERMS])
    assert reloadable.unmet() is None, "nothing changes before a reload"
    response = reloadable.client.post("/admin/reload")
    assert response.status_code == 200
    assert response.json() == {
        "status": "reloaded",
        "documents": len(DOCUMENTS) + 1,
        "npcs": ["mina", "rook"],
        "bundle": reloadable.service.loaded.bundle.id,
    }
    assert reloadable.unmet() == "conditions_unmet"


def test_a_world_with_errors_is_refused_and_the_old_one_keeps_serving(
    reloadable: Reloadable,
) -> None:
    reloadable.write([*DOCUMENTS, TERMS, {"id": "x", "type": "lore", "npc_id": "nobody"}])
    problem = check_problem(reloadable.client.post("/admin/reload"), 409, "world_refused")
    assert "world.json: x: content" in problem["detail"]
    assert reloadable.unmet() is None
    assert len(reloadable.client.get("/npcs").json()) == 2


def test_a_restart_sees_the_edited_document(reloadable: Reloadable, tiny_bundle: Path) -> None:
    reloadable.write([*DOCUMENTS, TERMS])
    with opened(tiny_bundle, reloadable.world) as service, client_of(service) as client:
        answer = client.post("/ask", json=ask_body()).json()
    assert answer["meta"]["reason"] == "conditions_unmet"


@pytest.mark.parametrize("given", [None, "Bearer wrong", "secret", "Bearer secretsecret"])
def test_the_admin_key_is_needed_where_one_is_set(
    reloadable: Reloadable, given: str | None
) -> None:
    settings = msgspec.structs.replace(reloadable.service.settings, admin_key="secret")
    reloadable.service.settings = settings
    headers = {"Authorization": given} if given else {}
    problem = reloadable.client.post("/admin/reload", headers=headers)
    check_problem(problem, 403, "forbidden")
    right = reloadable.client.post("/admin/reload", headers={"Authorization": "Bearer secret"})
    assert right.status_code == 200


def test_conversations_do_not_keep_the_world_that_they_were_in(reloadable: Reloadable) -> None:
    for number in range(3):
        reloadable.client.post("/ask", json=ask_body(player_id=f"p{number}"))
    world = ref(reloadable.service.world)
    assert reloadable.client.post("/admin/reload").status_code == 200
    gc.collect()
    assert world() is None


def change_bundle(reloadable: Reloadable, **base: str) -> None:
    file = reloadable.service.settings.bundle / MANIFEST
    manifest = json.loads(file.read_text())
    manifest["base"].update(base)
    file.write_text(json.dumps(manifest))


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def with_own_bundle(own_bundle: Path, small_world: Path) -> Iterator[Reloadable]:
    with opened(own_bundle, small_world) as service, client_of(service) as client:
        yield Reloadable(client, service, small_world)


def test_another_bundle_takes_over_and_the_turn_in_flight_finishes_with_the_old(
    with_own_bundle: Reloadable,
) -> None:
    service, client, gate = with_own_bundle.service, with_own_bundle.client, Gate()
    old = service.loaded
    heads = HookedHeads(old.heads, gate.wait)
    service.dialogue = replace(service.dialogue, heads=heads)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(client.post, "/ask", json=ask_body())
        assert gate.reached.wait(PATIENCE_S)
        change_bundle(with_own_bundle, name="another")
        assert client.post("/admin/reload").json()["bundle"] != old.bundle.id
        answer = client.post("/ask", json=ask_body(player_id="p2")).json()
        assert answer["meta"]["bundle"] == service.loaded.bundle.id != old.bundle.id
        assert old.engine.is_running, "a turn is in flight"
        gate.opened.set()
        finished = running.result().json()["meta"]
    assert (finished["valid"], finished["bundle"]) == (True, old.bundle.id)
    wait_until(lambda: not old.engine.is_running)
    assert service.engine.is_running
    answer = client.post("/ask", json=ask_body(dialogue_history=None)).json()
    assert (answer["meta"]["valid"], answer["meta"]["history"]) == (True, "rebuilt")


def test_another_bundle_begins_with_the_pace_of_the_old_one(with_own_bundle: Reloadable) -> None:
    service, client = with_own_bundle.service, with_own_bundle.client
    client.post("/ask", json=ask_body())
    sequence = EngineSequence(Request([1], deadline=0.0), lambda _: None)
    change_bundle(with_own_bundle, name="another")
    client.post("/admin/reload")
    with pytest.raises(Overloaded):
        service.engine.pace.check_deadline(sequence, 1, 1, now=0.0)


def test_a_broken_bundle_is_refused_and_the_old_one_keeps_serving(
    with_own_bundle: Reloadable,
) -> None:
    bundle = with_own_bundle.service.settings.bundle
    (bundle / "cut").write_bytes(b"GGUF, cut short")
    (bundle / "cut").replace(bundle / MODEL)  # what serves has the old one mapped into its memory
    problem = check_problem(with_own_bundle.client.post("/admin/reload"), 409, "bundle_refused")
    assert "model.gguf" in problem["detail"]
    assert with_own_bundle.client.post("/ask", json=ask_body()).json()["meta"]["valid"] is True


def test_an_encoder_that_was_built_anew_is_refused_and_the_old_one_stays(
    reloadable: Reloadable, tmp_path: Path
) -> None:
    service, folder = reloadable.service, tmp_path / "encoder"
    calibration = {"format": 1, "embedder": "rebuilt@2", "note": 0.6, "same": 0.8}
    folder.mkdir()
    (folder / CALIBRATION).write_text(json.dumps(calibration))
    service.embedder = GramEmbedder()
    service.settings = msgspec.structs.replace(service.settings, embedder=str(folder))
    before = service.dialogue
    problem = check_problem(reloadable.client.post("/admin/reload"), 409, "embedder_refused")
    assert "a calibration of grams" in problem["detail"]
    assert "rebuilt@2" in problem["detail"]
    assert service.dialogue is before
    assert reloadable.unmet() is None


def test_the_same_bundle_keeps_its_engine(with_own_bundle: Reloadable) -> None:
    before = with_own_bundle.service.loaded
    assert with_own_bundle.client.post("/admin/reload").status_code == 200
    assert with_own_bundle.service.loaded is before


def test_a_web_page_cannot_reload_a_server_without_an_admin_key(reloadable: Reloadable) -> None:
    headers = {"Origin": "https://evil.example"}
    check_problem(reloadable.client.post("/admin/reload", headers=headers), 403, "forbidden")


def test_a_bundle_that_cannot_be_evaluated_is_refused_and_the_old_one_keeps_serving(
    with_own_bundle: Reloadable, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, client = with_own_bundle.service, with_own_bundle.client
    before, decode = service.loaded, LlamaContext.decode

    def short_of_memory(context: LlamaContext, *args: Any, **options: Any) -> list[int]:
        if context is not before.engine._context:
            raise DecodeError(-3)
        return decode(context, *args, **options)

    monkeypatch.setattr(LlamaContext, "decode", short_of_memory)
    change_bundle(with_own_bundle, name="another")
    problem = check_problem(client.post("/admin/reload"), 409, "bundle_refused")
    assert "lower PERSONA_N_CTX" in problem["detail"]
    assert service.loaded is before
    assert client.post("/ask", json=ask_body()).json()["meta"]["valid"] is True
