"""`persona bench trim`: what trimming the vocabulary of the default base costs and gains.

Three models: the packaged one; the same with its vocabulary trimmed, tensors untouched; the
default bundle's weights (trimmed, Q8_0). The texts are the utterances and replies of the world's
dataset: nothing in the keep rule has seen them.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.likelihood import Likelihood, measure
from bench.report import add_output, write_report
from export.base_model import assemble
from export.gguf_file import read_gguf
from export.machine import describe_machine
from export.quantise import write_quantised
from export.special_tokens import claim
from export.speed import measure_speed, speed_config
from export.trim_vocab import trim
from runtime.llama_backend import LlamaContext, LlamaModel

DATA = Path("worlds/mulmaru/data/validation")
FULL, TRIMMED, DEFAULT = "full", "trimmed", "trimmed, Q8_0"
MAX_NLL_RATIO, MAX_BYTE_SHARE = 1.03, 0.01


class Line(msgspec.Struct, frozen=True):
    """What is read of a line of the dataset."""

    lang: Literal["ko", "en"]
    player_utterance: str
    response: str


@dataclass(slots=True)
class Variant:
    """A model and what was measured of it."""

    name: str
    path: Path
    num_rows: int = 0
    prefill: list[float] = field(default_factory=list)
    """Tokens a second, one figure a run."""

    decode: list[float] = field(default_factory=list)
    likelihood: dict[str, Likelihood] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    parser.add_argument("--data", type=Path, default=DATA, help="folder of JSONL files")
    parser.add_argument("--texts", type=int, metavar="N", help="at most N texts a language")
    parser.add_argument("--threads", type=int, default=2)
    add_output(parser, num_runs=7, has_plot=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if trimming costs more than it may."""
    texts = read_texts(sorted(args.data.glob("*.jsonl")), args.texts)
    with tempfile.TemporaryDirectory() as folder, Progress(transient=True) as progress:
        variants = make_variants(Path(folder))
        _measure_speed(variants, args.runs, args.threads, progress)
        for variant in variants:
            _measure_likelihood(variant, texts, args.threads, progress)
        figures = [_figures(variant, variants[0]) for variant in variants]
    _print(figures)
    settings = {name: getattr(args, name) for name in ("texts", "runs", "threads")}
    write_report(args.json, "trim", settings, figures)
    return int(not all(_is_good(figure) for figure in figures))


def read_texts(paths: Iterable[Path], limit: int | None) -> dict[str, list[str]]:
    """Texts by language, each once, in a fixed order; every nth where there is a limit."""
    found: dict[str, dict[str, None]] = {"ko": {}, "en": {}}
    decoder = msgspec.json.Decoder(Line)
    for path in paths:
        for line in decoder.decode_lines(path.read_bytes()):
            found[line.lang] |= dict.fromkeys((line.player_utterance, line.response))
    texts = {lang: [text for text in of_lang if text] for lang, of_lang in found.items()}
    return {
        lang: every[:: -(-len(every) // (limit or len(every)))] for lang, every in texts.items()
    }


def make_variants(folder: Path) -> list[Variant]:
    """The three models, written to `folder`."""
    full, trimmed, default = (folder / f"{name}.gguf" for name in ("full", "trimmed", "default"))
    assemble(full)
    model, report = trim(read_gguf(full))
    served, _ = claim(model)
    write_quantised(served, trimmed, "keep")
    write_quantised(served, default, "q8_0")
    return [
        Variant(FULL, full, report.num_before),
        Variant(TRIMMED, trimmed, report.num_after),
        Variant(DEFAULT, default, report.num_after),
    ]


def _measure_speed(
    variants: Sequence[Variant], num_runs: int, num_threads: int, progress: Progress
) -> None:
    models = [LlamaModel(variant.path) for variant in variants]
    contexts = [LlamaContext(model, speed_config(num_threads)) for model in models]
    task = progress.add_task("speed", total=num_runs * len(variants))
    for at in range(num_runs + 1):  # the first run warms caches and is not counted
        for variant, model, context in zip(variants, models, contexts, strict=True):
            prefill, decode = measure_speed(model, context)
            if at > 0:
                variant.prefill.append(prefill)
                variant.decode.append(decode)
                progress.advance(task)
    for context in contexts:
        context.close()
    for model in models:
        model.close()


def _measure_likelihood(
    variant: Variant, texts: dict[str, list[str]], num_threads: int, progress: Progress
) -> None:
    model = LlamaModel(variant.path)
    context = LlamaContext(model, speed_config(num_threads))
    for lang, of_lang in texts.items():
        task = progress.add_task(f"{variant.name}, {lang}", total=len(of_lang))
        variant.likelihood[lang] = measure(
            model,
            context,
            of_lang,
            lambda task=task: progress.advance(task),  # type: ignore[misc]
        )
    context.close()
    model.close()


def _figures(variant: Variant, full: Variant) -> dict[str, object]:
    languages = {
        lang: {
            **asdict(found),
            "nll_per_character": round(found.nll_per_character, 4),
            "nll_ratio": round(
                found.nll_per_character / full.likelihood[lang].nll_per_character, 4
            ),
            "tokens_per_character": round(found.tokens_per_character, 4),
            "byte_share": round(found.byte_share, 5),
        }
        for lang, found in variant.likelihood.items()
    }
    return {
        "name": variant.name,
        "num_rows": variant.num_rows,
        "num_bytes": variant.path.stat().st_size,
        "prefill_tokens_per_s": round(statistics.median(variant.prefill), 1),
        "decode_tokens_per_s": round(statistics.median(variant.decode), 1),
        "languages": languages,
    }


def _is_good(figures: dict[str, object]) -> bool:
    languages = figures["languages"]
    assert isinstance(languages, dict)
    return all(
        found["nll_ratio"] <= MAX_NLL_RATIO and found["byte_share"] <= MAX_BYTE_SHARE
        for found in languages.values()
    )


def _print(figures: Sequence[dict[str, object]]) -> None:
    table = Table(title="vocabulary trimmed", title_justify="left", caption=str(describe_machine()))
    for column in ("model", "rows", "MB", "prefill tok/s", "decode tok/s"):
        table.add_column(column)
    for lang in ("ko", "en"):
        for column in ("NLL/char", "ratio", "tok/char", "bytes"):
            table.add_column(f"{lang} {column}")
    for row in figures:
        cells = [row["name"], row["num_rows"], f"{row['num_bytes'] / 1e6:.0f}"]  # type: ignore[operator]
        cells += [row["prefill_tokens_per_s"], row["decode_tokens_per_s"]]
        for found in row["languages"].values():  # type: ignore[attr-defined]
            cells += [found["nll_per_character"], found["nll_ratio"]]
            cells += [found["tokens_per_character"], f"{found['byte_share']:.2%}"]
        table.add_row(*map(str, cells))
    Console(width=None if Console().is_terminal else 170).print(table)
