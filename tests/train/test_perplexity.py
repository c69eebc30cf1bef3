from math import exp, log

import pytest

from tests.train.turns import label
from train.dataset import DatasetError
from train.perplexity import ReplyScore, perplexity


def test_long_responses_weigh_more() -> None:
    found = perplexity([ReplyScore(label(0), 1, 4.0), ReplyScore(label(1), 3, 4.0)]).whole
    assert found.num_tokens == 4
    assert found.tuned.nll == 2
    assert found.tuned.perplexity == pytest.approx(exp(2))
    assert found.untuned is None


def test_one_in_four_is_a_perplexity_of_four() -> None:
    score = ReplyScore(label(0), 5, 5 * log(2), 5 * log(4))
    found = perplexity([score]).whole
    assert found.tuned.perplexity == pytest.approx(2)
    assert found.untuned is not None
    assert found.untuned.perplexity == pytest.approx(4)


def test_npcs_and_languages_are_told_apart() -> None:
    found = perplexity(
        [
            ReplyScore(label(0, npc_id="rok", lang="ko"), 2, 2.0, 6.0),
            ReplyScore(label(1, npc_id="mina", lang="en"), 2, 4.0),
        ]
    )
    assert {name: each.tuned.nll for name, each in found.by_npc.items()} == {"mina": 2, "rok": 1}
    assert list(found.by_lang) == ["en", "ko"]
    assert found.by_lang["ko"].untuned is not None
    assert found.whole.untuned is None, "the base scored only some of them"


def test_no_response_is_told() -> None:
    with pytest.raises(DatasetError, match="no response to score"):
        perplexity([])
