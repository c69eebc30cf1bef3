import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rag.calibration import Calibration
from server.cli import main
from server.doctor import Finding
from tests.rag.fake_embedder import GramEmbedder
from tests.rag.worlds import FALLBACK, PERSONA, write_json
from tests.server.serving import ask_body, wait_until
from tests.server.small_world import DOCUMENTS

ROOT = Path(__file__).parents[2]
RUN = "import sys; from server.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Ran:
    """What a command gave."""

    code: int
    out: str
    error: str


@pytest.fixture(autouse=True)
def settings(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, small_world: Path
) -> dict[str, str]:
    """The tiny bundle and the small world, in the environment."""
    found = {
        "PERSONA_BUNDLE": str(tiny_bundle),
        "PERSONA_WORLD": str(small_world),
        "PERSONA_THREADS": "1",
        "PERSONA_N_CTX": "4096",
        "COLUMNS": "600",
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def persona(capsys: pytest.CaptureFixture[str]) -> "Command":
    """The command."""
    return Command(capsys)


@dataclass(frozen=True)
class Command:
    """Runs `persona` in this process."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Ran:
        code = main([*arguments])
        captured = self.capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    def fails(self, *arguments: str) -> str:
        """The one line that it says before it exits with 1."""
        ran = self(*arguments)
        assert ran.code == 1
        assert ran.error.count("\n") == 1, ran.error
        assert ran.error.startswith("persona")
        assert "Traceback" not in ran.error
        return ran.error


def test_a_turn_is_answered_without_a_server(persona: Command) -> None:
    ran = persona("ask", "--npc", "mina", "hello", "--json", "--temperature", "0")
    assert ran.code == 0
    answer = json.loads(ran.out)
    assert answer.keys() == {"text", "delta", "flags", "meta"}
    assert answer["meta"]["valid"] is True
    assert answer["meta"]["session_id"] == "cli:mina"


def test_the_line_is_followed_by_what_it_changed_and_why(persona: Command) -> None:
    arguments = ("ask", "--npc", "mina", "hello", "--temperature", "0")
    line = json.loads(persona(*arguments, "--json").out)["text"]
    ran = persona(*arguments)
    assert ran.code == 0
    assert ran.out.startswith(line)
    for word in ("trust", "relationship", "give_item", "path main", "score", "threshold"):
        assert word in ran.out


def test_the_state_of_the_game_is_given_as_json(persona: Command) -> None:
    context = '{"game_state": {"quest_stage": "over"}, "npc_state": {"trust": -1}}'
    assert persona("ask", "--npc", "mina", "hello", "--context", context).code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--npc", "nobody", "hello"), "no NPC 'nobody'; it has mina, rook"),
        (("--npc", "mina", ""), "empty"),
        (("--npc", "mina", "\x00"), "empty"),
        (("--npc", "mina", "x" * 2_001), "text"),
        (("--npc", "", "hello"), "npc_id"),
        (("--npc", "mina", "hello", "--context", "{"), "truncated"),
        (("--npc", "mina", "hello", "--context", "[]"), "context"),
        (("--npc", "mina", "hello", "--context", '{"npc_state": {"trust": 3}}'), "trust"),
        (("--npc", "mina", "hello", "--temperature", "9"), "temperature"),
        (("--npc", "mina", "hello", "--seed", "-1"), "seed"),
    ],
)
def test_a_bad_question_is_told_in_a_line(
    persona: Command, arguments: tuple[str, ...], told: str
) -> None:
    assert told in persona.fails("ask", *arguments)


def test_what_had_no_effect_is_told_below_the_answer(persona: Command) -> None:
    context = '{"npc_state": {"trsut": 1}, "game_state": {"quest_stage": "ov-er"}}'
    for arguments in (("--context", context), ("--context", context, "--explain")):
        ran = persona("ask", "--npc", "mina", "hello", *arguments)
        assert ran.code == 0
        assert "did you mean context.npc_state.trust?" in ran.out
        assert "is no stage here (started, over)" in ran.out


PASSAGE = "The tide is [low] :sun: [/b]"


@pytest.fixture
def bracketed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A world whose words look like markup of a terminal; the model's do, too."""
    pearl = {"value": "a [/b] pearl", "threshold": 0}
    tide = {"threshold": 0, "conditions": {"required_game_state": {"tide": "[/b] low"}}}
    changed = {"mina-give_item": pearl, "mina-npc_main_story": tide}
    documents = [{**document, **changed.get(document["id"], {})} for document in DOCUMENTS]
    lore = {"id": "tide", "type": "lore", "npc_id": "mina", "content": PASSAGE}
    write_json(tmp_path / "world", "world.json", [*documents, lore])
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path))
    monkeypatch.setenv("PERSONA_WORLD", str(tmp_path / "world"))
    embedder = GramEmbedder()
    calibration = Calibration(embedder=embedder.id, note=0.5, same=0.9)
    for module in ("rag.cli", "server.service"):
        monkeypatch.setattr(f"{module}.open_embedder", lambda _: embedder)
        monkeypatch.setattr(f"{module}.read_calibration", lambda *_: calibration)
    monkeypatch.setattr("runtime.llama_backend.LlamaModel.piece", lambda _, token: b"[sigh] [/b] ")
    return tmp_path / "world"


