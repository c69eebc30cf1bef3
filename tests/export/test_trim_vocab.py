from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFValueType, TokenType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.errors import VocabularyError
from export.gguf_file import GgufModel, float_tensor, read_gguf, write_gguf
from export.keep_rule import KeepRule, corpus_rule, declared_characters, is_declared, script_rule
from export.trim_vocab import check, trim
from export.vocabulary import MERGES, TOKENS, Vocabulary, read_vocabulary
from runtime.llama_backend import LlamaModel
from tests.export.conftest import Trimmed
from tests.export.measure import llama_logits
from tests.tiny_models import ARCHITECTURES, Architecture, make_tiny

KINDS: tuple[Architecture, ...] = ("gemma3", "qwen2")
FOREIGN = "приветмир你好ありがとう"


def trimmed_file(base: Path, rule: KeepRule = script_rule) -> Path:
    path = base.with_name("trimmed.gguf")
    write_gguf(trim(read_gguf(base), rule)[0], path)
    return path


def old_ids(base: Path, trimmed: Path) -> list[int]:
    """For each kept row its id in the base."""
    ids = read_vocabulary(read_gguf(base)).ids()
    return [ids[piece] for piece in read_gguf(trimmed).get(TOKENS)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_over_the_kept_rows_equal_the_full_models(
    architecture: Architecture, tmp_path: Path
) -> None:
    base = make_tiny(architecture, tmp_path).path
    trimmed = trimmed_file(base)
    kept = old_ids(base, trimmed)
    tokens = np.random.default_rng(0).integers(0, len(kept), 30)
    full = llama_logits(base, [kept[token] for token in tokens])
    assert len(kept) < full.shape[1]
    np.testing.assert_allclose(llama_logits(trimmed, tokens.tolist()), full[:, kept], atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_script_rule_drops_other_scripts_and_nothing_else_changes(
    architecture: Architecture, tmp_path: Path
) -> None:
    base = make_tiny(architecture, tmp_path).path
    trimmed = trimmed_file(base)
    assert check(base, trimmed) == []
    vocabulary = read_vocabulary(read_gguf(trimmed))
    texts = [
        vocabulary.text(token)
        for token, kind in enumerate(vocabulary.types)
        if kind == TokenType.NORMAL
    ]
    assert not set(FOREIGN) & set("".join(text for text in texts if text))
    assert {"안녕하세요", "hello", "▁"} & {*vocabulary.tokens, *texts} >= {"안녕하세요", "hello"}


@pytest.mark.parametrize("architecture", KINDS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_kept_still_tokenises_as_before(
    architecture: Architecture, tmp_path: Path, data: st.DataObject
) -> None:
    base = make_tiny(architecture, tmp_path).path
    vocabulary = read_vocabulary(read_gguf(base))
    pieces = sorted(script_rule(vocabulary))
    single = {token for token in pieces if len(vocabulary.text(token) or "") == 1}
    chosen = data.draw(st.sets(st.sampled_from(pieces))) | single
    trimmed = trimmed_file(base, lambda _: chosen)
    assert check(base, trimmed) == []


@pytest.mark.parametrize("architecture", KINDS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_no_text_is_lost(architecture: Architecture, tmp_path: Path, text: str) -> None:
    base = make_tiny(architecture, tmp_path).path
    model = LlamaModel(trimmed_file(base), vocab_only=True)
    spelt = b"".join(map(model.piece, model.tokenize(text)))
    model.close()
    assert spelt.decode() == (text.replace("▁", " ") if architecture == "gemma3" else text)


def test_dropping_a_piece_on_the_way_is_what_check_would_report(tmp_path: Path) -> None:
    base = make_tiny("gemma3", tmp_path).path
    broken = trim(read_gguf(base))[0]
    tokens = broken.get(TOKENS)
    tokens[tokens.index("안녕하")] = "<gone>"
    path = tmp_path / "broken.gguf"
    write_gguf(broken, path)
    assert any("안녕하세요" in problem for problem in check(base, path))


def test_losing_the_space_and_ascii_is_what_check_would_report(tmp_path: Path) -> None:
    base = make_tiny("gemma3", tmp_path).path
    model = read_gguf(base)
    tokens = model.get(TOKENS)
    tokens[tokens.index("▁")], tokens[tokens.index("q")] = "<gone>", "<gone too>"
    path = tmp_path / "broken.gguf"
    write_gguf(model, path)
    problems = check(base, path)
    assert any(problem.startswith("' '") for problem in problems)
    assert any(problem.startswith("'q'") for problem in problems)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_token_id_in_the_metadata_points_at_the_same_piece(
    architecture: Architecture, tmp_path: Path
) -> None:
    base = read_gguf(make_tiny(architecture, tmp_path).path)
    tokens: list[str] = base.get(TOKENS)
    base.set("tokenizer.ggml.fim_pre_token_id", GGUFValueType.UINT32, tokens.index("<NPC>"))
    wanted = [
        tokens.index("<RAG>"),
        next(i for i, t in enumerate(tokens) if "мир" in t or "Ð¼" in t),
    ]
    base.set_array("tokenizer.ggml.suppress_tokens", GGUFValueType.INT32, wanted)
    trimmed, _ = trim(base)
    pieces = trimmed.get(TOKENS)
    for key in (key for key in base.metadata if key.endswith("_token_id")):
        assert pieces[trimmed.get(key)] == tokens[base.get(key)], key
    suppressed = [pieces[token] for token in trimmed.get("tokenizer.ggml.suppress_tokens")]
    assert suppressed[0] == "<RAG>"
    assert len(pieces) == trimmed.tensors["token_embd.weight"].shape[0]
    assert trimmed.get(f"{architecture}.vocab_size", len(pieces)) == len(pieces)


def test_ids_that_llama_cpp_assumes_are_written_down(tmp_path: Path) -> None:
    base = read_gguf(make_tiny("llama", tmp_path).path)
    tokens = base.get(TOKENS)
    for name in ("bos", "eos", "unknown"):
        del base.metadata[f"tokenizer.ggml.{name}_token_id"]
    trimmed, _ = trim(base)
    assert trimmed.get(TOKENS)[trimmed.get("tokenizer.ggml.bos_token_id")] == tokens[1]
    assert trimmed.get(TOKENS)[trimmed.get("tokenizer.ggml.eos_token_id")] == tokens[2]


def test_merges_stay_only_where_both_parts_and_the_result_do(tmp_path: Path) -> None:
    base = read_gguf(make_tiny("qwen3", tmp_path).path)
    trimmed, _ = trim(base)
    pieces = set(trimmed.get(TOKENS))
    merges = trimmed.get(MERGES)
    assert 0 < len(merges) < len(base.get(MERGES))
    assert all({*merge.split(" "), merge.replace(" ", "")} <= pieces for merge in merges)


def test_a_tensor_with_unknown_rows_by_token_is_refused(tmp_path: Path) -> None:
    base = read_gguf(make_tiny("gemma3", tmp_path).path)
    base.add(float_tensor("per_layer_token_embd.weight", np.zeros((len(base.get(TOKENS)), 8))))
    with pytest.raises(VocabularyError, match=r"per_layer_token_embd.*--no-trim"):
        trim(base)


def test_a_vocabulary_of_another_kind_is_refused() -> None:
    model = GgufModel()
    model.set("tokenizer.ggml.model", GGUFValueType.STRING, "bert")
    with pytest.raises(VocabularyError, match="'bert'; choose a base with"):
        read_vocabulary(model)


def test_the_corpus_rule_keeps_what_occurs_and_every_character(tmp_path: Path) -> None:
    base = make_tiny("gemma3", tmp_path).path
    vocabulary = read_vocabulary(read_gguf(base))
    occurring = vocabulary.ids()["안녕하세요"]
    trimmed = trimmed_file(base, corpus_rule({occurring}))
    pieces = set(read_gguf(trimmed).get(TOKENS))
    assert "안녕하세요" in pieces
    assert "▁thank" not in pieces
    characters = {piece for piece in vocabulary.tokens if len(piece) == 1 and is_declared(piece)}
    assert characters <= pieces
    assert check(base, trimmed) == []


@pytest.mark.gemma
def test_gemma_loses_nothing_of_the_declared_scripts(gemma_trimmed: Trimmed) -> None:
    assert check(gemma_trimmed.base, gemma_trimmed.trimmed) == []


@pytest.mark.gemma
def test_every_character_of_the_declared_scripts_that_gemma_has_is_one_token(
    gemma_vocabularies: tuple[LlamaModel, LlamaModel],
) -> None:
    base, trimmed = gemma_vocabularies

    def is_one(model: LlamaModel, character: str) -> bool:
        tokens = model.tokenize(character)
        return len(tokens) == 1 and not model.is_byte(tokens[0])

    single = [character for character in declared_characters() if is_one(trimmed, character)]
    assert single == [character for character in declared_characters() if is_one(base, character)]
    assert sum("가" <= character <= "힣" for character in single) == 1733
    assert set(map(chr, range(0x20, 0x7F))) <= set(single)
    lacking = sorted({chr(point) for point in range(0xAC00, 0xD7A4)} - set(single))
    assert all(len(trimmed.tokenize(syllable)) == 3 for syllable in lacking)


@pytest.mark.gemma
def test_gemmas_logits_over_the_kept_rows_equal_the_full_models(gemma_trimmed: Trimmed) -> None:
    model = LlamaModel(gemma_trimmed.trimmed, vocab_only=True)
    tokens = [model.bos or 0, *model.tokenize("안녕하세요! Where is the gold?")]
    model.close()
    kept = old_ids_of_text(gemma_trimmed)
    full = llama_logits(gemma_trimmed.base, [kept[token] for token in tokens], kv_type="f16")
    found = llama_logits(gemma_trimmed.trimmed, tokens, kv_type="f16")
    rows = [new for new in kept if new >= 64]  # below lie the special tokens, whose rows are new
    np.testing.assert_allclose(
        found[:, rows], full[:, [kept[new] for new in rows]], rtol=0, atol=1e-3
    )


def old_ids_of_text(pair: Trimmed) -> dict[int, int]:
    old = read_vocabulary(read_gguf(pair.base)).ids()
    new: Vocabulary = read_vocabulary(read_gguf(pair.trimmed))
    return {token: old[piece] for token, piece in enumerate(new.tokens) if piece in old}
