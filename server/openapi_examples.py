"""Examples for the OpenAPI document, set in the demo world Mulmaru."""

from typing import Any, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]

_LIGHT_KEEPS = "소라에게 새 등심지를 건넸다. 곶등대의 불이 다시 밤을 지킨다."
_USAGE = {"prompt_tokens": 412, "cached_tokens": 371, "completion_tokens": 33}
_TIMINGS = {"queue": 0.2, "prefill": 91.4, "state": 104.9, "first_token": 129.0, "total": 612.3}
_SMALLEST = {"text": "등심지가 썩었다면서요?", "npc_id": "sora", "player_id": "p1"}
_WICK = {
    "text": "약속했던 등심지예요. 맞는지 봐 줘요.",
    "npc_id": "sora",
    "player_id": "p1",
    "session_id": "p1:sora",
    "context": {
        "game_state": {"quest_stage": "in_progress", "location": "lighthouse"},
        "player_state": {"items": ["lamp_wick"], "reputation": "good"},
        "npc_state": {"trust": 0.35, "relationship": 0.3, "npc_mood": "worried"},
    },
    "dialogue_history": [
        {
            "player": "그 심지, 내가 구해 올게요.",
            "npc": "정말요? 죄송해요, 아니, 고마워요… 두 손가락 굵기 무명 심지예요.",
        }
    ],
}
_PAGE = {
    "text": "Got it! This is the one, right?",
    "npc_id": "wren",
    "player_id": "p2",
    "lang": "en",
    "context": {
        "game_state": {"quest_stage": "in_progress", "location": "harbor_market"},
        "player_state": {"items": ["ledger_page"]},
        "npc_state": {"trust": 0.3, "relationship": 0.2, "npc_mood": "hopeful"},
    },
    "gen_params": {"temperature": 0.7, "seed": 7},
    "stream": True,
}
_THREAT = {
    "text": "One spark and the Fair Measure goes up with everyone in her.",
    "npc_id": "wren",
    "player_id": "p2",
    "context": {"game_state": {"quest_stage": "in_progress", "location": "harbor_market"}},
}

_WICK_ANSWER = {
    "text": "만져 볼게요, 잠깐만요… 굵기도 맞고, 다 말랐고, 세상에. 저 이거, 망원경이요. "
    "심지 가져오는 분께 드리려고 닦아 놨어요.",
    "delta": {"trust": 0.6, "relationship": 0.55},
    "flags": {"give_item": True, "npc_main_story": False, "quest_stage_change": True},
    "meta": {
        "npc_id": "sora",
        "session_id": "p1:sora",
        "turn_id": "bd86e6630c8b4f6fb7a8f3a7d0f4f6c1",
        "valid": True,
        "path": "main",
        "reason": None,
        "text_source": "model",
        "history": "continued",
        "flags_detail": {
            "give_item": {
                "score": 0.9213,
                "threshold": 0.5,
                "value": "brass_spyglass",
                "text": "새 심지를 받은 소라가 약속대로 놋쇠 망원경을 내주었다.",
                "source": "sora.flag.give_item.in_progress.reward",
            },
            "npc_main_story": {
                "score": 0.0417,
                "threshold": 0.5,
                "source": "sora.flag.npc_main_story.in_progress",
            },
            "quest_stage_change": {
                "score": 0.8856,
                "threshold": 0.5,
                "value": "completed",
                "text": _LIGHT_KEEPS,
                "source": "sora.flag.quest_stage_change.in_progress",
            },
        },
        "usage": _USAGE,
        "timings_ms": _TIMINGS,
        "bundle": "default@e31f50beb1cc",
    },
}
_THREAT_ANSWER = {
    "text": "My crew want me. I'll mark this one pending.",
    "delta": {"trust": -0.8, "relationship": -0.7},
    "flags": {"give_item": False, "npc_main_story": False, "quest_stage_change": False},
    "meta": {
        "npc_id": "wren",
        "session_id": "p2:wren",
        "turn_id": "5e1c2f7f2b5b4c07b6b0b8b5a1f0c9aa",
        "valid": False,
        "path": "fallback",
        "reason": "forbidden_trigger",
        "text_source": "authored",
        "history": "fresh",
        "flags_detail": {},
        "usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0},
        "timings_ms": {},
        "bundle": "default@e31f50beb1cc",
        "trigger": "wren.forbidden.grave_threat",
        "npc_action": "shuts the ledger and whistles for her crew",
        "npc_emotion": "hostile",
    },
}
_PAGE_STATE = {
    "turn_id": "0f9b7c55a7f04a1e9d0f3c1f6a2b4d18",
    "delta": {"trust": 0.55, "relationship": 0.45},
    "flags": {"give_item": True, "npc_main_story": False, "quest_stage_change": True},
    "flags_detail": {
        "give_item": {
            "score": 0.9031,
            "threshold": 0.5,
            "value": "harbor_pass",
            "text": "With the page in her hand, Wren pays with the harbour pass.",
            "source": "wren.flag.give_item.in_progress.reward",
        },
        "npc_main_story": {
            "score": 0.0368,
            "threshold": 0.5,
            "source": "wren.flag.npc_main_story.in_progress",
        },
        "quest_stage_change": {
            "score": 0.8749,
            "threshold": 0.5,
            "value": "completed",
            "text": "The torn page is back in Wren's hands.",
            "source": "wren.flag.quest_stage_change.in_progress",
        },
    },
}
_PAGE_SENTENCES = (
    "Forty-one in the corner, barred sevens, and a stain I don't care to identify.",
    " That's the one; here's your pass, and the book thanks you louder than I shall.",
)
_PAGE_ANSWER = {
    "text": "".join(_PAGE_SENTENCES),
    "delta": _PAGE_STATE["delta"],
    "flags": _PAGE_STATE["flags"],
    "meta": {
        "npc_id": "wren",
        "session_id": "p2:wren",
        "turn_id": _PAGE_STATE["turn_id"],
        "valid": True,
        "path": "main",
        "reason": None,
        "text_source": "model",
        "history": "fresh",
        "flags_detail": _PAGE_STATE["flags_detail"],
        "usage": {"prompt_tokens": 388, "cached_tokens": 0, "completion_tokens": 41},
        "timings_ms": _TIMINGS,
        "bundle": "default@e31f50beb1cc",
    },
}
_PROMPT = {
    "prompt": "<SYS> npc_id=sora, a keeper of the light <CTX> <PLAYER_STATE> trust=0.20 "
    "<PLAYER> 오늘 밤도 불을 지키세요? <STATE>",
    "gen_params": {"max_tokens": 48},
}
_PREDICTION = {
    "text": "그럼요. 꺼지면 또 켜면 되니까요.",
    "delta": [0.04, 0.06],
    "flags": {"give_item": False, "npc_main_story": False, "quest_stage_change": False},
}


