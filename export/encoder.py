"""Exports a Hugging Face sentence encoder to ONNX: mean pooling inside, int8, held against PyTorch.

The folder is what `rag.embedder.OnnxEmbedder` opens, and it is through that class that the check
reads it.
"""

import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from export import folder_swap
from export.errors import ExportError
from export.reporter import Reporter
from heads.bundle import file_sha256
from rag.embedder import (
    FORMAT,
    GRAPH,
    OUTPUT,
    RECORD,
    TOKENIZER,
    Agreement,
    EncoderRecord,
    FileHashes,
    OnnxEmbedder,
    Quantisation,
)

MIN_COSINE = 0.95

SENTENCES = (
    "그 반지 혹시 저한테 주실 수 있나요?",
    "어제는 제가 심한 말을 했어요. 정말 미안해요.",
    "꺼져, 너 같은 놈하고는 할 말 없어.",
    "등대 밑에서 부서진 배를 봤는데 누구 배인지 아세요?",
    "오늘 날씨가 참 좋네요.",
    "물고기 세 마리랑 빵 한 덩이만 주세요.",
    "나는 왕의 명령을 받고 온 기사다, 문을 열어라!",
    "ㅋㅋㅋ 그게 뭐야 진짜 웃기다",
    "Could I have that ring, please?",
    "I said terrible things yesterday, and I am truly sorry.",
    "Get lost, I have nothing to say to the likes of you.",
    "I saw a wrecked boat under the lighthouse. Do you know whose it is?",
    "What lovely weather we are having today.",
    "Three fish and a loaf of bread, if you please.",
    "I am a knight on the king's errand. Open the gate!",
    "lol what is that, so funny",
    "The keeper told me where the old key is hidden, and the wind was rising. " * 60,
)
"""What is compared with PyTorch; the last is longer than any encoder reads."""

_HIDDEN = "last_hidden_state"
_POOLED = {"Transformer", "Pooling", "Normalize"}
_OFFSET_POSITIONS = {"camembert", "mpnet", "roberta", "xlm-roberta"}
_LICENCE = re.compile(r"\A---\n(?:(?!---\n).*\n)*?license:[ \t]*(?P<name>\S.*)\n")
_OWN = frozenset({GRAPH, RECORD, TOKENIZER})


class EncoderError(ExportError):
    """A sentence encoder cannot be exported, or its export differs too much from it."""


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """What to export. `name` None: the folder's; `force`: keep it however much it differs."""

    model: Path
    out: Path
    quantisation: Quantisation = "arm64"
    name: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class _Source:
    """A Hugging Face encoder on disk."""

    folder: Path
    config: Any
    tokenizer: Any
    max_tokens: int


def export_encoder(options: EncoderOptions, reporter: Reporter) -> EncoderRecord:
    """Writes the folder `options.out`; its record.

    Raises ExportError or EmbedderError; then, and on Ctrl-C, the previous folder is intact.
    """
    target = options.out.absolute()
    folder_swap.refuse_foreign(target, _OWN)
    with _quiet():
        source = _read_source(options.model)
    lock = folder_swap.locked(target, lambda: reporter.say("waiting for another export"))
    writing = folder_swap.write_errors_told(target)
    with _quiet(), writing, lock, folder_swap.replaced(target) as folder:
        reporter.stage("exporting the graph")
        dim = _write_graph(source, folder, options.quantisation, reporter)
        _write_tokenizer(source, folder / TOKENIZER)
        record = EncoderRecord(
            format=FORMAT,
            source=options.name or options.model.resolve().name,
            licence=_licence(options.model),
            dim=dim,
            max_tokens=source.max_tokens,
            pooling="mean",
            quantisation=options.quantisation,
            cosine=None,
            files=FileHashes(file_sha256(folder / GRAPH), file_sha256(folder / TOKENIZER)),
        )
        _write_record(folder, record)
        reporter.stage("comparing with PyTorch")
        record = msgspec.structs.replace(record, cosine=_measure(source, folder, options, reporter))
        _write_record(folder, record)
    reporter.say(f"wrote {target}")
    return record


