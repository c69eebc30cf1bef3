"""Builds the default sentence encoder: the packaged E5, trimmed, with our adapter merged in.

The repository carries `default/encoder/adapter.safetensors` (LoRA, by `persona embedder train`) and
`calibration.json` (by `persona embedder calibrate`); the rest is made on the user's machine.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from export import folder_swap
from export.bert_graph import write_graph
from export.build import Reporter
from export.build_key import DEFAULT_FOLDER, hash_file
from export.errors import AdapterError, BuildError
from export.keep_rule import is_declared
from export.packaged_encoder import (
    BOS,
    EOS,
    LICENCE,
    NAME,
    PREFIX,
    UNK,
    Array,
    EncoderWeights,
    packaged_file,
    read_packaged,
)
from heads.bundle import file_sha256
from rag.calibration import CALIBRATION, Calibration
from rag.embedder import (
    FORMAT,
    GRAPH,
    RECORD,
    TOKENIZER,
    EmbedderError,
    EncoderRecord,
    FileHashes,
    OnnxEmbedder,
    read_record,
)

ENCODER_FOLDER = DEFAULT_FOLDER / "encoder"
ADAPTER = "adapter.safetensors"
MAX_TOKENS = 256
"""Longer texts are cut: an utterance may have 2,000 characters, which are read in vain."""

_RECIPE = ("bert_graph", "default_encoder", "keep_rule", "packaged_encoder")
_OWN = frozenset({GRAPH, TOKENIZER, RECORD, CALIBRATION})
_WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True)
class EncoderBuild:
    """What to build. `adapter` None: E5 as it is; `trim` False: every script stays."""

    out: Path
    adapter: Path | None
    calibration: Path | None
    force: bool = False


def build_encoder(options: EncoderBuild, reporter: Reporter) -> bool:
    """Builds `options.out`; False if it was there already, whole and of the same inputs.

    Raises ExportError; then, and on Ctrl-C, the previous folder is intact.
    """
    target = options.out.absolute()
    folder_swap.refuse_foreign(target, _OWN)
    key = _key(options)
    lock = folder_swap.locked(target, lambda: reporter.say("waiting for another build"))
    with lock:
        if not options.force and _is_current(target, key, reporter):
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


def merged(weights: EncoderWeights, adapter: dict[str, Array], name: Path) -> EncoderWeights:
    """With `scale · B A` added to each matrix that the adapter has `A [r, in]`, `B [out, r]` for.

    LoRA, Hu et al. 2021. Raises AdapterError where a matrix is missing or of another shape.
    """
    tensors = dict(weights.tensors)
    scale = float(adapter["scale"][0]) if "scale" in adapter else 1.0
    for key in sorted(adapter):
        if not key.endswith(".A"):
            continue
        target, down, up = f"{key[:-2]}.weight", adapter[key], adapter.get(f"{key[:-2]}.B")
        matrix = tensors.get(target)
        if matrix is None or up is None or matrix.shape != (up.shape[0], down.shape[1]):
            remedy = "train it again with `persona embedder train`"
            raise AdapterError(name, f"LoRA factors for {target}", key, remedy)
        product = up.astype(np.float32) @ down.astype(np.float32)
        tensors[target] = matrix + scale * product
    return replace(weights, tensors=tensors)


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


def adapter_name(path: Path | None) -> str:
    """What a calibration calls the encoder that it was fitted on."""
    return f"adapter@{hash_file(path)[:12]}" if path else "base"


def _fill(folder: Path, options: EncoderBuild, key: str, reporter: Reporter) -> None:
    reporter.stage("reading the packaged encoder")
    weights = trimmed(read_packaged())
    if options.adapter:
        weights = merged(weights, load_file(options.adapter), options.adapter)
    reporter.stage("writing the int8 graph")
    write_graph(weights, folder / GRAPH)
    make_tokenizer(weights).save(str(folder / TOKENIZER))
    record = EncoderRecord(
        format=FORMAT,
        source=f"{NAME}+{adapter_name(options.adapter)}",
        licence=LICENCE,
        dim=weights.dim,
        max_tokens=min(MAX_TOKENS, weights.max_tokens),
        pooling="mean",
        prefix=PREFIX,
        quantisation="any",
        cosine=None,
        build=key,
        files=FileHashes(file_sha256(folder / GRAPH), file_sha256(folder / TOKENIZER)),
    )
    (folder / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    if options.calibration:
        calibration = _calibration(options)
        named = msgspec.structs.replace(calibration, embedder=OnnxEmbedder(folder).id)
        (folder / CALIBRATION).write_bytes(msgspec.json.encode(named))


def _calibration(options: EncoderBuild) -> Calibration:
    path = options.calibration
    assert path is not None
    remedy = "run `persona embedder calibrate`"
    try:
        calibration = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError) as error:
        raise BuildError(path, "a calibration", str(error), remedy) from error
    if (wanted := adapter_name(options.adapter)) != calibration.embedder:
        raise BuildError(path, f"a calibration of {wanted}", calibration.embedder, remedy)
    return calibration


def _key(options: EncoderBuild) -> str:
    """Hex SHA-256 of all that the encoder is made of."""
    inputs = [packaged_file(), options.adapter, options.calibration]
    inputs += [Path(__file__).with_name(f"{name}.py") for name in _RECIPE]
    parts = [str(FORMAT), *(hash_file(path) if path else "-" for path in inputs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_current(target: Path, key: str, reporter: Reporter) -> bool:
    if not (target / RECORD).is_file():
        return False
    try:
        record = read_record(target)
        OnnxEmbedder(target)
    except EmbedderError as error:
        reporter.say(f"building again: {error}")
        return False
    return record.build == key
