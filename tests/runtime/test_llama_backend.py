"""Models, contexts and batches: clear errors, and cells that are shared and freed as asked."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from runtime import llama_library
from runtime.context_config import ContextConfig
from runtime.errors import DecodeError, ModelError
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel
from runtime.llama_library import cpu_features, quantize
from tests.runtime.driving import SMALL, open_context
from tests.runtime.reference import prefill

TOKENS = list(range(20, 60))


def last_logits(context: LlamaContext, seq_id: int, start: int) -> np.ndarray:
    (row,) = context.decode([Chunk(seq_id, start, TOKENS[start:], is_output=True)])
    return context.logits(row)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.gguf: no such file; build or pull"):
        LlamaModel(tmp_path / "none.gguf")


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF nonsense")
    with pytest.raises(ModelError, match=r"bad.gguf: not a model that llama.cpp can load: \S"):
        LlamaModel(path)


def test_a_truncated_model_is_named(qwen: LlamaModel, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(qwen.path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"half.gguf: not a model that llama.cpp can load: \S"):
        LlamaModel(path)


def test_an_unknown_quantisation_lists_those_there_are(qwen: LlamaModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'q3_x'; one of f32, f16, q4_0"):
        quantize(qwen.path, tmp_path / "out.gguf", "q3_x")


@pytest.mark.parametrize(("n_seq_max", "n_batch"), [(0, 512), (257, 512), (17, 16)])
def test_a_batch_that_could_not_hold_each_sequence_is_refused(n_seq_max: int, n_batch: int) -> None:
    with pytest.raises(ValueError, match=f"n_seq_max is {n_seq_max}; it must be from 1 to"):
        ContextConfig(n_seq_max=n_seq_max, n_batch=n_batch)


def test_cpu_features_are_told_by_name() -> None:
    features = cpu_features()
    assert features
    assert all(name.isupper() or "_" in name for name in features)


@pytest.fixture
def loaded_kernels(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A build whose kernels are libraries of their own; where it looked for them."""
    folders: list[bytes] = []
    ggml = SimpleNamespace(
        ggml_backend_reg_count=lambda: 0, ggml_backend_load_all_from_path=folders.append
    )
    monkeypatch.setattr(llama_library, "libggml", ggml)
    llama_library.start_llama.cache_clear()
    return folders


def test_a_cpu_that_no_kernels_fit_is_told_so_in_a_sentence(loaded_kernels: list[bytes]) -> None:
    with pytest.raises(ModelError, match=r"none of llama.cpp's kernels runs on this CPU \("):
        cpu_features()
    assert [Path(folder.decode()).name for folder in loaded_kernels] == ["lib"]


def test_metadata_is_read_as_text(qwen: LlamaModel) -> None:
    assert qwen.metadata("general.architecture") == qwen.architecture == "qwen2"
    assert qwen.metadata("no.such.key") is None


def test_the_shape_of_a_model_is_known(tiny: LlamaModel) -> None:
    with open_context(tiny) as context:
        (row,) = context.decode([Chunk(0, 0, [5], is_output=True)], embeddings=True)
        assert context.logits(row).shape == (tiny.n_vocab,)
        assert context.embedding(row).shape == (tiny.n_embd,)


def test_a_full_cache_says_so_and_can_be_used_again(qwen: LlamaModel) -> None:
    with open_context(qwen, replace(SMALL, n_ctx=256)) as context:
        prefill(context, [5] * 256)
        with pytest.raises(DecodeError, match="no KV cells are left"):
            context.decode([Chunk(1, 0, [5], is_output=True)])
        context.forget(0)
        assert context.decode([Chunk(1, 0, [5], is_output=True)]) == [0]


def test_forgotten_cells_can_be_evaluated_again_with_the_same_result(tiny: LlamaModel) -> None:
    with open_context(tiny) as context:
        expected = last_logits(context, 0, 0)
        context.forget(0, 30)
        assert context.num_cells(0) == 30
        np.testing.assert_allclose(last_logits(context, 0, 30), expected, atol=0.05)
        context.forget(0)
        assert context.num_cells(0) == 0


def test_a_shared_prefix_counts_as_evaluated_and_outlives_its_owner(tiny: LlamaModel) -> None:
    with open_context(tiny) as context:
        expected = last_logits(context, 0, 0)
        context.share(0, 1, 30)
        context.forget(0)
        assert (context.num_cells(0), context.num_cells(1)) == (0, 30)
        np.testing.assert_allclose(last_logits(context, 1, 30), expected, atol=0.05)


def test_a_prefix_far_behind_the_end_can_still_be_shared(tiny: LlamaModel) -> None:
    tokens = TOKENS * 20  # far longer than a sliding window and what its cache holds beyond it
    with open_context(tiny) as context:
        prefill(context, tokens)
        context.share(0, 1, 100)
        (row,) = context.decode([Chunk(1, 100, tokens[100:140], is_output=True)])
        found = context.logits(row)
        context.clear()
        prefill(context, tokens[:100])
        (row,) = context.decode([Chunk(0, 100, tokens[100:140], is_output=True)])
        np.testing.assert_allclose(found, context.logits(row), atol=0.05)


def test_rows_belong_to_the_last_token_of_each_chunk(tiny: LlamaModel) -> None:
    with open_context(tiny, replace(SMALL, kv_type="f32", flash_attention=False)) as context:
        chunks = [Chunk(s, 0, TOKENS[s : 2 * s + 3], is_output=True) for s in range(3)]
        together = [context.logits(row) for row in context.decode(chunks)]
        for chunk, expected in zip(chunks, together, strict=True):
            context.clear()
            (row,) = context.decode([chunk])
            np.testing.assert_allclose(context.logits(row), expected, atol=1e-3)


def test_evaluate_gives_the_logits_after_each_token_over_several_batches(tiny: LlamaModel) -> None:
    tokens = TOKENS * 3
    with open_context(tiny, replace(SMALL, n_batch=32)) as context:
        found = context.evaluate(tokens)
        assert found.shape == (len(tokens), tiny.n_vocab)
        context.clear()
        (row,) = context.decode([Chunk(0, 0, tokens[:20], is_output=True)])
        np.testing.assert_allclose(found[19], context.logits(row), atol=0.05)


@pytest.mark.parametrize(
    "text", ["", "\0", "a\0b", "안녕\n\n하세요 <STATE>", "😀" * 50, "뷁" * 200]
)
def test_text_becomes_tokens_and_back(model: LlamaModel, text: str) -> None:
    assert b"".join(model.piece(token) for token in model.tokenize(text)).decode() == text


def test_control_tokens_have_no_text(model: LlamaModel) -> None:
    state = model.find_token("<STATE>")
    assert state is not None
    assert model.is_control(state)
    assert model.piece(state) == b""
    assert model.token_text(state) == "<STATE>"


def test_byte_tokens_are_told_from_others(tiny_models: dict[str, LlamaModel]) -> None:
    spm = tiny_models["llama"]
    byte = spm.find_token("<0xEC>")
    assert byte is not None
    assert spm.is_byte(byte)
    assert spm.piece(byte) == b"\xec"
    assert not spm.is_byte(spm.tokenize("help")[0])
