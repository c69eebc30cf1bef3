"""The steps of `persona export`, in their order: read, compare, choose, calibrate, build."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from export.build import build
from export.folder_swap import locked, replaced
from export.heads_graph import OPSET
from export.machine import describe_machine
from export.merge_lora import CONFIG, PERSONA, SPECIAL_ROWS, WEIGHTS
from export.quantise import QUANT_TYPES, QuantType
from export.reporter import Reporter, RichReporter
from heads.agreement import AgreementFile
from heads.bundle import AGREEMENT, HEADS, HEADS_RECORD, ContextSettings, HeadsRecord
from heads.clues import Remark
from rag.world import World, load_world
from train.base import build_options
from train.checkpoint import BEST, TrainedPersona
from train.commands import write_all, write_whole
from train.dataset import DatasetError, TurnLabel, check_npcs, conversations, read_dataset, spread
from train.fit_agreement import fit_agreement
from train.fit_clues import (
    PARTS,
    ClueModel,
    HeldOut,
    Part,
    blend,
    blended_out_of_fold,
    fit_clues,
)
from train.fit_heads import Array, LinearHeads, Targets, calibrated, fit, make_targets, targets_of
from train.heads_files import (
    HEADS_WEIGHTS,
    Heads,
    head_spec,
    read_trained_heads,
    write_agreement,
    write_heads,
)
from train.merit import delta_merit, flag_merit, gain, sign_merit
from train.parity import Likelihood, Measured, Parity, References, choose, compare, likelihood
from train.run import world_sha256
from train.states import LabelledState, stack
from train.trained import Trained, open_trained
from train.transcripts import remark_of
from train.variants import Turns, Variant, Workshop

UNTRAINED = Variant("untrained-f16", "f16", has_adapter=False)
WHOLE = Variant("f16", "f16")
REPORT = "parity.json"
HEADS_FOLDER = "heads"
WITH_CLUES = "with clues"
MIN_GAIN = 0.02
"""Heads fitted anew must be better by so much: a smaller gain is chance."""
_MERITS: dict[Part, tuple[Callable[[Array, Array], float], ...]] = {
    "delta": (delta_merit, sign_merit),
    "flag": (flag_merit,),
}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to make of a run; `quant` None: what the parity report chooses."""

    run: Path
    out: Path
    types: Sequence[QuantType]
    quant: QuantType | None
    num_refit: int
    """Training conversations to fit heads anew on; 0: the trained ones are kept."""
    num_threads: int
    checkpoint: str = BEST
    """Of the run: `best` or `last`."""
    keep: Path | None = None
    """A folder to copy what was trained to: `adapter/`, `heads.onnx`, `heads.json`."""
    num_compared: int = 64
    """Validation conversations that the variants are held against PyTorch on."""


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared and chosen; `parity.json` in the run's export folder."""

    chosen: str
    why: str
    variants: list[Parity]
    untrained: Likelihood
    heads: dict[str, str]
    """Which heads were taken, by part: `trained`, or `refitted` on states of the variant; with
    `and clues` where they read what was said too."""
    merits: dict[str, dict[str, float]]
    """Of all heads that were compared, on validation, by part; `sign`: the share of deltas with the
    right sign. Those with clues are judged on split groups that they were not weighed on."""
    machine: dict[str, str | int]


def export_run(options: ExportOptions, reporter: RichReporter) -> ExportReport:
    """Write the bundle of a run. Raises DatasetError, WorldError, EmbedderError or ExportError."""
    trained = open_trained(options.run, reporter, options.checkpoint)
    world, splits = _open_data(trained, reporter)
    shop = Workshop(trained, world, ContextSettings(), options.num_threads, reporter)
    groups = spread([*conversations(splits["validation"]).values()], options.num_compared)
    compared = shop.write("compared", [label for group in groups for label in group])
    variants, untrained = _compare(options, shop, compared)
    chosen, why = choose(variants)
    if options.quant and options.quant != chosen.quantisation:
        chosen = next(v for v in variants if v.quantisation == options.quant)
        why = "asked for"
    quant = next(name for name in options.types if name == chosen.quantisation)
    served = shop.read(Variant(quant, quant), shop.write("validation", splits["validation"]))
    candidates = {"trained": read_trained_heads(trained.adapter)}
    if options.num_refit:
        try:
            candidates["refitted"] = _refit(options, shop, Variant(quant, quant), splits["train"])
        except DatasetError as error:
            reporter.say(f"heads are not fitted anew, the trained ones are kept: {error}")
    targets = _targets(served, trained.persona)
    merits = {name: _merits(heads, served, targets) for name, heads in candidates.items()}
    flags, deltas = (_better(merits, part) for part in ("flag", "delta"))
    on_states = candidates[flags].with_deltas_of(candidates[deltas])
    heads: Heads = calibrated(on_states, stack(served), targets.flag)
    told: list[Part] = []
    try:
        reporter.stage("fitting what the words say")
        clues = _fit_clues(splits["train"], world, trained.persona)
        held_out = HeldOut(stack(served), _remarks([s.label for s in served], world), targets)
        with_clues, told, merits[WITH_CLUES] = _with_clues(on_states, clues, held_out)
        heads = with_clues or heads
    except DatasetError as error:
        reporter.say(f"heads read the states alone: {error}")
    report = ExportReport(
        chosen=chosen.quantisation,
        why=why,
        variants=variants,
        untrained=likelihood(untrained),
        heads={
            "flag": flags + " and clues" * ("flag" in told),
            "delta": deltas + " and clues" * ("delta" in told),
        },
        merits=merits,
        machine=describe_machine(),
    )
    _write(options, shop, heads, _fit_agreement(splits, reporter), report)
    return report


