import pytest

from runtime.prompt import Segment, Special
from server.errors import InvalidField
from server.predict import parse_prompt


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("<STATE>", [Special.STATE]),
        (
            "<SYS>Mina<CTX><PLAYER>hi<STATE>",
            [Special.SYS, "Mina", Special.CTX, Special.PLAYER, "hi", Special.STATE],
        ),
        ("before<STATE>trust=+<NPC>after", ["before", Special.STATE]),
        (
            "<PLAYER>a<STATE><NPC>b<PLAYER>c<STATE><NPC>",
            [Special.PLAYER, "a", Special.STATE, Special.NPC, "b", Special.PLAYER, "c"]
            + [Special.STATE],
        ),
        ("<state> <STATE>", ["<state> ", Special.STATE]),
        ("<PLAYER_STATE>x=1<STATE>", [Special.PLAYER_STATE, "x=1", Special.STATE]),
    ],
)
def test_a_tagged_prompt_is_read_up_to_its_last_state(text: str, segments: list[Segment]) -> None:
    assert parse_prompt(text) == segments


@pytest.mark.parametrize("text", ["", "hello", "<PLAYER>hi<NPC>", "<PLAYER_STATE>", "<state>"])
def test_a_prompt_without_state_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_prompt(text)
    assert caught.value.path == "$.prompt"
