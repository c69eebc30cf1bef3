import pytest

from runtime.prompt import Segment, Special
from server.errors import InvalidField
from server.predict import parse_prompt

PLAYER, STATE = Special.PLAYER, Special.STATE


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("<STATE>", [STATE]),
        (
            "<SYS>Mina<CTX><PLAYER>hi<STATE>",
            [Special.SYS, "Mina", Special.CTX, PLAYER, "hi", STATE],
        ),
        ("before<STATE>trust=+<NPC>after", ["before", STATE]),
        (
            "<PLAYER>a<STATE><NPC>b<PLAYER>c<STATE><NPC>",
            [PLAYER, "a", STATE, Special.NPC, "b", PLAYER, "c", STATE],
        ),
        ("<state> <STATE>", ["<state> ", STATE]),
        ("<PLAYER_STATE>x=1<STATE>", [Special.PLAYER_STATE, "x=1", STATE]),
    ],
)
def test_a_tagged_prompt_is_read_up_to_its_last_state(text: str, segments: list[Segment]) -> None:
    assert parse_prompt(text) == segments


@pytest.mark.parametrize("text", ["", "hello", "<PLAYER>hi<NPC>", "<PLAYER_STATE>", "<state>"])
def test_a_prompt_without_state_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_prompt(text)
    assert caught.value.path == "$.prompt"
