"""The sections of a report, as tables."""

from collections.abc import Callable, Mapping

from train.delta_figures import Delta
from train.evaluation import Evaluation, Figures
from train.flag_figures import NUM_BINS, Flag
from train.perplexity import Perplexity, ReplySurprise, Surprise
from train.report_contents import Report
from train.report_grid import Grid, Row, Section, by_group, number, with_interval
from train.report_lines import line_section
from train.report_summary import summary_section
from train.voice import Voice

FLAGS, CALIBRATION, DELTAS = "Flags", "Calibration", "Deltas"
GROUPS, PERPLEXITY = "NPCs and languages", "Likelihood of the responses"
VOICE = "Voice"

_FLAGS_NOTE = (
    "A dash is undefined: nothing is raised (precision), the flag never occurs (recall, F1, "
    "AUPRC), or it never or always does (AUROC). AUPRC: average precision."
)
_CALIBRATION_NOTE = (
    f"The scores of all flags in {NUM_BINS} bins of equal width (Guo et al. 2017): their mean, and "
    "how often the label is 1. ECE: how far apart the two are, on average over the scores."
)
_DELTAS_NOTE = "R²: share of the labels' variance that is explained."
_GROUPS_NOTE = (
    "Macro-F1 is over the flags that occur in the group; false alarms of the others count in the "
    "micro-F1 alone. report.json has every figure of every group."
)
_PERPLEXITY_NOTE = (
    "NLL in nats a token, the end of sequence included; perplexity is e to its power."
)
_VOICE_NOTE = (
    "Turns whose labelled response is likelier where it was given than with all that comes before "
    "<STATE> as another NPC, or another state of the game, would have it; with the labelled "
    "decision in each place, or with the one that the heads make there."
)


def sections(report: Report) -> list[Section]:
    """Everything that was measured, most important first."""
    found = [
        summary_section(report),
        Section(FLAGS, _FLAGS_NOTE, _each(report.predictors, _flags)),
        Section(CALIBRATION, _CALIBRATION_NOTE, [], _each(report.predictors, _bins)),
        Section(DELTAS, _DELTAS_NOTE, _each(report.predictors, _deltas)),
        Section(GROUPS, _GROUPS_NOTE, _each(report.predictors, _groups)),
    ]
    if report.perplexity:
        found.append(Section(PERPLEXITY, _PERPLEXITY_NOTE, [_perplexity(report.perplexity)]))
    if report.voice:
        found.append(Section(VOICE, _VOICE_NOTE, [_voice(report.voice)]))
    if report.lines:
        found.append(line_section(report.lines))
    return found


def _each(
    predictors: Mapping[str, Evaluation], make: Callable[[str, Evaluation], Grid]
) -> list[Grid]:
    return [make(name, evaluation) for name, evaluation in predictors.items()]


def _flags(name: str, evaluation: Evaluation) -> Grid:
    header = ("flag", "occurs", "raised", "threshold", "precision", "recall", "F1")
    rows = [(key, *_flag(flag)) for key, flag in evaluation.figures.whole.flags.items()]
    return Grid(name, (*header, "F1 under the rules", "AUROC", "AUPRC", "ECE"), rows)


def _flag(flag: Flag) -> Row:
    figures = (flag.threshold, flag.precision, flag.recall, flag.f1, flag.f1_ruled)
    areas = (flag.auroc, flag.auprc, flag.ece)
    return [str(flag.support), str(flag.num_raised), *map(number, (*figures, *areas))]


def _bins(name: str, evaluation: Evaluation) -> Grid:
    rows = [
        (number(each.confidence), number(each.accuracy), f"{each.count:,}")
        for each in evaluation.figures.whole.bins
    ]
    return Grid(name, ("mean score", "label is 1", "scores"), rows)


def _deltas(name: str, evaluation: Evaluation) -> Grid:
    deltas = evaluation.figures.whole.deltas
    rows = [
        (key, *_delta(delta))
        for key, delta in {**deltas.by_name, "together": deltas.pooled}.items()
    ]
    header = ("delta", "MAE", "RMSE", "R²", "right signs", "... falling", "... rising")
    return Grid(name, header, rows)


def _delta(delta: Delta) -> Row:
    signs = (delta.sign_accuracy, delta.sign_accuracy_falling, delta.sign_accuracy_rising)
    return [*map(number, (delta.mae, delta.rmse, delta.r2, *signs))]


def _groups(name: str, evaluation: Evaluation) -> Grid:
    header = ("", "turns", "macro-F1", "... under the rules", "micro-F1", "ECE", "pairs right")
    rows = by_group(evaluation.figures, _group)
    return Grid(name, (*header, "delta MAE", "right signs"), rows)


def _group(figures: Figures) -> Row:
    quoted = figures.headline
    flags = (quoted.macro_f1, quoted.macro_f1_ruled, quoted.micro_f1, quoted.ece)
    others = (quoted.pairs_right, quoted.delta_mae, quoted.sign_accuracy)
    return [f"{figures.num_turns:,}", *map(with_interval, (*flags, *others))]


def _perplexity(perplexity: Perplexity) -> Grid:
    header = ("", "tokens", "NLL", "perplexity", "NLL before tuning", "perplexity before tuning")
    return Grid("", header, by_group(perplexity, _reply))


def _reply(reply: ReplySurprise) -> Row:
    return [f"{reply.num_tokens:,}", *_surprise(reply.tuned), *_surprise(reply.untuned)]


def _surprise(surprise: Surprise | None) -> Row:
    if surprise is None:
        return ["-", "-"]
    return [number(surprise.nll), f"{surprise.perplexity:.2f}"]


def _voice(voice: Voice) -> Grid:
    rows = [
        ("than under another NPC", with_interval(voice.npc)),
        ("than in another state", with_interval(voice.state)),
        ("than in either", with_interval(voice.both)),
        ("than in another state, each with its own decision", with_interval(voice.decided)),
    ]
    if voice.changed:
        name = f"... of the {voice.num_changed:,} turns of which the decision differs"
        rows.append((name, with_interval(voice.changed)))
    return Grid("", (f"of {voice.num_turns:,} turns, likelier", "share"), rows)
