import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.errors import AdapterError
from export.gguf_file import GgufModel, read_gguf, write_gguf
from export.merge_lora import CONFIG, PERSONA, SPECIAL_ROWS, WEIGHTS, merge
from export.quantise import quantised
from export.special_tokens import special_ids
from export.vocabulary import model_vocabulary_sha256, read_vocabulary
from runtime.prompt import Special
from tests.export.measure import llama_logits, tolerance, torch_logits
from tests.tiny_models import (
    ARCHITECTURES,
    N_EMBD,
    Architecture,
    TinyModel,
    add_hf_weights,
    make_tiny,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # peft and torch warn of each other

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = [5, 300, 17, 301, 302, 40, 303, 12, 9, 310, 311, 312]


@dataclass(frozen=True)
class Trained:
    """An adapter as PEFT saved it, and PEFT's own merge of it."""

    tiny: TinyModel
    folder: Path
    merged: Any

    def base(self) -> GgufModel:
        return read_gguf(self.tiny.path)

    def edit_config(self, **settings: object) -> None:
        path = self.folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    def edit_weights(self, changes: dict[str, Any]) -> None:
        tensors = load_file(self.folder / WEIGHTS) | changes
        kept = {name: value for name, value in tensors.items() if value is not None}
        save_file(kept, self.folder / WEIGHTS)


def train(architecture: Architecture, folder: Path, **settings: Any) -> Trained:
    """An adapter with random factors."""
    import peft  # noqa: PLC0415 (warns when imported)
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    tiny = make_tiny(architecture, folder)
    options = {"r": 4, "lora_alpha": 12, "target_modules": ALL} | settings
    config = peft.LoraConfig(init_lora_weights=False, **options)
    model = peft.get_peft_model(tiny.hf_model, config)
    model.save_pretrained(folder / "adapter")
    return Trained(tiny, folder / "adapter", model.merge_and_unload())


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    return train("qwen3", tmp_path)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merging_gives_the_weights_and_logits_of_pefts_merge_and_unload(
    architecture: Architecture, use_rslora: bool, tmp_path: Path
) -> None:
    trained = train(architecture, tmp_path, use_rslora=use_rslora)
    expected = trained.base()
    state = {name: value.numpy() for name, value in trained.merged.state_dict().items()}
    tied = "output.weight" not in expected.tensors
    add_hf_weights(expected, {k: v for k, v in state.items() if not (tied and "lm_head" in k)})
    merged, changed = merge(trained.base(), trained.folder)
    assert len(changed) == 2 * len(ALL)
    for name, tensor in expected.tensors.items():
        np.testing.assert_allclose(merged.tensors[name].floats(), tensor.floats(), atol=1e-5)
        is_changed = not np.allclose(tensor.floats(), trained.base().tensors[name].floats())
        assert is_changed == (name in changed)
    path = tmp_path / "merged.gguf"
    write_gguf(merged, path)
    logits = torch_logits(trained.merged, TOKENS)
    scale = max(1.0, float(np.abs(logits).max()) / 4)
    atol = tolerance(architecture) * scale
    np.testing.assert_allclose(llama_logits(path, TOKENS), logits, rtol=0, atol=atol)


def test_an_adapter_to_some_projections_changes_only_those(tmp_path: Path) -> None:
    trained = train("llama", tmp_path, target_modules=["q_proj", "down_proj"])
    _, changed = merge(trained.base(), trained.folder)
    assert changed == {f"blk.{i}.{n}.weight" for i in (0, 1) for n in ("attn_q", "ffn_down")}


def test_an_adapter_merges_into_quantised_weights(trained: Trained) -> None:
    coarse = quantised(trained.base(), "q8_0")
    merged, changed = merge(coarse, trained.folder)
    exact, _ = merge(trained.base(), trained.folder)
    for name in changed:
        np.testing.assert_allclose(
            merged.tensors[name].floats(), exact.tensors[name].floats(), atol=0.01
        )


def test_bfloat16_factors_are_read(trained: Trained) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file as load_torch  # noqa: PLC0415
    from safetensors.torch import save_file as save_torch  # noqa: PLC0415

    exact, changed = merge(trained.base(), trained.folder)
    path = trained.folder / WEIGHTS
    save_torch({k: v.to(torch.bfloat16) for k, v in load_torch(path).items()}, path)
    rounded, _ = merge(trained.base(), trained.folder)
    for name in changed:
        np.testing.assert_allclose(
            rounded.tensors[name].floats(), exact.tensors[name].floats(), atol=0.05
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "peft_type=IA3"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"r": 8}, "rank 8"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    trained: Trained, settings: dict[str, object], message: str
) -> None:
    trained.edit_config(**settings)
    with pytest.raises(AdapterError, match=message):
        merge(trained.base(), trained.folder)


