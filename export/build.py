"""Builds a bundle: base, trimmed, special tokens claimed, adapter merged, quantised, heads added.

The same inputs and options give the same bytes, so a bundle whose recorded key matches and whose
files are whole is left as it is. `model_only` writes the weights alone, for `persona heads fit`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from export import base_model, convert_hf, folder_swap, trim_vocab
from export.build_key import BuildOptions, build_key, hash_file
from export.errors import BuildError, VocabularyError
from export.gguf_file import GgufModel, read_gguf
from export.keep_rule import KeepRule, corpus_rule, script_rule
from export.merge_lora import merge
from export.quantise import write_quantised
from export.reporter import Reporter
from export.special_tokens import claim, special_ids
from export.vocabulary import model_vocabulary_sha256, read_vocabulary
from heads.agreement import read_agreement
from heads.bundle import (
    AGREEMENT,
    FORMAT,
    HEADS,
    HEADS_RECORD,
    MANIFEST,
    MODEL,
    Base,
    BundleError,
    FileEntry,
    HeadsRecord,
    Manifest,
    file_sha256,
    load_bundle,
)
from heads.session import HeadsSession
from runtime.llama_backend import LlamaModel
from runtime.prompt import FORMAT as PROMPT_FORMAT

MODEL_RECORD = "model.json"
NOTICE = "LICENSES/NOTICE.txt"
REFIT = "run `persona heads fit` on the output of `persona bundle build --model-only`"

_OWN = frozenset({MANIFEST, MODEL, HEADS, HEADS_RECORD, AGREEMENT, MODEL_RECORD, "LICENSES"})


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model once it is built; `model.json` of a model-only build."""

    build: str
    base: Base
    architecture: str
    quantisation: str
    n_embd: int
    n_ctx_train: int
    special_tokens: dict[str, int]
    num_tokens: int
    model: FileEntry


def build(options: BuildOptions, reporter: Reporter) -> bool:
    """Builds `options.out`; False if it was there already, whole and of the same inputs.

    Raises ExportError or BundleError; then, and on Ctrl-C, the previous folder is intact.
    """
    target = options.out.absolute()
    folder_swap.refuse_foreign(target, _OWN)
    if not options.model_only:
        read_heads_record(options.heads)
    key = build_key(options)
    lock = folder_swap.locked(target, lambda: reporter.say("waiting for another build"))
    with folder_swap.write_errors_told(target), lock:
        if not options.force and is_current(target, key, reporter):
            reporter.say(f"{target} is up to date")
            return False
        with folder_swap.replaced(target) as folder:
            _fill(folder, options, key, reporter)
    reporter.say(f"built {target}")
    return True


def is_current(target: Path, key: str, reporter: Reporter) -> bool:
    """Whether `target` was built with this key and nothing of it has changed since."""
    try:
        if (target / MODEL_RECORD).is_file():
            raw = (target / MODEL_RECORD).read_bytes()
            record = msgspec.json.decode(raw, type=ModelRecord)
            return record.build == key and hash_file(target / MODEL) == record.model.sha256
        if not (target / MANIFEST).is_file():
            return False
        manifest = load_bundle(target, verify_hashes=False).manifest
        if manifest.training.get("build") != key:
            return False
        size = sum(entry.size for entry in manifest.files)
        load_bundle(target, on_progress=reporter.stage("verifying", size))
    except (BundleError, BuildError, msgspec.DecodeError, OSError) as error:
        reporter.say(f"building again: {error}")
        return False
    return True


def _fill(folder: Path, options: BuildOptions, key: str, reporter: Reporter) -> None:
    base = _bring_base(options.base, folder / "base.gguf", reporter)
    model, merged, changes = _make_model(base, options, reporter)
    record = None if options.model_only else _matching_heads(options.heads, model)
    special_tokens = _write_model(model, folder / MODEL, options, merged, reporter)
    if options.trim:
        reporter.stage("checking the vocabulary")
        _check_vocabulary(base, folder / MODEL)
    if base != options.base:
        base.unlink()
    (folder / NOTICE).parent.mkdir()
    (folder / NOTICE).write_text(base_model.notice(model, changes), encoding="utf-8")
    if base_model.is_non_commercial(model):
        reporter.say(f"note: the licence of {base_model.name(model)} is for non-commercial use")
    made = _describe(model, folder, options, key, special_tokens)
    if record is None:
        (folder / MODEL_RECORD).write_bytes(_json(made))
    else:
        _add_heads(folder, options, made, record)


def _bring_base(source: Path | None, path: Path, reporter: Reporter) -> Path:
    """The base as GGUF: `source` itself, or at `path` what is made of a folder or the package."""
    if source is None:
        reporter.stage("assembling the packaged base")
        base_model.assemble(path)
    elif source.is_dir():
        reporter.stage("converting Hugging Face weights")
        convert_hf.convert(source, path)
    else:
        return source
    return path


