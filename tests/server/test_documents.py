"""Each document type and each decision, from the request to the answer.

On the default bundle, greedy, with the default encoder. A `flag_def` with threshold 0 is raised
whatever the heads say, so these hold for any heads.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest

from heads.agreement import MAX_ATTEMPTS
from rag.calibration import read_calibration
from rag.documents import Document
from rag.embedder import DEFAULT, Embedder, open_embedder
from rag.index_store import open_index
from rag.keywords import Keywords
from rag.retriever import Retriever
from rag.world import World
from server.service import Service
from tests.server.serving import altered, ask_body, client_of
from tests.server.small_world import DOCUMENTS

pytestmark = pytest.mark.gemma

LAMP = {
    "id": "lamp",
    "type": "lore",
    "npc_id": "mina",
    "content": {"ko": "등심지가 썩었다.", "en": "The wick has rotted through."},
}
LAMP_ASKED = {
    "id": "lamp.asked",
    "type": "questions",
    "about": "lamp",
    "questions": ["Why does the light keep going out?", "불이 왜 자꾸 꺼져요?"],
}
THREATS = {
    "id": "threats",
    "type": "forbidden_trigger_list",
    "npc_id": "mina",
    "triggers": {
        "keywords": ["blow up the tower"],
        "text": [
            "I'm going to throw you off this tower.",
            "오늘 밤에 와서 네 목을 그어 버릴 거야.",
            "You'll be dead before the lamp goes out tonight.",
        ],
    },
}
THREATS_META = {
    "id": "threats.meta",
    "type": "trigger_meta",
    "npc_id": "mina",
    "trigger": "threats",
    "npc_action": {"ko": "나팔을 든다", "en": "lifts the horn"},
    "npc_emotion": "afraid",
    "delta": {"trust": -0.8, "relationship": -0.7},
}
SPOILERS = {
    "id": "spoilers",
    "type": "forbidden_trigger_list",
    "npc_id": "mina",
    "triggers": {"text": ["What is the password of the archive?", "How does this story end?"]},
}
SPOILERS_META = {"id": "spoilers.meta", "type": "trigger_meta", "trigger": "spoilers"}


def flag(name: str = "give_item", **others: Any) -> dict[str, Any]:
    """A flag_def that is raised whatever the heads say."""
    return {
        "id": f"own-{name}",
        "type": "flag_def",
        "npc_id": "mina",
        "quest_stage": "started",
        "location": "pier",
        "flag_name": name,
        "value": "lamp_oil",
        "threshold": 0.0,
        **others,
    }


def terms(**parts: Any) -> dict[str, Any]:
    """A trigger_def for every scene of Mina's."""
    return {"id": "terms", "type": "trigger_def", "npc_id": "mina", **parts}


@dataclass(frozen=True)
class Case:
    """Documents beside those of the small world, a request, and what must be so."""

    name: str
    documents: list[dict[str, Any]]
    expected: Callable[[dict[str, Any]], bool]
    text: str = "Good evening."
    body: dict[str, Any] = field(default_factory=dict)


def blocks(answer: dict[str, Any], name: str) -> str:
    """The text of the prompt's blocks of one kind."""
    prompt = answer["meta"]["explain"]["prompt"]
    return "\n".join(block["text"] for block in prompt if block["block"] == name)


def shown(answer: dict[str, Any]) -> list[str]:
    """Ids of the notes in the prompt."""
    return [note["id"] for note in answer["meta"]["explain"]["notes"] if note["shown"]]


def detail(answer: dict[str, Any], name: str = "give_item") -> dict[str, Any]:
    """What the answer says of a flag."""
    found: dict[str, Any] = answer["meta"]["flags_detail"][name]
    return found


def is_closed(answer: dict[str, Any], reason: str) -> bool:
    """Whether the turn ended as a fallback for `reason`, with no flag raised."""
    meta = answer["meta"]
    no_flag = not any(answer["flags"].values())
    return not meta["valid"] and meta["path"] == "fallback" and meta["reason"] == reason and no_flag


