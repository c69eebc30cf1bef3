"""What a forward pass in bf16 keeps in bf16."""

import pytest
import torch

from tests.train.grounds import Ground, batch_of
from train.mixed_precision import hold_frozen_in_bf16, multiplies_in_bf16

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # peft and torch warn of each other
    pytest.mark.usefixtures("one_thread"),
]
CPU = torch.device("cpu")


def test_what_is_held_in_bf16_reads_and_learns_as_what_is_cast_each_time(ground: Ground) -> None:
    batch, found = batch_of(ground.info), []
    for holds in (False, True):
        model = ground.model()
        if holds:
            hold_frozen_in_bf16(model.lm)
        with torch.autocast("cpu", torch.bfloat16):
            out = model.read(batch)
        torch.autograd.backward(out.nll.sum() + out.states.square().sum())
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([out.states.detach(), out.nll.detach(), *gradients])
    plain, held = found
    assert len(held) == len(plain)
    for one, other in zip(held, plain, strict=True):
        scale = float(other.abs().max())
        assert float((one - other).abs().max()) <= 0.02 * scale


def test_the_matrix_that_the_embeddings_share_and_all_that_is_trained_stay_as_they_are(
    ground: Ground,
) -> None:
    lm = ground.model().lm
    hold_frozen_in_bf16(lm)
    assert lm.get_input_embeddings().weight.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in lm.parameters() if p.requires_grad)
    assert any(p.dtype == torch.bfloat16 for p in lm.parameters())


@pytest.mark.parametrize(
    ("able", "expected"), [({"avx512_bf16": True}, True), ({"avx2": True}, False)]
)
def test_auto_multiplies_in_bf16_where_the_cpu_does(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert multiplies_in_bf16("auto", CPU) == expected
    assert multiplies_in_bf16("bf16", CPU)
    assert not multiplies_in_bf16("fp32", CPU)


def test_auto_multiplies_in_bf16_on_a_gpu() -> None:
    assert multiplies_in_bf16("auto", torch.device("cuda"))