def _sse(*events: tuple[str, Json]) -> str:
    return "".join(
        f"event: {name}\ndata: {msgspec.json.encode(data).decode()}\n\n" for name, data in events
    )


REQUESTS: dict[str, dict[str, Json]] = {
    "ask": {
        "smallest": {"summary": "The least that it needs", "value": _SMALLEST},
        "korean": {"summary": "A quest is handed in, in Korean", "value": _WICK},
        "english": {"summary": "The same in English, as a stream", "value": _PAGE},
        "fallback": {"summary": "A threat", "value": _THREAT},
    },
    "predictMain": {"prompt": {"value": _PROMPT}},
}
"""Examples of bodies, by the operation's name."""
ANSWERS: dict[str, dict[str, Json]] = {
    "ask": {
        "korean": {"summary": "Two flags fire", "value": _WICK_ANSWER},
        "fallback": {"summary": "A forbidden trigger: an authored line", "value": _THREAT_ANSWER},
    },
    "predictMain": {"prediction": {"value": _PREDICTION}},
    "listNpcs": {
        "mulmaru": {
            "value": [
                {
                    "npc_id": "sora",
                    "name": {"ko": "윤소라", "en": "Sora Yun"},
                    "lang": "ko",
                    "about": {
                        "ko": "물마루 곶의 스물세 살 견습 등대지기.",
                        "en": "Apprentice keeper of the Mulmaru light.",
                    },
                    "stages": ["not_started", "in_progress", "completed"],
                    "locations": ["lighthouse", "harbor_market"],
                    "initial_state": {"trust": 0.0, "relationship": 0.0, "npc_mood": "nervous"},
                    "items": ["lamp_wick", "brass_spyglass"],
                    "actions": [],
                    "moods": ["nervous", "hostile"],
                    "reputations": ["unknown"],
                    "flags": [
                        {
                            "name": "quest_stage_change",
                            "quest_stage": "in_progress",
                            "location": "any",
                            "value": "completed",
                            "text": {
                                "ko": _LIGHT_KEEPS,
                                "en": "You gave Sora the new wick. The cape light keeps the night "
                                "again.",
                            },
                        }
                    ],
                    "suggestions": [
                        {
                            "lang": "ko",
                            "flag": "quest_stage_change",
                            "quest_stage": "in_progress",
                            "location": "any",
                            "text": "자, 여기 등심지요.",
                        }
                    ],
                }
            ]
        }
    },
    "reload": {
        "reloaded": {
            "value": {
                "status": "reloaded",
                "bundle": "default@e31f50beb1cc",
                "documents": 312,
                "npcs": ["sora", "wren"],
            }
        }
    },
    "isAlive": {"ok": {"value": {"status": "ok"}}},
    "isReady": {"ready": {"value": {"status": "ready", "bundle": "default@e31f50beb1cc"}}},
}
"""Examples of JSON answers, by the operation's name."""
EVENTS: dict[str, Json] = {
    "english": {
        "summary": "State first, then the line, then the whole answer",
        "value": _sse(
            ("state", _PAGE_STATE),
            *(("token", {"text": sentence}) for sentence in _PAGE_SENTENCES),
            ("done", _PAGE_ANSWER),
        ),
    }
}
"""An example of a stream."""