PEARL = {"trigger": {"required_items": {"mandatory": ["pearl"]}}}

SMALL_TALK = (
    "저는 이 항구에서 그물을 고치며 삽니다. 오늘은 바람이 잔잔해서 배가 많이 나갔고, "
    "저녁에는 장터에서 국밥을 먹을 생각입니다. "
)


CASES = [
    Case(
        "npc_persona: who she is stands in <SYS>, how she begins in <PLAYER_STATE>",
        [],
        lambda a: (
            "name=Mina" in blocks(a, "SYS")
            and 'npc_mood="calm"' in blocks(a, "PLAYER_STATE")
            and "trust=0.20" in blocks(a, "PLAYER_STATE")
        ),
    ),
    Case(
        "description: of the scene's place",
        [],
        lambda a: "Night at the pier" in blocks(a, "RAG"),
    ),
    Case(
        "description: not of another place",
        [],
        lambda a: "Night at the pier" not in blocks(a, "RAG"),
        body={"context": {"game_state": {"location": "tower"}}},
    ),
    Case(
        "lore: what was asked by its questions comes to mind",
        [LAMP, LAMP_ASKED],
        lambda a: shown(a) == ["lamp"] and "note=The wick has rotted" in blocks(a, "RAG"),
        text="Why does the light go out all the time?",
    ),
    Case(
        "lore: in the language of the conversation",
        [LAMP, LAMP_ASKED],
        lambda a: "note=등심지가 썩었다." in blocks(a, "RAG"),
        text="불이 왜 자꾸 꺼져요?",
    ),
    Case(
        "lore: not of a later stage",
        [{**LAMP, "quest_stage": "over"}, LAMP_ASKED],
        lambda a: shown(a) == [],
        text="Why does the light go out all the time?",
    ),
    Case(
        "questions: without them the lore is too far",
        [LAMP],
        lambda a: shown(a) == [],
        text="Why does the light go out all the time?",
    ),
    Case(
        "dialogue_turn: a like question brings the model answer",
        [
            {
                "id": "turn",
                "type": "dialogue_turn",
                "npc_id": "mina",
                "player": "Who built this lighthouse?",
                "npc": "My grandmother carried the stones.",
                "lang": "en",
            }
        ],
        lambda a: shown(a) == ["turn"] and "carried the stones" in blocks(a, "RAG"),
        text="Who built the lighthouse?",
    ),
    Case(
        "trigger_def: an unmet condition closes the main path and says what was unmet",
        [terms(**PEARL)],
        lambda a: (
            is_closed(a, "conditions_unmet")
            and a["meta"]["unmet"]
            == [{"key": "required_items.mandatory", "needed": "pearl", "found": "nothing"}]
            and a["delta"] == {"trust": 0.0, "relationship": 0.0}
        ),
    ),
    Case(
        "trigger_def: a met condition does not",
        [terms(**PEARL)],
        lambda a: a["meta"]["valid"],
        body={"context": {"player_state": {"items": ["pearl"]}}},
    ),
    Case(
        "precheck_passed true skips the conditions",
        [terms(**PEARL)],
        lambda a: a["meta"]["valid"],
        body={"precheck_passed": True},
    ),
    Case(
        "precheck_passed false closes the main path",
        [],
        lambda a: is_closed(a, "precheck_failed"),
        body={"precheck_passed": False},
    ),
    Case(
        "delta_policy: a cap of nothing lets nothing move, whatever the heads say",
        [terms(delta_policy={"trust": {"per_turn_cap": 0.0}})],
        lambda a: a["delta"]["trust"] == 0.0 and a["meta"]["explain"]["deltas"]["trust"]["raw"],
    ),
    Case(
        "flag_policy: a forbidden flag is held back",
        [terms(flag_policy={"forbidden": ["give_item"]}), flag()],
        lambda a: not a["flags"]["give_item"] and detail(a)["held_back"] == "flag_policy",
    ),
    Case(
        "flag_def: value, text and source of a raised flag",
        [flag(text={"ko": "기름을 받았다.", "en": "You got oil."})],
        lambda a: (
            a["flags"]["give_item"]
            and detail(a)["value"] == "lamp_oil"
            and detail(a)["text"] == "You got oil."
            and detail(a)["source"] == "own-give_item"
            and 'give_item="lamp_oil"' in a["meta"]["explain"]["decision"]
        ),
    ),
    Case(
        "flag_def: a threshold out of reach",
        [flag(threshold=1.0)],
        lambda a: not a["flags"]["give_item"] and "held_back" not in detail(a),
    ),
    Case(
        "flag_def: its conditions",
        [flag(conditions={"required_delta": {"mandatory": {"trust": 0.9}}})],
        lambda a: (
            not a["flags"]["give_item"]
            and detail(a)["held_back"] == "conditions"
            and detail(a)["unmet"][0]["found"] == "0.2"
        ),
    ),
    Case(
        "flag_def: an exception",
        [flag(conditions={"unless": [{"required_npc_state": {"npc_mood": "hostile"}}]})],
        lambda a: not a["flags"]["give_item"] and detail(a)["held_back"] == "conditions",
        body={"context": {"npc_state": {"npc_mood": "hostile"}}},
    ),
    Case(
        "flag_def: at a stage that Mina does not have, by what was said",
        [
            flag(
                "quest_stage_change",
                quest_stage="over",
                location="tower",
                examples_positive=["Could I have some of that lamp oil?"],
                examples_negative=["Is the oil expensive?"],
            ),
        ],
        lambda a: (
            detail(a, "quest_stage_change")["source"] == "own-quest_stage_change"
            and detail(a, "quest_stage_change")["found_by"] == "meaning"
        ),
        text="May I have some lamp oil, please?",
        body={"context": {"game_state": {"quest_stage": "festival", "location": "hill"}}},
    ),
    Case(
        "forbidden_trigger_list and trigger_meta: a keyword",
        [THREATS, THREATS_META],
        lambda a: (
            is_closed(a, "forbidden_trigger")
            and a["meta"]["trigger"] == "threats"
            and a["delta"] == {"trust": -0.8, "relationship": -0.7}
            and a["meta"]["npc_action"] == "lifts the horn"
            and a["meta"]["npc_emotion"] == "afraid"
        ),
        text="Soon we b l o w up the tower.",
    ),
    Case(
        "forbidden_trigger_list: an attack that is like none of its examples",
        [THREATS, THREATS_META],
        lambda a: is_closed(a, "forbidden_trigger"),
        text="Hand over your purse or I'll break both your arms.",
        body={"precheck_passed": True},
    ),
    Case(
        "forbidden_trigger_list: an attack at the end of a long remark",
        [THREATS, THREATS_META],
        lambda a: is_closed(a, "forbidden_trigger"),
        text=SMALL_TALK * 14 + "당장 열쇠 내놔. 안 그러면 널 이 탑에서 던져 버린다.",
    ),
    Case(
        "forbidden_trigger_list: a long remark without one",
        [THREATS, THREATS_META],
        lambda a: a["meta"]["reason"] != "forbidden_trigger",
        text=SMALL_TALK * 14,
    ),
    Case(
        "forbidden_trigger_list: a warning in the same words is none",
        [THREATS, THREATS_META],
        lambda a: a["meta"]["valid"],
        text="Please come away from the edge, I don't want you to fall off this tower.",
    ),
    Case(
        "forbidden_trigger_list: another topic, by its examples",
        [SPOILERS, SPOILERS_META],
        lambda a: is_closed(a, "forbidden_trigger") and a["meta"]["trigger"] == "spoilers",
        text="What's the password of the archive?",
    ),
    Case(
        "forbidden_trigger_list: another topic, and something else said",
        [SPOILERS, SPOILERS_META],
        lambda a: a["meta"]["valid"],
        text="What a lovely evening it is.",
    ),
    Case(
        "fallback: how she carries herself",
        [],
        lambda a: (
            a["meta"]["npc_action"] == "lifts the lantern" and a["meta"]["npc_emotion"] == "wary"
        ),
        body={"precheck_passed": False},
    ),
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """The default encoder, from the user's cache."""
    return open_embedder(DEFAULT)


@contextmanager
def asking(
    service: Service, embedder: Embedder, documents: list[dict[str, Any]], **dialogue: Any
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Ask a server whose world has `documents` too; greedy and explained."""
    world = World(msgspec.convert([*documents, *DOCUMENTS], list[Document]))
    index, _ = open_index(world.documents, embedder)
    calibration = read_calibration(DEFAULT, embedder.id)
    retriever = Retriever(embedder, index, calibration)
    with client_of(altered(service, world=world, retriever=retriever, **dialogue)) as client:

        def ask(text: str = "Good evening.", **body: Any) -> dict[str, Any]:
            params = {"max_tokens": 24, "temperature": 0}
            whole = ask_body(text, explain=True, gen_params=params, **body)
            response: httpx.Response = client.post("/ask", json=whole)
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = response.json()
            return answer

        yield ask


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_document_does_what_it_says(
    gemma_service: Service, embedder: Embedder, case: Case
) -> None:
    with asking(gemma_service, embedder, case.documents, fallback="authored") as ask:
        answer = ask(case.text, **case.body)
    assert case.expected(answer), msgspec.json.format(msgspec.json.encode(answer)).decode()
    assert answer["text"]


def test_a_line_like_a_bad_example_is_asked_for_again(
    gemma_service: Service, embedder: Embedder
) -> None:
    with asking(gemma_service, embedder, []) as ask:
        first = ask()
    sentence = next(each["text"] for each in first["meta"]["explain"]["line"] if each["released"])
    bad = {
        "id": "validate",
        "type": "main_res_validate",
        "npc_id": "mina",
        "examples_negative": [sentence],
    }
    with asking(gemma_service, embedder, [bad]) as ask:
        second = ask()
    assert "like_a_bad_example" in second["meta"]["line_refused"]
    assert second["meta"]["text_source"] in {"regenerated", "authored"}
    assert sentence != second["text"]
    assert second["delta"] == first["delta"]
    assert len(second["meta"]["line_refused"]) <= MAX_ATTEMPTS
    assert sentence in [each.get("because") for each in second["meta"]["explain"]["line"]]


def test_a_banned_word_never_leaves(gemma_service: Service, embedder: Embedder) -> None:
    """On the fallback path, where the untrained model speaks in words."""
    with asking(gemma_service, embedder, []) as ask:
        match = re.search(r"[A-Za-z]{4,}", ask("Who are you?", precheck_passed=False)["text"])
    assert match, "the model's line has a word"
    banned: list[dict[str, Any]] = [
        {
            "id": "banned",
            "type": "forbidden_trigger_list",
            "triggers": {"keywords": [match.group()]},
        },
        {"id": "banned.meta", "type": "trigger_meta", "trigger": "banned"},
    ]
    with asking(gemma_service, embedder, banned) as ask:
        answer = ask("Who are you?", precheck_passed=False)
    assert answer["meta"]["line_refused"][0] == "banned_word"
    assert Keywords.of([match.group()]).found_in(answer["text"]) is None


def test_the_same_question_gives_the_same_answer(
    gemma_service: Service, embedder: Embedder
) -> None:
    with asking(gemma_service, embedder, [LAMP, LAMP_ASKED, flag()]) as ask:
        first, second = ask(), ask()
    for answer in (first, second):
        for key in ("turn_id", "timings_ms"):
            answer["meta"].pop(key)
    assert first == second
