"""Builds the default sentence encoder: the packaged E5, its vocabulary trimmed, in int8.

The repository carries `default/encoder/calibration.json` (by `persona embedder calibrate`) and
`attacks.safetensors` (by `persona triggers teach`); the rest is made on the user's machine.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from export import folder_swap
from export.attack_adapter import TEACH, AttackAdapter, read_adapter
from export.bert_graph import write_attack_graph, write_graph
from export.build_key import DEFAULT_FOLDER, hash_file
from export.errors import BuildError
from export.keep_rule import is_declared
from export.packaged_encoder import (
    BOS,
    EOS,
    LICENCE,
    NAME,
    PREFIX,
    UNK,
    EncoderWeights,
    packaged_file,
    read_packaged,
)
from export.reporter import Reporter
from heads.attacks import default_detector
from heads.bundle import file_sha256
from rag.calibration import CALIBRATION, Calibration, read_calibration
from rag.embedder import (
    ATTACKS,
    FORMAT,
    GRAPH,
    RECORD,
    TOKENIZER,
    EmbedderError,
    EncoderRecord,
    FileHashes,
    OnnxEmbedder,
    TaughtRecord,
    read_record,
)

ENCODER_FOLDER = DEFAULT_FOLDER / "encoder"
MAX_TOKENS = 256
"""Longer texts are cut: an utterance may have 2,000 characters, which are read in vain."""

_RECIPE = ("attack_adapter", "bert_graph", "default_encoder", "keep_rule", "packaged_encoder")
_OWN = frozenset({GRAPH, TOKENIZER, RECORD, CALIBRATION, ATTACKS})
_WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True)
class EncoderBuild:
    """Where to, and what to put beside it; None: that is yet to be made."""

    out: Path
    calibration: Path | None
    adapter: Path | None = None
    """What it was taught about attacks."""
    force: bool = False


def build_encoder(options: EncoderBuild, reporter: Reporter) -> bool:
    """Builds `options.out`; False if it was there already, whole and of the same inputs.

    Raises ExportError; then, and on Ctrl-C, the previous folder is intact.
    """
    target = options.out.absolute()
    folder_swap.refuse_foreign(target, _OWN)
    key = _key(options)
    lock = folder_swap.locked(target, lambda: reporter.say("waiting for another build"))
    with folder_swap.write_errors_told(target), lock:
        if not options.force and _is_current(target, key, options, reporter):
            reporter.say(f"{target} is up to date")
            return False
        with folder_swap.replaced(target) as folder:
            _fill(folder, options, key, reporter)
    reporter.say(f"built {target}")
    return True


def trimmed(weights: EncoderWeights) -> EncoderWeights:
    """Without the pieces that hold a character of an undeclared script.

    The others are cut from a text as before, for a dropped piece never matched declared characters.
    """
    kept = [
        number
        for number, (piece, _) in enumerate(weights.pieces)
        if number <= UNK or all(is_declared(char) for char in piece.replace("▁", ""))
    ]
    words = weights.tensors[_WORDS][kept]
    pieces = [weights.pieces[number] for number in kept]
    return replace(weights, pieces=pieces, tensors={**weights.tensors, _WORDS: words})


def make_tokenizer(weights: EncoderWeights) -> Tokenizer:
    """The Unigram tokenizer of E5: NFKC, white space as `▁`, `<s>` and `</s>` around the text."""
    tokenizer = Tokenizer(models.Unigram(weights.pieces, unk_id=UNK))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return tokenizer


def _fill(folder: Path, options: EncoderBuild, key: str, reporter: Reporter) -> None:
    adapter = read_adapter(options.adapter) if options.adapter else None
    reporter.stage("reading the packaged encoder")
    weights = trimmed(read_packaged())
    reporter.stage("writing the int8 graph")
    write_graph(weights, folder / GRAPH)
    make_tokenizer(weights).save(str(folder / TOKENIZER))
    if adapter:
        reporter.stage("writing what it was taught about attacks")
        _write_attacks(adapter, weights, folder, options)
    record = EncoderRecord(
        format=FORMAT,
        source=NAME,
        licence=LICENCE,
        dim=weights.dim,
        max_tokens=min(MAX_TOKENS, weights.max_tokens),
        pooling="mean",
        prefix=PREFIX,
        quantisation="any",
        cosine=None,
        build=key,
        files=FileHashes(file_sha256(folder / GRAPH), file_sha256(folder / TOKENIZER)),
        attacks=TaughtRecord(file_sha256(folder / ATTACKS), adapter.record.blend)
        if adapter
        else None,
    )
    (folder / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    if options.calibration:
        calibration = _calibration(options)
        named = msgspec.structs.replace(calibration, embedder=record.id)
        (folder / CALIBRATION).write_bytes(msgspec.json.encode(named))


def _write_attacks(
    adapter: AttackAdapter, weights: EncoderWeights, folder: Path, options: EncoderBuild
) -> None:
    path, ngrams = options.adapter, default_detector().id
    assert path is not None
    if adapter.record.blend.ngrams != ngrams:
        expected = f"one that was weighed beside the n-grams {ngrams} of heads/attacks.json"
        remedy = "run `persona triggers weigh WORLD`"
        raise BuildError(path, expected, adapter.record.blend.ngrams, remedy)
    try:
        taught = adapter.applied_to(weights)
    except ValueError as error:
        raise BuildError(path, f"tensors of {NAME}", str(error), TEACH) from error
    write_attack_graph(taught, *adapter.head, folder / ATTACKS)


def _calibration(options: EncoderBuild) -> Calibration:
    path = options.calibration
    assert path is not None
    remedy = "run `persona embedder calibrate`"
    try:
        calibration = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError) as error:
        raise BuildError(path, "a calibration", str(error), remedy) from error
    if calibration.embedder != NAME:
        raise BuildError(path, f"a calibration of {NAME}", calibration.embedder, remedy)
    return calibration


def _key(options: EncoderBuild) -> str:
    """Hex SHA-256 of all that the encoder is made of."""
    inputs = [packaged_file(), options.calibration, options.adapter]
    inputs += [Path(__file__).with_name(f"{name}.py") for name in _RECIPE]
    parts = [str(FORMAT), *(hash_file(path) if path else "-" for path in inputs)]
    parts += [default_detector().id] if options.adapter else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_current(target: Path, key: str, options: EncoderBuild, reporter: Reporter) -> bool:
    if not (target / RECORD).is_file():
        return False
    try:
        record = read_record(target)
        OnnxEmbedder(target)
        if options.calibration:
            read_calibration(str(target), record.id)
    except EmbedderError as error:
        reporter.say(f"building again: {error}")
        return False
    return record.build == key
