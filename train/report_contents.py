"""What an evaluation's report holds: all of report.json."""

import msgspec

from train.baselines import Baseline
from train.evaluation import Evaluation
from train.line_figures import LineFigures
from train.perplexity import Perplexity
from train.samples import Sample
from train.voice import Voice


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What was evaluated, where and when, in the caller's words."""

    title: str
    bundle: str
    model: str
    split: str
    machine: str
    date: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Every figure of one bundle on one split.

    `predictors` by name, as in "heads, continued transcript", the one that matters most first;
    `baselines` scored on the same split. None: not measured.
    """

    meta: Meta
    predictors: dict[str, Evaluation]
    baselines: list[Baseline] = []
    perplexity: Perplexity | None = None
    voice: Voice | None = None
    lines: LineFigures | None = None
    samples: list[Sample] = []
    """Every line that was generated."""