def _read_source(folder: Path) -> _Source:
    if not (folder / "config.json").is_file():
        remedy = "give a local folder that save_pretrained wrote or `hf download` filled"
        raise EncoderError(folder, "a Hugging Face model with config.json", "none", remedy)
    _check_pooling(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever the model's own classes raise
        remedy = "complete the folder with the model's configuration and tokenizer files"
        raise EncoderError(folder, "an encoder and its tokenizer", str(error), remedy) from error
    if not tokenizer.is_fast:
        remedy = "convert its tokenizer to a tokenizer.json first"
        raise EncoderError(folder, "a fast tokenizer", type(tokenizer).__name__, remedy)
    return _Source(folder, config, tokenizer, _max_tokens(folder, config, tokenizer))


def _check_pooling(folder: Path) -> None:
    """A sentence-transformers model must end in mean pooling; a bare encoder is given it."""
    modules = _json(folder / "modules.json") or []
    kinds = {module["type"].rpartition(".")[2]: folder / module["path"] for module in modules}
    if others := sorted(set(kinds) - _POOLED):
        remedy = "choose an encoder that ends in mean pooling"
        expected = f"modules {', '.join(sorted(_POOLED))}"
        raise EncoderError(folder / "modules.json", expected, f"also {', '.join(others)}", remedy)
    if "Pooling" not in kinds:
        return
    path = kinds["Pooling"] / "config.json"
    pooling = _json(path) or {}
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value]
    if pooling.get("pooling_mode", modes) not in ("mean", ["pooling_mode_mean_tokens"]):
        found = str(pooling.get("pooling_mode", ", ".join(modes) or "none"))
        raise EncoderError(path, "mean pooling", found, "choose an encoder with mean pooling")


def _max_tokens(folder: Path, config: Any, tokenizer: Any) -> int:
    """The smallest of the limits that model and tokenizer name, special tokens included."""
    before = config.pad_token_id + 1 if config.model_type in _OFFSET_POSITIONS else 0
    limits = [tokenizer.model_max_length]
    if positions := getattr(config, "max_position_embeddings", None):
        limits.append(positions - before)
    if limit := (_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length"):
        limits.append(limit)
    return int(min(limits))


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes()) if path.is_file() else None
    except msgspec.DecodeError as error:
        raise EncoderError(path, "JSON", str(error), "download the model again") from error


def _licence(folder: Path) -> str:
    """What the model card's front matter names."""
    card = folder / "README.md"
    match = _LICENCE.match(card.read_text("utf-8", errors="replace")) if card.is_file() else None
    return match["name"].strip() if match else "unknown"


def _write_graph(
    source: _Source, folder: Path, quantisation: Quantisation, reporter: Reporter
) -> int:
    """Writes the graph; the width of its vectors."""
    work = folder / "work"
    try:
        main_export(
            str(source.folder),
            output=work,
            task="feature-extraction",
            library_name="transformers",
            local_files_only=True,
            do_validation=False,  # _measure asks for more
        )
    except Exception as error:  # optimum's and the model's errors share no base class
        remedy = "choose an encoder of an architecture that optimum knows"
        raise EncoderError(source.folder, "an encoder to export", str(error), remedy) from error
    if (work / "model.onnx_data").exists():
        remedy = "choose a smaller encoder: this one would take seconds a sentence"
        raise EncoderError(source.folder, "an encoder below 2 GB", "a larger one", remedy)
    graph = work / GRAPH
    model = onnx.load(work / "model.onnx")
    dim = _add_pooling(source.folder, model)
    onnx.save(model, graph)
    if quantisation != "none":
        reporter.stage(f"quantising for {quantisation}")
        graph = _quantise(graph, model, quantisation, source.config)
    graph.rename(folder / GRAPH)
    shutil.rmtree(work)
    return dim


