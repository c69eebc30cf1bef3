"""The configuration of a training run: one small TOML file (train/configs)."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rag.embedder import DEFAULT, NO_EMBEDDER
from train.dataset import DatasetError

CONFIGS = Path(__file__).with_name("configs")

Count = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[float, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

Precision = Literal["auto", "bf16", "fp32"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class BaseConfig(_Section, frozen=True):
    """What is fine-tuned: neither `gguf` nor `hf` is the packaged base."""

    gguf: str = ""
    """Weights as GGUF, trained on in full precision."""
    hf: str = ""
    """A folder of Hugging Face weights; its GGUF for vocabulary and export is converted."""
    nf4: bool = True
    """Hold `hf` weights in 4-bit NF4, double-quantised (QLoRA, arXiv:2305.14314)."""
    trim: bool = True
    """Cut the vocabulary to the languages served; never done to `hf` weights."""


class DataConfig(_Section, frozen=True):
    """What is learned from."""

    world: str
    data: str
    max_tokens: Count = 1536
    """A longer transcript is cut in two, the second half beginning afresh."""
    whole_share: Share = 1.0
    """Share of conversations that are seen from their first turn on."""
    rebuilt_share: Share = 0.35
    """Share of conversations that are also seen with a past told by a dialogue history alone."""
    alone_share: Share = 0.0
    """Share of turns that are also seen alone, up to `<STATE>`: no past, no notes, no reply. They
    teach the heads at less than half of the tokens."""
    notes: bool = True
    """Show the notes that retrieval would show."""
    embedder: str = DEFAULT

    def __post_init__(self) -> None:
        if not (self.whole_share or self.rebuilt_share or self.alone_share):
            raise ValueError("whole_share, rebuilt_share and alone_share are all 0: no examples")

    @property
    def note_embedder(self) -> str:
        """What finds the notes; `none` where none are shown."""
        return self.embedder if self.notes else NO_EMBEDDER


class LoraConfig(_Section, frozen=True):
    """The adapter (LoRA, arXiv:2106.09685)."""

    r: Count = 16
    alpha: Rate = 32.0
    dropout: Share = 0.0
    """Costly on a CPU, where PyTorch draws its masks on one thread."""
    targets: tuple[str, ...] = PROJECTIONS


class LossConfig(_Section, frozen=True):
    """`lm * LM + delta * smooth L1 + flag * BCE`, each a mean over what it scores."""

    lm: Number = 1.0
    delta: Number = 3.0
    flag: Number = 3.0
    huber: Rate = 0.1
    """Below this error the delta loss is quadratic (smooth L1 with this beta)."""
    pos_weight_cap: Rate = 3.0
    """A raised flag weighs as much as it is rare, up to this."""
    state_noise: Number = 0.15
    """Standard deviation of noise on normalised states: llama.cpp's states differ by about as much
    from PyTorch's, since it rounds activations (6 in norm, where a dimension's is 1.4)."""


class OptimiserConfig(_Section, frozen=True):
    """AdamW, cosine schedule with warm-up; a step sees `accumulation` rows.

    The examples of a row begin alike (an NPC's `<SYS>` block), which is evaluated once.
    """

    lr: Rate = 4e-4
    lr_rows: Rate = 1e-3
    lr_heads: Rate = 3e-4
    weight_decay: Number = 0.01
    warmup_share: Share = 0.05
    max_grad_norm: Rate = 1.0
    row_tokens: Count = 1536
    """What a row holds at most; an example that is longer has one to itself."""
    accumulation: Count = 8


class RunConfig(_Section, frozen=True):
    """How long, how often, on what."""

    seed: int = 0
    epochs: Count = 2
    max_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: as many as the epochs have."""
    eval_steps: Count = 50
    checkpoint_steps: Count = 10
    patience: Count = 4
    """Evaluations without a better composite before the run ends."""
    eval_conversations: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Validation conversations looked at during training; 0: all."""
    precision: Precision = "auto"
    """Of the forward pass; `auto`: bf16 on a GPU, and on a CPU that multiplies in it."""
    gradient_checkpointing: bool = False
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: as many as PyTorch would take."""


class TrainConfig(_Section, frozen=True):
    """A whole run."""

    data: DataConfig
    base: BaseConfig = BaseConfig()
    lora: LoraConfig = LoraConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        if self.base.gguf and self.base.hf:
            raise ValueError("base.gguf and base.hf are both set; choose one")
        if not self.lora.targets:
            raise ValueError(f"lora.targets is empty; choose of {PROJECTIONS}")
        if unknown := sorted(set(self.lora.targets) - set(PROJECTIONS)):
            raise ValueError(f"lora.targets: {', '.join(unknown)}; choose of {PROJECTIONS}")


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """The configuration in `path` (or named so in train/configs), `changes` as `run.seed=1`.

    Raises DatasetError that names the key that is wrong.
    """
    known = CONFIGS / f"{path}.toml"
    path = known if not path.is_file() and known.is_file() else path
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
        for change in changes:
            _apply(settings, change)
        return msgspec.convert(settings, TrainConfig)
    except OSError as error:
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
        what = error.strerror or "cannot be read"
        raise DatasetError(f"{path}: {what}; give a TOML file, or one of {names}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise DatasetError(f"{path}: {error}") from error


def _apply(settings: dict[str, Any], change: str) -> None:
    name, _, value = change.partition("=")
    section, _, key = name.partition(".")
    if not (section and key and value):
        raise DatasetError(f"{change!r}: write a change as section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a plain word is text
    if not isinstance(found := settings.setdefault(section, {}), dict):
        raise DatasetError(f"{change!r}: {section} is no section of the file, but {found!r}")
    found[key] = parsed
