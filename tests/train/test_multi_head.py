"""The model that is trained, beside plain transformers and torch's own losses."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (as PyTorch's own code has it)

from runtime.prompt import Special
from tests.tiny_models import N_EMBD
from tests.train.grounds import (
    DELTA_NAMES,
    FLAG_NAMES,
    LORA,
    Ground,
    assert_near,
    batch_of,
    examples_of,
    read,
)
from train.config import LoraConfig, LossConfig
from train.examples import Batch, Example, collate
from train.multi_head import Heads, MultiHeadModel

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # peft and torch warn of each other
    pytest.mark.usefixtures("one_thread"),
]

TIED = ("gemma3", "qwen2", "qwen3")
LOSS = LossConfig()


def plain(model: MultiHeadModel) -> Any:
    """Transformers' model with the adapter merged and the special rows in its matrices."""
    lm = copy.deepcopy(model.lm)
    lm = lm.merge_and_unload() if hasattr(lm, "merge_and_unload") else lm
    lm.set_attn_implementation("eager")
    table, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    is_tied = head.weight is table.weight
    table.weight = with_rows(table.weight, model, "embedding")
    head.weight = table.weight if is_tied else with_rows(head.weight, model, "output")
    return lm


def with_rows(matrix: torch.Tensor, model: MultiHeadModel, name: str) -> torch.nn.Parameter:
    height = max(len(matrix), int(model.rows.ids.max()) + 1)
    whole = torch.zeros(height, matrix.shape[1])
    whole[: len(matrix)] = matrix.detach()
    whole[model.rows.ids] = model.rows.rows[name].detach()
    return torch.nn.Parameter(whole)