def _add_pooling(folder: Path, model: onnx.ModelProto) -> int:
    """Makes the graph give unit vectors; their width.

    The sum over the tokens points where their mean does. It is no MatMul, which would be quantised.
    """
    graph = model.graph
    shapes = {out.name: out.type.tensor_type.shape.dim for out in graph.output}
    if _HIDDEN not in shapes:
        found = ", ".join(shapes)
        raise EncoderError(folder, f"output `{_HIDDEN}`", found, "choose a text encoder")
    dim = int(shapes[_HIDDEN][-1].dim_value)
    axes = {"pool_tokens": 1, "pool_width": 2}
    graph.initializer.extend(numpy_helper.from_array(np.array([v]), k) for k, v in axes.items())
    graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["pool_mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["pool_mask", "pool_width"], ["pool_column"]),
            helper.make_node("Mul", [_HIDDEN, "pool_column"], ["pool_kept"]),
            helper.make_node("ReduceSum", ["pool_kept", "pool_tokens"], ["pool_sum"], keepdims=0),
            helper.make_node("LpNormalization", ["pool_sum"], [OUTPUT], axis=1, p=2),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", dim]))
    onnx.checker.check_model(model, full_check=True)
    return dim


def _quantise(path: Path, model: onnx.ModelProto, target: Quantisation, config: Any) -> Path:
    """Dynamic int8 of the weights; the new file.

    Products of two activations stay in floats, as onnxruntime's own default has it: int8 there
    takes 0.002 to 0.01 of the smallest cosine of 256 texts and saves no time (MiniLM).
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and weights.isdisjoint(node.input)
    ]
    make_settings = getattr(AutoQuantizationConfig, target)
    settings = make_settings(is_static=False, per_channel=True, nodes_to_exclude=products)
    ORTQuantizer(path, config=config).quantize(settings, save_dir=path.parent / "quantised")
    return path.parent / "quantised" / f"{path.stem}_quantized.onnx"


def _write_tokenizer(source: _Source, path: Path) -> None:
    backend = source.tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(path))


def _measure(
    source: _Source, folder: Path, options: EncoderOptions, reporter: Reporter
) -> Agreement:
    """Raises EncoderError below MIN_COSINE, unless forced."""
    cosines = (OnnxEmbedder(folder).encode(SENTENCES) * _reference(source)).sum(axis=1)
    worst = SENTENCES[int(cosines.argmin())][:60]
    found = Agreement(float(cosines.min()), float(cosines.mean()), len(SENTENCES))
    reporter.say(
        f"cosine with PyTorch over {found.num_sentences} sentences: "
        f"mean {found.mean:.4f}, smallest {found.min:.4f} ({worst!r})"
    )
    if not (found.min >= MIN_COSINE or options.force):
        expected = f"a cosine with PyTorch of {MIN_COSINE} or more for every sentence"
        remedy = "export with another --target or --no-quantise, or keep it with --force"
        raise EncoderError(options.model, expected, f"{found.min:.4f} for {worst!r}", remedy)
    return found


def _reference(source: _Source) -> npt.NDArray[np.float32]:
    """Unit vectors of SENTENCES by PyTorch, float32 [len(SENTENCES), dim]."""
    model = AutoModel.from_pretrained(source.folder, local_files_only=True).float().eval()
    rows = []
    with torch.inference_mode():
        for text in SENTENCES:
            tokens = source.tokenizer(
                text, truncation=True, max_length=source.max_tokens, return_tensors="pt"
            )
            mean = model(**tokens).last_hidden_state.mean(dim=1)
            rows.append(torch.nn.functional.normalize(mean).numpy())
    return np.concatenate(rows)


def _write_record(folder: Path, record: EncoderRecord) -> None:
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    (folder / RECORD).write_bytes(text + b"\n")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own insides: tracing and deprecated calls."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