def _open_data(trained: Trained, reporter: Reporter) -> tuple[World, dict[str, list[TurnLabel]]]:
    """World and dataset as they are now."""
    data = trained.record.config.data
    world = load_world(Path(data.world))
    splits = read_dataset(Path(data.data), ("train", "validation"))
    check_npcs(splits, world)
    if trained.record.world_sha256 not in ("", world_sha256(world)):
        reporter.say(f"note: {data.world} is not what it was in training; it is read as it is now")
    return world, splits


def _compare(
    options: ExportOptions, shop: Workshop, turns: Turns
) -> tuple[list[Parity], list[LabelledState]]:
    """Each variant beside PyTorch, and the states of the base without training."""
    exact = shop.read_with_pytorch(turns)
    whole = shop.read(WHOLE, turns)
    untrained = shop.read(UNTRAINED, turns)
    variants = [Variant(name, name) for name in dict.fromkeys(options.types)]
    states = {variant.name: shop.read(variant, turns) for variant in variants}
    targets = _targets(exact, shop.trained.persona)
    heads = calibrated(read_trained_heads(shop.trained.adapter), stack(exact), targets.flag)
    references = References(exact, whole, untrained)
    compared = [
        compare(
            Measured(variant.quant, shop.path(variant).stat().st_size, states[variant.name], speed),
            references,
            heads,
        )
        for variant, speed in zip(variants, shop.speeds(variants), strict=True)
    ]
    return compared, untrained


def _targets(states: Sequence[LabelledState], persona: TrainedPersona) -> Targets:
    return make_targets(states, persona.delta_names, persona.flag_names)


def _refit(
    options: ExportOptions, shop: Workshop, variant: Variant, labels: Sequence[TurnLabel]
) -> LinearHeads:
    """Heads fitted anew on states of training conversations, as the variant makes them."""
    chosen = spread(list(conversations(labels).values()), options.num_refit)
    turns = shop.write("train", [label for group in chosen for label in group])
    states = shop.read(variant, turns)
    return fit(states, _targets(states, shop.trained.persona))[0]


def _merits(
    heads: LinearHeads, states: Sequence[LabelledState], targets: Targets
) -> dict[str, float]:
    return _merits_of(heads.predict(stack(states)), targets)


def _merits_of(predicted: tuple[Array, Array], targets: Targets) -> dict[str, float]:
    delta, scores = predicted
    found = {
        "flag": flag_merit(targets.flag, scores),
        "delta": delta_merit(targets.delta, delta),
        "sign": sign_merit(targets.delta, delta),
    }
    return {part: round(merit, 4) for part, merit in found.items()}


def _better(merits: dict[str, dict[str, float]], part: str) -> str:
    """The heads whose `part` serves: the trained ones, unless others are clearly better."""
    handicap = {"refitted": MIN_GAIN}
    return max(merits, key=lambda name: merits[name][part] - handicap.get(name, 0.0))


def _remarks(labels: Sequence[TurnLabel], world: World) -> list[Remark]:
    return [remark_of(label, world) for label in labels]


def _fit_clues(labels: Sequence[TurnLabel], world: World, persona: TrainedPersona) -> ClueModel:
    learned = targets_of(labels, persona.delta_names, persona.flag_names)
    return fit_clues(_remarks(labels, world), learned)