def read_plainly(lm: Any, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """`(states, nll)` of `examples` by transformers alone, one after the other."""
    states, nll = [], []
    for example in examples:
        tokens = torch.tensor([example.tokens])
        out = lm(input_ids=tokens, output_hidden_states=True, use_cache=False)
        states.append(out.hidden_states[-1][0, example.states])
        chances = out.logits[0, example.answers].log_softmax(-1)
        nll.append(-chances.gather(-1, tokens[0, 1:][example.answers, None])[:, 0])
    return torch.cat(states), torch.cat(nll)


def test_the_first_rows_of_the_special_tokens_are_those_of_the_gguf(ground: Ground) -> None:
    ids = [ground.info.special_ids[special] for special in Special]
    names = {"embedding": "model.embed_tokens.weight", "output": "lm_head.weight"}
    is_tied = ground.tiny.architecture in TIED
    assert set(ground.info.rows) == ({"embedding"} if is_tied else {"embedding", "output"})
    for name, rows in ground.info.rows.items():
        np.testing.assert_array_equal(rows.numpy(), ground.tiny.weights[names[name]][ids])
    assert ground.info.n_embd == N_EMBD


def test_the_weights_of_the_base_are_frozen_with_and_without_an_adapter(ground: Ground) -> None:
    assert not any(parameter.requires_grad for parameter in ground.lm.parameters())
    adapted = ground.model().lm
    frozen = [name for name, p in adapted.named_parameters() if not p.requires_grad]
    assert len(frozen) == len(list(ground.lm.parameters()))


def test_an_untrained_model_reads_as_its_base_does(ground: Ground) -> None:
    batch = batch_of(ground.info)
    found = read(ground.model(seed=None), batch)
    with torch.no_grad():
        states, nll = read_plainly(ground.tiny.hf_model, examples_of(ground.info))
    assert_near(found.states, states, 10)
    assert_near(found.nll, nll, 10)


@pytest.mark.parametrize("config", [None, LORA], ids=["no adapter", "adapter"])
def test_states_and_nll_are_those_of_transformers_with_the_rows_in_its_matrices(
    ground: Ground, config: LoraConfig | None
) -> None:
    batch, model = batch_of(ground.info), ground.model(config)
    found = read(model, batch)
    with torch.no_grad():
        states, nll = read_plainly(plain(model), examples_of(ground.info))
        others, _ = read_plainly(ground.tiny.hf_model, examples_of(ground.info))
    assert_near(found.states, states, 10)
    assert_near(found.nll, nll, 10)
    assert (states - others).abs().max() > 0.1, "training changed something"


def test_special_tokens_past_the_end_of_the_table_have_their_rows_all_the_same(
    ground: Ground,
) -> None:
    info = ground.past_the_end()
    batch, model = batch_of(info), ground.model(info=info)
    assert int(batch.tokens.max()) >= model.lm.get_input_embeddings().num_embeddings
    assert set(batch.targets.tolist()) & set(info.special_ids.values())
    found = read(model, batch)
    with torch.no_grad():
        states, nll = read_plainly(plain(model), examples_of(info))
    assert_near(found.states, states, 10)
    assert_near(found.nll, nll, 10)


def test_rows_between_the_end_of_the_table_and_the_special_tokens_are_never_foretold(
    qwen3: Ground,
) -> None:
    far = {name: at + 5 for name, at in qwen3.past_the_end().special_ids.items()}
    info, hidden = replace(qwen3.info, special_ids=far), torch.randn(3, N_EMBD)
    model = qwen3.model(info=info)
    with torch.no_grad():
        logits = model.rows.logits(hidden, model.lm.get_output_embeddings())
    size = qwen3.tiny.num_tokens
    assert logits.shape == (3, size + 5 + len(Special))
    assert logits[:, size : size + 5].eq(float("-inf")).all()
    assert_near(logits[:, size + 5 :], hidden @ model.rows.rows["embedding"].detach().T, 10)


def test_an_example_reads_in_a_packed_row_as_it_does_alone(ground: Ground) -> None:
    model, examples = ground.model(), examples_of(ground.info, (12, 60, 33))
    together = read(model, collate(examples))
    alone = [read(model, collate([example])) for example in examples]
    for name in ("states", "delta", "flag_logits", "nll"):
        assert_near(getattr(together, name), torch.cat([getattr(out, name) for out in alone]), 10)


def test_the_heads_see_the_normalised_state(qwen3: Ground) -> None:
    model = qwen3.model()
    found, heads = read(model, batch_of(qwen3.info)), model.heads
    x = (found.states - heads.mean) / heads.scale
    assert_near(found.delta, torch.tanh(x @ heads.delta.weight.T + heads.delta.bias).detach())
    assert_near(found.flag_logits, (x @ heads.flag.weight.T + heads.flag.bias).detach(), 10)


@pytest.mark.parametrize("huber", [0.1, 0.6])
def test_losses_are_sums_that_the_formulas_give(qwen3: Ground, huber: float) -> None:
    model, batch, loss = qwen3.model(), batch_of(qwen3.info), LossConfig(huber=huber)
    out = read(model, batch)
    with torch.no_grad():
        found = model(batch, loss)
    error = (out.delta - batch.delta).abs()
    assert (error < huber).any()
    assert (error > huber).any()
    smooth = torch.where(error < huber, error**2 / (2 * huber), error - huber / 2)
    weight, logits = torch.tensor([1.5, 3.0]), out.flag_logits
    cost = weight * batch.flag * F.softplus(-logits) + (1 - batch.flag) * F.softplus(logits)
    assert_near(found.lm, out.nll.sum(), 100)
    assert_near(found.delta, smooth.sum() / len(DELTA_NAMES), 100)
    assert_near(found.flag, cost.sum() / len(FLAG_NAMES), 100)
    assert (found.num_answers, found.num_states) == (18, 6)


def test_the_losses_of_a_batch_are_those_of_its_examples_together(qwen3: Ground) -> None:
    model, examples = qwen3.model(), examples_of(qwen3.info)
    with torch.no_grad():
        whole = model(collate(examples), LOSS)
        parts = [model(collate([example]), LOSS) for example in examples]
    for name in ("lm", "delta", "flag", "num_answers", "num_states"):
        total = torch.as_tensor(sum(getattr(part, name) for part in parts))
        assert_near(torch.as_tensor(getattr(whole, name)), total, 100)


def gradients(model: MultiHeadModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Of the parameters that have one."""
    sums = model(batch, LossConfig(state_noise=0.0))
    torch.autograd.backward(sums.lm + sums.delta + sums.flag)
    parameters = dict(model.named_parameters())
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}


def test_adapter_rows_and_heads_get_gradients_and_nothing_else_does(ground: Ground) -> None:
    model = ground.model()
    found = gradients(model, batch_of(ground.info))
    trained = [
        name
        for name, _ in model.named_parameters()
        if name.startswith(("rows.", "heads.")) or ".lora_" in name
    ]
    assert list(found) == trained
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    num_factors = sum(".lora_" in name for name in found)
    assert num_factors == 2 * len(LORA.targets) * ground.lm.config.num_hidden_layers


def test_rows_get_the_gradients_that_the_matrices_would_give_them(ground: Ground) -> None:
    batch, model = batch_of(ground.info), ground.model()
    out = model.read(batch)
    torch.autograd.backward(out.nll.sum() + out.states.square().sum())
    lm = plain(model)
    states, nll = read_plainly(lm, examples_of(ground.info))
    torch.autograd.backward(nll.sum() + states.square().sum())
    matrices = {"embedding": lm.get_input_embeddings(), "output": lm.get_output_embeddings()}
    for name, rows in model.rows.rows.items():
        expected = matrices[name].weight.grad[model.rows.ids]
        assert rows.grad is not None
        assert_near(rows.grad, expected, float(expected.abs().max()) * 10)


def test_gradients_are_the_same_with_checkpointing(ground: Ground) -> None:
    batch = batch_of(ground.info)
    plainly, saving = (ground.model(checkpointing=saves).train() for saves in (False, True))
    assert saving.lm.is_gradient_checkpointing
    expected, found = gradients(plainly, batch), gradients(saving, batch)
    assert list(found) == list(expected)
    for name, gradient in found.items():
        assert_near(gradient, expected[name], 100)


def test_noise_is_on_what_the_heads_see_in_training_alone(qwen3: Ground) -> None:
    batch, model = batch_of(qwen3.info), qwen3.model()
    noisy, still = LossConfig(state_noise=0.5), LossConfig(state_noise=0.0)
    with torch.no_grad():
        expected = model(batch, still)
        evaluated = model(batch, noisy)
        model.train()
        quiet, first, second = (model(batch, loss) for loss in (still, noisy, noisy))
    assert torch.equal(evaluated.flag, expected.flag)
    assert_near(quiet.flag, expected.flag)
    assert_near(first.lm, expected.lm, 100)
    assert len({float(sums.flag) for sums in (expected, first, second)}) == 3
    assert len({float(sums.delta) for sums in (expected, first, second)}) == 3


def test_noise_has_the_size_that_is_asked_for_whatever_the_scale_of_a_dimension() -> None:
    torch.manual_seed(0)
    heads = Heads(2, 1, 2)
    with torch.no_grad():
        heads.scale.copy_(torch.tensor([100.0, 0.01]))
        heads.flag.weight.copy_(torch.eye(2))
        _, logits = heads(torch.zeros(20_000, 2), 0.15)
    torch.testing.assert_close(logits.std(0), torch.full((2,), 0.15), rtol=0.05, atol=0)


def start(flag: torch.Tensor, cap: float = 3.0) -> tuple[Heads, torch.Tensor, torch.Tensor]:
    """Heads that start from random states, the states, and the labelled deltas."""
    draw = torch.Generator().manual_seed(0)
    size = torch.tensor([0.01, 1.0, 100.0, 0.0])
    states = 5 + size * torch.randn(len(flag), 4, generator=draw)
    delta = torch.rand(len(flag), 2, generator=draw) * 0.8 - torch.tensor([0.4, 0.0])
    heads = Heads(4, 2, flag.shape[1])
    heads.start_from(states, delta, flag, cap)
    return heads, states, delta


SHARES = (0.0, 0.05, 0.4, 0.7, 1.0)
FLAGS = torch.stack([(torch.arange(100) < 100 * share).float() for share in SHARES], 1)


def test_heads_start_by_normalising_the_states_and_from_what_the_labels_are_on_average() -> None:
    heads, states, delta = start(FLAGS)
    x = (states - heads.mean) / heads.scale
    assert_near(x.mean(0), torch.zeros(4), 100)
    assert_near(x[:, :3].std(0, correction=0), torch.ones(3), 100)
    assert torch.isfinite(x).all(), "a dimension that never varies is not divided by nothing"
    predicted, logits = heads(states)
    assert_near(predicted, delta.mean(0).expand(100, 2))
    chance = torch.sigmoid(logits[0] - heads.pos_weight.log())
    assert_near(chance, torch.tensor(SHARES).clamp(1e-3, 1 - 1e-3), 10)


def test_a_raised_flag_weighs_as_much_as_it_is_rare_up_to_the_cap() -> None:
    heads, _, _ = start(FLAGS)
    torch.testing.assert_close(heads.pos_weight, torch.tensor([3.0, 3.0, 1.5, 1.0, 1.0]))
    assert start(FLAGS, cap=30.0)[0].pos_weight[1] == pytest.approx(19, rel=1e-3)


def test_heads_start_where_no_other_constant_would_cost_less() -> None:
    heads, states, _ = start(FLAGS[:, 1:4])
    _, logits = heads(states)
    cost = F.binary_cross_entropy_with_logits(
        logits, FLAGS[:, 1:4], pos_weight=heads.pos_weight, reduction="sum"
    )
    torch.autograd.backward(cost)
    assert heads.flag.bias.grad is not None
    assert heads.flag.bias.grad.abs().max() < 1e-3