LAYER = "base_model.model.model.layers.0.self_attn"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{LAYER}.q_proj.lora_magnitude_vector": np.ones(4)}, "lora_magnitude_vector"),
        ({f"{LAYER}.rotary.lora_A.weight": np.ones((4, 64))}, r"rotary\.lora_A"),
        ({f"{LAYER}.q_proj.lora_B.weight": None}, r"nothing in layer 0, q_proj"),
        ({f"{LAYER}.q_proj.lora_B.weight": np.ones((99, 4))}, r"\(99, 64\)"),
        (
            {
                "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": np.ones((4, 64)),
                "base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight": np.ones((64, 4)),
            },
            "layer 7 of 2",
        ),
    ],
)
def test_every_tensor_of_the_adapter_must_be_used(
    trained: Trained, changes: dict[str, Any], message: str
) -> None:
    trained.edit_weights(changes)
    with pytest.raises(AdapterError, match=message):
        merge(trained.base(), trained.folder)


def test_an_adapter_of_another_vocabulary_is_refused(trained: Trained) -> None:
    persona = trained.folder / PERSONA
    persona.write_text(json.dumps({"vocabulary_sha256": model_vocabulary_sha256(trained.base())}))
    merge(trained.base(), trained.folder)
    persona.write_text(json.dumps({"vocabulary_sha256": "0" * 64}))
    with pytest.raises(AdapterError, match=f"{'0' * 64}.*train the adapter on this model"):
        merge(trained.base(), trained.folder)


@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
def test_trained_rows_replace_those_of_the_special_tokens(
    architecture: Architecture, tmp_path: Path
) -> None:
    trained = train(architecture, tmp_path)
    draw = np.random.default_rng(0)
    rows = {"embedding": draw.standard_normal((7, N_EMBD)).astype(np.float32)}
    if architecture == "llama":
        rows["output"] = draw.standard_normal((7, N_EMBD)).astype(np.float32)
    save_file(rows, trained.folder / SPECIAL_ROWS)
    merged, _ = merge(trained.base(), trained.folder)
    ids = special_ids(read_vocabulary(merged))
    places = [ids[name] for name in Special]
    for tensor, name in (("token_embd.weight", "embedding"), ("output.weight", "output")):
        if name in rows:
            np.testing.assert_array_equal(merged.tensors[tensor].rows(places), rows[name])
            others = np.setdiff1d(np.arange(trained.tiny.num_tokens), places)
            old = trained.base().tensors[tensor].rows(others)
            np.testing.assert_array_equal(merged.tensors[tensor].rows(others), old)


def test_output_rows_for_a_tied_base_are_refused(tmp_path: Path) -> None:
    trained = train("gemma3", tmp_path)
    save_file({"output": np.ones((7, N_EMBD), np.float32)}, trained.folder / SPECIAL_ROWS)
    with pytest.raises(AdapterError, match="untied base"):
        merge(trained.base(), trained.folder)


def test_a_folder_that_is_no_adapter_is_an_error(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="save_pretrained"):
        merge(trained.base(), tmp_path)
    (trained.folder / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(AdapterError, match="a safetensors file"):
        merge(trained.base(), trained.folder)