def _with_clues(
    on_states: LinearHeads, clues: ClueModel, held_out: HeldOut
) -> tuple[Heads | None, list[Part], dict[str, float]]:
    """Heads with the clues of those parts that these tell better; None, if it is none of them."""
    found = blended_out_of_fold(on_states, clues, held_out)
    told = parts_told_better(found, on_states.predict(held_out.states), held_out.targets)
    heads = blend(on_states, clues.only(told), held_out) if told else None
    return heads, told, _merits_of(found, held_out.targets)


def _fit_agreement(
    splits: Mapping[str, Sequence[TurnLabel]], reporter: RichReporter
) -> AgreementFile | None:
    try:
        return fit_agreement(splits["train"], splits["validation"])
    except DatasetError as error:
        reporter.say(f"lines are not held against decisions: {error}")
        return None


def parts_told_better(
    found: tuple[Array, Array], before: tuple[Array, Array], targets: Targets
) -> list[Part]:
    """The parts that `found` (deltas, flag scores) predicts better than `before`.

    Beyond chance: a gain's 95% interval lies above 0. Deltas by their errors or their signs, the
    other of the two being no worse beyond chance.
    """
    told: list[Part] = []
    labels = targets.delta, targets.flag
    for part, truth, new, old in zip(PARTS, labels, found, before, strict=True):
        gains = [gain(merit, truth, new, old, targets.groups) for merit in _MERITS[part]]
        is_better = any((each.low or 0.0) > 0 for each in gains)
        if is_better and not any((each.high or 0.0) < 0 for each in gains):
            told.append(part)
    return told


def _write(
    options: ExportOptions,
    shop: Workshop,
    heads: Heads,
    agreement: AgreementFile | None,
    report: ExportReport,
) -> None:
    """The heads with their record and what holds lines against them, the report, the bundle."""
    trained, persona = shop.trained, shop.trained.persona
    chosen = next(v for v in report.variants if v.quantisation == report.chosen)
    record = HeadsRecord(
        heads=head_spec(heads, persona.delta_names, persona.flag_names),
        vocabulary_sha256=trained.base.vocabulary_sha256,
        context=shop.settings,
        training=_training(shop, report),
        parity=msgspec.to_builtins(chosen),
    )
    folder = shop.folder / HEADS_FOLDER
    with locked(folder, lambda: None), replaced(folder) as beside:
        write_heads(beside, heads, record)
        if agreement is not None:
            write_agreement(beside, agreement)
    raw = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    write_whole(shop.folder / REPORT, raw)
    quant = next(name for name in QUANT_TYPES if name == report.chosen)
    base = build_options(trained.record.config.base)
    bundle = replace(
        base, out=options.out, quant=quant, adapter=trained.adapter, heads=folder, model_only=False
    )
    build(bundle, shop.reporter)
    if options.keep is not None:
        _keep(options.keep, trained.adapter, folder)


def _keep(target: Path, adapter: Path, heads: Path) -> None:
    """Copy what a bundle of the same base is built from, and what training would go on from.

    To stop between leaves no record of heads, and without one nothing is built.
    """
    kept, record = target / "adapter", target / HEADS_RECORD
    with locked(kept, lambda: None), replaced(kept) as beside:
        for name in (CONFIG, WEIGHTS, PERSONA, SPECIAL_ROWS, HEADS_WEIGHTS):
            shutil.copyfile(adapter / name, beside / name)
        record.unlink(missing_ok=True)
    found = {name: heads / name for name in (AGREEMENT, HEADS, HEADS_RECORD)}
    if not found[AGREEMENT].is_file():
        (target / AGREEMENT).unlink(missing_ok=True)
        del found[AGREEMENT]
    write_all({target / name: path.read_bytes() for name, path in found.items()}, sealed_by=record)


def _training(shop: Workshop, report: ExportReport) -> dict[str, object]:
    """What the manifest says of the run; of paths the last part alone.

    The hashes are of what calibrated: dataset and world as they are now.
    """
    trained = shop.trained
    config = msgspec.to_builtins(trained.record.config)
    for section, key in (
        ("base", "gguf"),
        ("base", "hf"),
        ("data", "world"),
        ("data", "data"),
        ("data", "embedder"),
    ):
        config[section][key] = Path(config[section][key]).name
    return {
        "method": "LoRA, special-token rows and heads trained together",
        "heads": report.heads,
        "merits": report.merits,
        "onnx_opset": OPSET,
        "data_sha256": trained.data_sha256,
        "world_sha256": world_sha256(shop.world),
        "config": config,
    }
