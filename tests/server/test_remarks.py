"""What the heads are told of a turn beside its `<STATE>`, by either route."""

import pytest

from heads.clues import Remark
from server.service import Service
from tests.server.serving import HookedHeads, altered, ask_body, client_of

STATE = {"quest_stage": "started", "location": "pier", "trust": 0.5, "relationship": -0.25}
PROMPT = (
    '<SYS>npc_id=mina<CTX><PLAYER_STATE>quest_stage="started" location="pier" trust=0.20 '
    "relationship=-0.25<PLAYER>hello<STATE><NPC>Well?"
    "<PLAYER_STATE>trust=0.50<PLAYER>May I have the key?<STATE>"
)


@pytest.mark.parametrize("route", ["/ask", "/predict_main"])
def test_the_heads_read_the_player_and_the_state_of_the_turn(
    tiny_service: Service, route: str
) -> None:
    heads = HookedHeads(tiny_service.loaded.heads, lambda: None)
    game = {key: STATE[key] for key in ("quest_stage", "location")}
    npc = {key: STATE[key] for key in ("trust", "relationship")}
    body = {
        "/ask": ask_body("May I have the key?", context={"game_state": game, "npc_state": npc}),
        "/predict_main": {"prompt": PROMPT, "gen_params": {"max_tokens": 4}},
    }[route]
    with client_of(altered(tiny_service, heads)) as client:
        assert client.post(route, json=body).status_code == 200
    ((remark, clues),) = heads.found
    assert (remark.npc_id, remark.utterance) == ("mina", "May I have the key?")
    assert {key: remark.state[key] for key in STATE} == STATE
    assert isinstance(remark, Remark)
    assert [asked is clues for asked in heads.asked] == [True]
