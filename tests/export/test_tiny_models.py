"""The tiny models are what they claim to be: llama.cpp and transformers agree on them."""

from pathlib import Path

import numpy as np
import pytest

from runtime.prompt import Special
from tests.export.measure import llama_logits, tolerance, torch_logits
from tests.tiny_models import ARCHITECTURES, Architecture, make_tiny


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_llama_cpp_gives_the_logits_of_transformers(
    architecture: Architecture, tmp_path: Path
) -> None:
    tiny = make_tiny(architecture, tmp_path)
    tokens = np.random.default_rng(1).integers(0, tiny.num_tokens, 40).tolist()
    expected = torch_logits(tiny.hf_model, tokens)
    assert expected.std() > 0.1
    found = llama_logits(tiny.path, tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(architecture))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_special_tokens_are_control_tokens_that_no_text_spells(
    architecture: Architecture, tmp_path: Path
) -> None:
    from runtime.llama_backend import LlamaModel  # noqa: PLC0415

    model = LlamaModel(make_tiny(architecture, tmp_path).path, vocab_only=True)
    ids = [model.find_token(special) for special in Special]
    assert all(token is not None and model.is_control(token) for token in ids)
    assert not set(ids) & set(model.tokenize("".join(Special)))
    model.close()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = make_tiny("qwen2", tmp_path).path.read_bytes()
    assert make_tiny("qwen2", tmp_path).path.read_bytes() == first
    assert make_tiny("qwen2", tmp_path, seed=1).path.read_bytes() != first