@pytest.mark.usefixtures("bracketed")
@pytest.mark.parametrize("explain", [(), ("--explain",)])
def test_what_looks_like_markup_is_shown_as_it_was_written(
    persona: Command, explain: tuple[str, ...]
) -> None:
    ran = persona("ask", "--npc", "mina", "catch [/i] him", "--temperature", "0", *explain)
    assert ran.code == 0, ran.error
    explained = ("catch [/i] him", "tide: [/b] low", PASSAGE, "✓  [sigh] [/b]")
    told = explained if explain else ("a [/b] pearl",)
    assert [words for words in told if words not in ran.out] == []


def test_a_passage_that_looks_like_markup_is_found_as_it_was_written(
    persona: Command, bracketed: Path
) -> None:
    ran = persona("world", "search", str(bracketed), "the tide is low", "--npc", "mina")
    assert ran.code == 0, ran.error
    assert PASSAGE in ran.out


def test_a_remedy_that_looks_like_markup_is_told_as_it_was_written(
    persona: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("a part", "/srv/[old]/bundle", "pip install 'persona-chat-engine[demo]'")
    monkeypatch.setattr("server.doctor.examine", lambda _: [finding])
    ran = persona("doctor")
    assert (ran.code, finding.found in ran.out, finding.remedy in ran.out) == (1, True, True)


def test_a_setting_that_does_not_exist_is_told_in_a_line(
    persona: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_THREAD", "1")
    for command in (("serve",), ("doctor",), ("ask", "--npc", "mina", "hi")):
        assert "PERSONA_THREAD is not a setting" in persona.fails(*command)


def test_a_missing_bundle_is_told_with_the_command_that_mends_it(
    persona: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERSONA_BUNDLE", str(tmp_path))
    error = persona.fails("ask", "--npc", "mina", "hello")
    assert str(tmp_path / "bundle.json") in error
    assert "persona bundle build" in error


def test_the_doctor_finds_nothing_wrong_here(persona: Command) -> None:
    ran = persona("doctor")
    rows = {row.split("│")[1].strip(): row for row in ran.out.splitlines() if row.startswith("│")}
    assert ran.code == 0, ran.out
    assert rows.keys() >= {"platform", "llama-cpp-python", "onnxruntime", "bundle", "world"}
    assert "qwen2" in rows["bundle"]
    assert "2 NPCs" in rows["world"]
    assert all(row.split("│")[3].strip() == "-" for row in rows.values())


def test_the_doctor_names_each_problem_and_its_remedy(
    persona: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERSONA_BUNDLE", str(tmp_path / "none"))
    monkeypatch.setenv("PERSONA_WORLD", str(tmp_path / "nowhere"))
    ran = persona("doctor")
    assert ran.code == 1
    assert "bundle.json" in ran.out
    assert "persona bundle build" in ran.out
    assert "no such folder" in ran.out


@pytest.mark.gemma
def test_the_doctor_accepts_the_default_bundle(
    persona: Command, monkeypatch: pytest.MonkeyPatch, default_bundle: Path
) -> None:
    monkeypatch.setenv("PERSONA_BUNDLE", str(default_bundle))
    ran = persona("doctor")
    assert ran.code == 0, ran.out
    assert "gemma3" in ran.out


def test_a_good_world_is_counted(persona: Command, small_world: Path) -> None:
    ran = persona("world", "check", str(small_world))
    assert ran.code == 0
    assert "8 documents, 2 NPCs, no problem found" in ran.out


def test_every_problem_of_a_world_is_told(persona: Command, tmp_path: Path) -> None:
    write_json(tmp_path, "mina.json", [PERSONA, {**PERSONA, "id": "other"}, FALLBACK])
    (tmp_path / "bad.json").write_text("{")
    ran = persona("world", "check", str(tmp_path))
    assert ran.code == 1
    assert "2 problem(s)" in ran.error
    assert "mina.json: other: npc_id:" in ran.error
    assert "bad.json" in ran.error
    assert "Traceback" not in ran.error


def test_a_command_whose_packages_are_missing_says_which_to_install(
    persona: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "train.cli", None)
    ran = persona("heads", "fit")
    assert ran.code == 1
    assert "'train.cli' is not installed" in ran.error
    assert "pip install" in ran.error


@pytest.mark.parametrize(
    ("variable", "word"), [("PERSONA_BUNDLE", "bundle.json"), ("PERSONA_WORLD", "no such folder")]
)
def test_a_server_that_cannot_start_says_why_in_a_sentence(
    persona: Command, monkeypatch: pytest.MonkeyPatch, variable: str, word: str
) -> None:
    monkeypatch.setenv(variable, "/nowhere")
    ran = persona("serve", "--port", "0")
    assert ran.code == 1
    assert word in ran.error
    assert "Traceback" not in ran.error + ran.out


def test_a_server_answers_and_goes_when_it_is_told_to(settings: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-c", RUN, "serve", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: process.poll() is not None or is_ready(url))
            answer = httpx.post(f"{url}/ask", json=ask_body()).json()
            assert answer["meta"]["valid"] is True
        finally:
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in error


def is_ready(url: str) -> bool:
    """Whether a server answers there."""
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
