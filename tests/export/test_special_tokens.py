from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType, TokenType

from export.errors import VocabularyError
from export.gguf_file import GgufModel, Tensor, read_gguf, write_gguf
from export.quantise import quantised
from export.special_tokens import claim, set_rows, special_ids
from export.trim_vocab import trim
from export.vocabulary import TOKENS, read_vocabulary
from runtime.llama_backend import LlamaModel
from runtime.prompt import Special
from tests.export.measure import llama_logits
from tests.tiny_models import ARCHITECTURES, Architecture, make_tiny


def plain(architecture: Architecture, folder: Path) -> GgufModel:
    return read_gguf(make_tiny(architecture, folder, specials=False).path)


def without_slots(model: GgufModel) -> GgufModel:
    """As if the base kept nothing free."""
    vocabulary = read_vocabulary(model)
    tokens = [
        f"<|taken{token}|>" if vocabulary.is_placeholder(token) else piece
        for token, piece in enumerate(vocabulary.tokens)
    ]
    model.set_array(TOKENS, GGUFValueType.STRING, tokens)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_free_slots_are_claimed_and_no_row_is_added(
    architecture: Architecture, tmp_path: Path
) -> None:
    base = plain(architecture, tmp_path)
    claimed, ids = claim(base)
    before, after = read_vocabulary(base), read_vocabulary(claimed)
    assert len(after.tokens) == len(before.tokens)
    for name, token in ids.items():
        assert before.is_placeholder(token)
        assert (after.tokens[token], after.types[token]) == (name, TokenType.CONTROL)
    assert claimed.tensors["token_embd.weight"].shape == base.tensors["token_embd.weight"].shape


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_are_appended_only_where_a_base_keeps_nothing_free(
    architecture: Architecture, tmp_path: Path
) -> None:
    base = without_slots(plain(architecture, tmp_path))
    claimed, ids = claim(base)
    num_tokens = len(base.get(TOKENS))
    assert sorted(ids.values()) == [*range(num_tokens, num_tokens + 7)]
    path = tmp_path / "appended.gguf"
    write_gguf(claimed, path)
    assert llama_logits(path, [*ids.values()]).shape == (7, num_tokens + 7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_text_tokenises_to_a_claimed_token(architecture: Architecture, tmp_path: Path) -> None:
    claimed, ids = claim(trim(plain(architecture, tmp_path))[0])
    path = tmp_path / "claimed.gguf"
    write_gguf(claimed, path)
    model = LlamaModel(path, vocab_only=True)
    assert all(model.find_token(name) == token for name, token in ids.items())
    assert all(map(model.is_control, ids.values()))
    assert not set(ids.values()) & set(model.tokenize("".join(Special) + " ".join(Special)))
    model.close()


def test_a_spelling_that_merges_would_reach_is_refused(tmp_path: Path) -> None:
    model = plain("gemma3", tmp_path)
    tokens = model.get(TOKENS)
    tokens[-1] = "<NPC"
    with pytest.raises(VocabularyError, match=r"<NPC>.*'<NPC' and '>'"):
        claim(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_new_row_lies_among_the_rows_of_its_words(
    architecture: Architecture, tmp_path: Path
) -> None:
    base = plain(architecture, tmp_path)
    claimed, ids = claim(base)
    for name in {"token_embd.weight", "output.weight"} & claimed.tensors.keys():
        old, new = base.tensors[name].floats(), claimed.tensors[name].floats()
        others = np.setdiff1d(np.arange(len(old)), [*ids.values()])
        np.testing.assert_array_equal(new[others], old[others])
        rows = new[[*ids.values()]]
        assert np.all(np.linalg.norm(rows, axis=1) < np.linalg.norm(old, axis=1).mean())
        assert len(np.unique(rows.round(6), axis=0)) == 7


def test_claiming_twice_changes_nothing(tmp_path: Path) -> None:
    once, ids = claim(plain("qwen2", tmp_path))
    twice, same_ids = claim(once)
    assert same_ids == ids
    assert twice.metadata == once.metadata
    np.testing.assert_array_equal(
        twice.tensors["token_embd.weight"].load(), once.tensors["token_embd.weight"].load()
    )


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q5_0", "F16"])
def test_a_row_is_written_in_the_tensors_own_type(name: str, tmp_path: Path) -> None:
    kind = GGMLQuantizationType[name]
    quant = {"F16": "f16", "Q8_0": "q8_0", "Q4_0": "q4_0", "Q5_0": "q5_0"}[name]
    model = quantised(plain("gemma3", tmp_path), quant)  # type: ignore[arg-type]
    tensor = model.tensors["token_embd.weight"]
    row = np.linspace(-1, 1, tensor.shape[1], dtype=np.float32)
    changed = set_rows(tensor, {5: row})
    assert changed.type == kind
    np.testing.assert_allclose(changed.rows([5])[0], row, atol=0.13)
    untouched = np.setdiff1d(np.arange(tensor.shape[0]), [5])
    np.testing.assert_array_equal(changed.load()[untouched], tensor.load()[untouched])


def test_a_type_that_we_cannot_write_becomes_q8_0() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (16, 210)).astype(np.uint8)
    rows[:, -2:] = np.array([0.001], np.float16).view(np.uint8)  # the scale of a Q6_K block
    tensor = Tensor("token_embd.weight", (16, 256), GGMLQuantizationType.Q6_K, lambda: rows)
    old, row = tensor.floats(), np.linspace(-1, 1, 256, dtype=np.float32)
    changed = set_rows(tensor, {3: row})
    assert changed.type == GGMLQuantizationType.Q8_0
    expected = np.concatenate([old[:3], row[np.newaxis], old[4:]])
    np.testing.assert_allclose(changed.floats(), expected, atol=np.abs(expected).max() / 200)


def test_a_vocabulary_without_the_tokens_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="none spelt <SYS> <CTX>"):
        special_ids(read_vocabulary(plain("llama", tmp_path)))