def _make_model(
    base: Path, options: BuildOptions, reporter: Reporter
) -> tuple[GgufModel, set[str], list[str]]:
    """The model to write, the tensors that an adapter changed, and what was done in words."""
    model, changes, merged = read_gguf(base), list[str](), set[str]()
    if options.trim:
        reporter.stage("trimming the vocabulary")
        model, report = trim_vocab.trim(model, _rule(base, options.corpus))
        changes.append(f"vocabulary cut from {report.num_before:,} to {report.num_after:,} entries")
        reporter.say(changes[-1])
    model, _ = claim(model)
    changes.append(
        "unused vocabulary entries given to seven special tokens, with rows of their own"
    )
    if options.adapter is not None:
        reporter.stage("merging the adapter")
        model, merged = merge(model, options.adapter)
        changes.append("a LoRA adapter, trained for dialogue with game characters, merged in")
    changes.append(f"weights written as {options.quant}")
    return model, merged, changes


def _rule(base: Path, corpus: Sequence[Path]) -> KeepRule:
    if not corpus:
        return script_rule
    model = LlamaModel(base, vocab_only=True)
    try:
        lines = (line for path in corpus for line in path.read_text("utf-8").splitlines(True))
        return corpus_rule({token for line in lines for token in model.tokenize(line)})
    except (OSError, UnicodeDecodeError) as error:
        remedy = "give text files in UTF-8"
        raise BuildError("--corpus", "readable text", str(error), remedy) from error
    finally:
        model.close()


def _write_model(
    model: GgufModel, path: Path, options: BuildOptions, merged: set[str], reporter: Reporter
) -> dict[str, int]:
    size = sum(tensor.num_bytes for tensor in model.tensors.values())
    done = reporter.stage(f"writing weights as {options.quant}", size)
    write_quantised(model, path, options.quant, merged=merged, on_bytes=done)
    return special_ids(read_vocabulary(model))


def _check_vocabulary(base: Path, model: Path) -> None:
    if problems := trim_vocab.check(base, model):
        found = f"{len(problems)} differences, such as {problems[0]}"
        remedy = "build with --no-trim, and report this base"
        raise VocabularyError(model, "the base's tokenisation of all that was kept", found, remedy)


def _describe(
    model: GgufModel, folder: Path, options: BuildOptions, key: str, special_tokens: dict[str, int]
) -> ModelRecord:
    architecture = model.architecture
    return ModelRecord(
        build=key,
        base=Base(
            base_model.name(model), base_model.licence(model), model_vocabulary_sha256(model)
        ),
        architecture=architecture,
        quantisation=options.quant,
        n_embd=model.get(f"{architecture}.embedding_length"),
        n_ctx_train=model.get(f"{architecture}.context_length"),
        special_tokens=special_tokens,
        num_tokens=model.tensors["token_embd.weight"].shape[0],
        model=_entry(folder, MODEL),
    )


def read_heads_record(folder: Path) -> HeadsRecord:
    """`heads.json` beside `heads.onnx`. Raises BuildError."""
    path = folder / HEADS_RECORD
    try:
        record = msgspec.json.decode(path.read_bytes(), type=HeadsRecord)
    except (OSError, RecursionError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise BuildError(path, "the record of fitted heads", str(error), REFIT) from error
    if not (folder / HEADS).is_file():
        raise BuildError(folder / HEADS, "the heads' ONNX graph", "none", REFIT)
    return record


def _matching_heads(folder: Path, model: GgufModel) -> HeadsRecord:
    record = read_heads_record(folder)
    if (found := model_vocabulary_sha256(model)) != record.vocabulary_sha256:
        expected = f"heads fitted on vocabulary {found}"
        raise BuildError(folder / HEADS_RECORD, expected, record.vocabulary_sha256, REFIT)
    n_embd = model.get(f"{model.architecture}.embedding_length")
    HeadsSession(folder / HEADS, record.heads, n_embd)
    return record


def _add_heads(folder: Path, options: BuildOptions, made: ModelRecord, record: HeadsRecord) -> None:
    names = [name for name in (HEADS, AGREEMENT) if (options.heads / name).is_file()]
    for name in names:
        shutil.copyfile(options.heads / name, folder / name)
    HeadsSession(folder / HEADS, record.heads, made.n_embd)
    if AGREEMENT in names:
        read_agreement(folder / AGREEMENT)
    manifest = Manifest(
        format=FORMAT,
        name=options.out.absolute().name,
        base=made.base,
        architecture=made.architecture,
        quantisation=made.quantisation,
        n_embd=made.n_embd,
        n_ctx_train=made.n_ctx_train,
        prompt_format=PROMPT_FORMAT,
        special_tokens=made.special_tokens,
        heads=record.heads,
        context=record.context,
        files=(made.model, *(_entry(folder, name) for name in (*names, NOTICE))),
        training={**record.training, "build": made.build},
        evaluation=record.evaluation,
        parity=record.parity,
    )
    (folder / MANIFEST).write_bytes(_json(manifest))


def _entry(folder: Path, name: str) -> FileEntry:
    path = folder / name
    return FileEntry(name, path.stat().st_size, file_sha256(path))


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
