"""The training loop: multi-head loss, accumulation, schedule, early stopping, resume.

Built on accelerate, so the same loop runs on a CPU, a GPU, or several by `accelerate launch`.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from transformers import get_cosine_schedule_with_warmup

from train.checkpoint import Checkpoints, Progress
from train.config import TrainConfig
from train.dataset import DatasetError, spread
from train.examples import Example, batch_order, collate, row_tokens
from train.mixed_precision import hold_frozen_in_bf16, multiplies_in_bf16
from train.multi_head import PARTS, MultiHeadModel
from train.run_log import RunLog
from train.validation import composite, validate

NUM_START = 48
"""Examples whose states set the heads' normalisation."""


@dataclass(frozen=True, slots=True)
class Step:
    """The batches of one optimiser step, over all processes."""

    epoch: int
    number: int
    batches: list[list[int]]


class MultiHeadTrainer:
    """Trains `model` on `train`; `validation` decides when to stop and what is best.

    A run that is stopped, or killed, goes on from `last`.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: MultiHeadModel,
        examples: tuple[Sequence[Example], Sequence[Example]],
        checkpoints: Checkpoints,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.checkpoints, self.accelerator = config, checkpoints, accelerator
        self.train, self.validation = examples
        self.model = model
        self.is_bf16 = multiplies_in_bf16(config.run.precision, accelerator.device)
        if self.is_bf16:
            hold_frozen_in_bf16(model.lm)
        self.num_steps = self._count_steps()
        self.optimiser = torch.optim.AdamW(self._groups(), weight_decay=0.0)
        warmup = math.ceil(config.optimiser.warmup_share * self.num_steps)
        self.schedule = get_cosine_schedule_with_warmup(self.optimiser, warmup, self.num_steps)
        self.progress = Progress()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    def _groups(self) -> list[dict[str, Any]]:
        rates, model = self.config.optimiser, self.model
        adapter = [p for p in model.lm.parameters() if p.requires_grad]
        heads, rows = list(model.heads.parameters()), list(model.rows.parameters())
        decay = rates.weight_decay
        return [
            {"params": adapter, "lr": rates.lr, "weight_decay": decay},
            {"params": rows, "lr": rates.lr_rows},
            {"params": heads, "lr": rates.lr_heads, "weight_decay": decay},
        ]

    def _steps_of(self, epoch: int) -> list[list[list[int]]]:
        """The epoch's batches, step by step; every process has as many batches in each."""
        config, count = self.config, self.accelerator.num_processes
        seed = f"{config.run.seed} {epoch}"
        batches = batch_order(self.train, config.optimiser.row_tokens, seed)
        size = config.optimiser.accumulation * count
        steps = [batches[at : at + size] for at in range(0, len(batches), size)]
        whole = [step[: len(step) // count * count] for step in steps]
        if not any(whole):
            raise DatasetError(
                f"{len(batches)} batches an epoch are too few for {count} processes; "
                "give more conversations, or a smaller optimiser.row_tokens"
            )
        return [step for step in whole if step]

    def _count_steps(self) -> int:
        run = self.config.run
        return run.max_steps or sum(len(self._steps_of(epoch)) for epoch in range(run.epochs))

    def _plan(self) -> Iterator[Step]:
        """The steps that are still to be done."""
        epoch, first = self.progress.epoch, self.progress.step_of_epoch
        while self.progress.step < self.num_steps and not self.progress.is_done:
            for number, batches in enumerate(self._steps_of(epoch)):
                if number >= first and self.progress.step < self.num_steps:
                    yield Step(epoch, number, batches)
            epoch, first = epoch + 1, 0

    def run(
        self,
        log: Callable[[int], RunLog],
        on_step: Callable[[int, dict[str, float]], None],
        stopped_gently: Callable[[], AbstractContextManager[Callable[[], bool]]],
    ) -> bool:
        """Train from `last`, or from the start; whether the run is done.

        `log` opens the run's log with so many rows kept; `stopped_gently` gives the question
        whether to stop, asked after every step.
        """
        torch.manual_seed(self.config.run.seed)
        self.model.to(self.device)
        found = self.checkpoints.load_last(self.model, self.optimiser, self.schedule)
        self.progress = found or self.progress
        is_main = self.accelerator.is_main_process
        self.log = log(self.progress.num_logged) if is_main else None
        if found is None:
            self._start()
        wrapped, optimiser = self.accelerator.prepare(self.model, self.optimiser)
        try:
            with stopped_gently() as should_stop:
                for step in self._plan():
                    figures = self._step(wrapped, optimiser, step)
                    self._note("train", figures)
                    on_step(self.progress.step, figures)
                    if self._is_over(self._any_says(should_stop())):
                        break
        finally:
            if self.log:
                self.log.close()
        return self.progress.is_done

    def _any_says(self, flag: bool) -> bool:
        """Whether any process says so: they stop together, or one waits for the others for ever."""
        votes = self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum")
        return bool(votes.item())

    def _is_over(self, stop: bool) -> bool:
        """After a step: evaluate and save where it is time to; whether no step is to follow."""
        run, progress = self.config.run, self.progress
        is_last = progress.step == self.num_steps
        if is_last or progress.step % run.eval_steps == 0:
            self._evaluate()
        progress.is_done = is_last or progress.num_worse >= run.patience
        is_over = stop or progress.is_done
        if is_over or progress.step % run.checkpoint_steps == 0:
            self._save_last()
        return is_over

    def _start(self) -> None:
        """Begin with what was trained before, or with heads set by the base's states and labels."""
        if not self.checkpoints.load_start(self.model):
            self._start_heads()
        self._evaluate()

    def _start_heads(self) -> None:
        whole = [example for example in self.train if example.answers] or self.train
        states, delta = [], []
        with torch.no_grad():
            for example in spread(whole, NUM_START):
                batch = collate([example]).to(self.device)
                with self._autocast():
                    states.append(self.model.read(batch).states)
                delta.append(batch.delta)
        labels = [label for example in self.train for label in example.labels]
        flag = torch.tensor([[*label.flag.values()] for label in labels], dtype=torch.float32)
        cap = self.config.loss.pos_weight_cap
        self.model.heads.start_from(torch.cat(states), torch.cat(delta), flag.to(self.device), cap)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16)

    def _step(self, wrapped: Any, optimiser: Any, step: Step) -> dict[str, float]:
        start = perf_counter()
        config = self.config
        torch.manual_seed(self._seed())
        totals, norm = self._gradients(wrapped, step)
        losses = dict(zip(PARTS, totals, strict=True))
        if not math.isfinite(sum(totals) + norm):
            told = ", ".join(f"{part} {value}" for part, value in losses.items())
            raise DatasetError(
                f"step {self.progress.step + 1}: losses {told}, gradient norm {norm}; begin "
                "again in another --out with a lower optimiser.lr"
            )
        rate = self.schedule.get_last_lr()[0]
        optimiser.step()
        self.schedule.step()
        optimiser.zero_grad()
        self.progress.step += 1
        self.progress.epoch, self.progress.step_of_epoch = step.epoch, step.number + 1
        num_tokens = sum(row_tokens(self.train, batch) for batch in step.batches)
        seconds = perf_counter() - start
        return {
            "loss": sum(getattr(config.loss, part) * value for part, value in losses.items()),
            **losses,
            "lr": rate,
            "grad_norm": norm,
            "tokens_per_s": num_tokens / seconds,
            "seconds": seconds,
        }

    def _gradients(self, wrapped: Any, step: Step) -> tuple[list[float], float]:
        """The step's losses, in the order of `PARTS`, and the norm of their gradient."""
        config, count = self.config, self.accelerator.num_processes
        examples = [self.train[i] for batch in step.batches for i in batch]
        num_states = sum(len(example.states) for example in examples)
        num_answers = sum(len(example.answers) for example in examples)
        tensor = partial(torch.tensor, dtype=torch.float32, device=self.device)
        counts = tensor([num_answers or 1, num_states, num_states])
        weights = tensor([getattr(config.loss, part) for part in PARTS])
        mine = step.batches[self.accelerator.process_index :: count]
        wrapped.train()
        totals = torch.zeros(len(PARTS), device=self.device)
        for indices in mine:
            batch = collate([self.train[i] for i in indices]).to(self.device)
            is_last = indices is mine[-1]
            with nullcontext() if is_last else self.accelerator.no_sync(wrapped):
                with self._autocast():
                    sums = wrapped(batch, config.loss)
                parts = torch.stack([getattr(sums, part) for part in PARTS]) / counts
                # DDP takes the mean of the processes' gradients; the parts are shares of a sum
                self.accelerator.backward((parts * weights).sum() * count)
            totals += parts.detach()
        totals = self.accelerator.reduce(totals, "sum")
        norm = self.accelerator.clip_grad_norm_(self._trainable(), config.optimiser.max_grad_norm)
        found: list[float] = totals.tolist()
        return found, float(norm)

    def _seed(self) -> int:
        """Of dropout and noise in the next step: a resumed run draws what an unbroken one does."""
        name = f"{self.config.run.seed} {self.progress.step} {self.accelerator.process_index}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def _evaluate(self) -> None:
        progress = self.progress
        figures = validate(self.model, self.validation, self.config.loss, self._autocast)
        if not progress.start:
            progress.start = figures
        figures |= {"composite": self._mean(composite(figures, progress.start))}
        self._note("validation", figures)
        if progress.best is None or figures["composite"] > progress.best:
            progress.best, progress.best_step = figures["composite"], progress.step
            progress.num_worse = 0
            if self.accelerator.is_main_process:
                self.checkpoints.save_best(self.model)
        else:
            progress.num_worse += 1
        if self.log:
            self.log.draw()

    def _mean(self, value: float) -> float:
        """The same figure in every process, so that all judge alike."""
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(shared, "mean"))

    def _note(self, kind: str, figures: dict[str, float]) -> None:
        self.progress.num_logged += 1
        if self.log:
            self.log.add(kind, self.progress.step, figures)

    def _save_last(self) -> None:
        if self.accelerator.is_main_process:
            self.checkpoints.save_last(self.model, self.optimiser, self.schedule, self.progress)
        self.accelerator.wait_for_everyone()
