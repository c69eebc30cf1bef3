import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heads.bundle import BundleError
from rag.loader import WorldError
from runtime.errors import ModelError
from server.settings import Settings
from tests.heads.bundles import entry_of, write_heads
from tests.rag.worlds import write_json
from tests.server.serving import ask_body, client_of, opened
from tests.server.small_world import write_small_world


@pytest.fixture
def broken(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be broken."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    change(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def error_of(bundle: Path, world: Path) -> BundleError:
    with pytest.raises(BundleError) as caught, opened(bundle, world):
        pass
    error = caught.value
    assert all(part in str(error) for part in (error.file, error.expected, error.found))
    assert "persona bundle build" in error.remedy
    return error


def test_another_prompt_format_is_refused(broken: Path, small_world: Path) -> None:
    rewrite(broken, lambda m: m.update(prompt_format=9))
    error = error_of(broken, small_world)
    assert (error.expected, error.found) == ("prompt format 1", "format 9")
    assert error.file == str(broken / "bundle.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: ids.update({"<STATE>": ids["<STATE>"] + 1}),
        lambda ids: ids.update({"<STATE>": ids["<NPC>"], "<NPC>": ids["<STATE>"]}),
        lambda ids: ids.pop("<NPC>"),
    ],
)
def test_special_tokens_that_the_model_has_elsewhere_are_refused(
    broken: Path, small_world: Path, change: Callable[[dict[str, int]], object]
) -> None:
    rewrite(broken, lambda m: change(m["special_tokens"]))
    error = error_of(broken, small_world)
    assert error.file == str(broken / "model.gguf")
    assert error.expected == "the special tokens of the manifest"
    assert "special token <" in error.found


def test_a_model_of_another_width_is_refused(broken: Path, small_world: Path) -> None:
    write_heads(broken / "heads.onnx", 32)

    def narrow(manifest: dict[str, Any]) -> None:
        manifest["n_embd"] = 32
        manifest["files"][1] = entry_of(broken / "heads.onnx")

    rewrite(broken, narrow)
    error = error_of(broken, small_world)
    assert (error.file, error.expected) == (str(broken / "model.gguf"), "n_embd 32")
    assert error.found == "64"


def test_heads_of_another_width_are_refused(broken: Path, small_world: Path) -> None:
    write_heads(broken / "heads.onnx", 32)
    rewrite(broken, lambda m: m["files"].__setitem__(1, entry_of(broken / "heads.onnx")))
    error = error_of(broken, small_world)
    assert error.file == str(broken / "heads.onnx")
    assert "state" in error.expected


def test_a_truncated_model_is_refused_even_without_hashes(broken: Path, small_world: Path) -> None:
    whole = (broken / "model.gguf").read_bytes()
    (broken / "model.gguf").write_bytes(whole[: len(whole) // 2])
    assert error_of(broken, small_world).file == str(broken / "model.gguf")
    rewrite(broken, lambda m: m["files"].__setitem__(0, entry_of(broken / "model.gguf")))
    with pytest.raises(ModelError, match="not a model"), opened(broken, small_world):
        pass


def test_a_missing_world_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="no such folder"), opened(tmp_path, tmp_path / "world"):
        pass


def test_the_context_is_as_the_heads_were_calibrated(broken: Path, small_world: Path) -> None:
    calibrated = {"kv_type": "f32", "flash_attention": False, "n_batch": 128, "n_ubatch": 64}
    rewrite(broken, lambda m: m.update(context=calibrated))
    with opened(broken, small_world, n_ctx=1024, n_sequences=3, n_residents=2) as service:
        config = service.engine._context.config
    assert (config.kv_type, config.flash_attention) == ("f32", False)
    assert (config.n_batch, config.n_ubatch) == (128, 64)
    assert (config.n_ctx, config.n_seq_max, config.n_threads) == (1024, 5, 1)


def test_a_context_always_leaves_room_for_a_reply(tiny_bundle: Path, small_world: Path) -> None:
    with opened(tiny_bundle, small_world, n_ctx=1024) as service:
        assert service.dialogue.prompt_tokens == 512
    assert Settings().prompt_tokens < Settings().n_ctx // 2


def test_flags_that_the_heads_do_not_predict_are_warned_of_once(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = write_small_world(tmp_path)
    dances = [
        {"id": f"{npc}-dance", "type": "flag_def", "npc_id": npc, "flag_name": "dance"}
        for npc in ("mina", "rook")
    ]
    write_json(world, "dances.json", dances)
    with opened(tiny_bundle, world):
        pass
    (warning,) = [r.message for r in caplog.records if "never apply" in r.message]
    assert warning == "documents of the world never apply: the bundle has no flag 'dance'"


def test_the_first_turn_after_a_restart_begins_at_what_is_the_same_for_all(
    tiny_bundle: Path, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path))
    monkeypatch.setattr("runtime.scheduler.MIN_GAIN", 1)  # the scene's description is short

    def ask(text: str, **others: Any) -> int:
        """Cached tokens of the first turn of a server that was just started."""
        with opened(tiny_bundle, small_world, prefix_mb=10) as service, client_of(service) as asker:
            answer = asker.post("/ask", json=ask_body(text, **others)).json()
            cached: int = answer["meta"]["usage"]["cached_tokens"]
            return cached

    assert ask("hello there") == 0, "at the pier, where she is unless told otherwise"
    scene = ask("hello there")
    assert ask("quite another thing to say") == scene
    elsewhere = ask("hello there", context={"game_state": {"location": "tower"}})
    assert 10 < elsewhere < scene, "her own block"
