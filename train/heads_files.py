"""Heads on disk: those that a run trained, and `heads.onnx` with its record for a bundle."""

from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import onnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from export.heads_graph import ClueTable, linear_graph
from heads.agreement import AgreementFile
from heads.bundle import AGREEMENT, HEADS, HEADS_RECORD, HeadsRecord
from heads.spec import DeltaSpec, FlagSpec, HeadSpec
from train.commands import write_all, write_whole
from train.dataset import DatasetError
from train.fit_clues import BlendedHeads
from train.fit_heads import LinearHeads

HEADS_WEIGHTS = "heads.safetensors"

Heads: TypeAlias = LinearHeads | BlendedHeads


def read_trained_heads(folder: Path) -> LinearHeads:
    """The heads in `folder`/heads.safetensors, of temperature 1 and thresholds of one half.

    A raised flag was weighted by `pos_weight` in training, which multiplies its odds by as much;
    they are divided by it here. Raises DatasetError.
    """
    path = folder / HEADS_WEIGHTS
    try:
        parts = {name: value.astype(np.float64) for name, value in load_file(path).items()}
        return LinearHeads(
            mean=parts["mean"],
            scale=parts["scale"],
            w_delta=parts["delta.weight"].T,
            b_delta=parts["delta.bias"],
            w_flag=parts["flag.weight"].T,
            b_flag=parts["flag.bias"] - np.log(parts["pos_weight"]),
            temperature=1.0,
            thresholds=np.full(len(parts["flag.bias"]), 0.5),
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise DatasetError(f"{path}: no heads of `persona train`: {error}") from error


def head_spec(heads: Heads, delta_names: list[str], flag_names: list[str]) -> HeadSpec:
    """Names, thresholds and temperature as a manifest has them."""
    linear = heads.states if isinstance(heads, BlendedHeads) else heads
    flags = zip(flag_names, linear.thresholds, strict=True)
    return HeadSpec(
        tuple(DeltaSpec(name) for name in delta_names),
        tuple(FlagSpec(name, round(float(threshold), 4)) for name, threshold in flags),
        temperature=round(linear.temperature, 4),
    )


def heads_graph(heads: Heads) -> bytes:
    """`heads.onnx`: temperature inside, checked by onnx.checker."""
    linear, clues = heads, None
    if isinstance(heads, BlendedHeads):
        linear, found = heads.states, heads.clues
        clues = ClueTable(found.keys, found.table, found.scale, found.bias, heads.delta_share)
    assert isinstance(linear, LinearHeads)
    flag = (linear.w_flag / linear.temperature, linear.b_flag / linear.temperature)
    delta = (linear.w_delta, linear.b_delta)
    graph = linear_graph(linear.mean, linear.scale, delta, flag, clues)
    return bytes(onnx.ModelProto.SerializeToString(graph))


def write_heads(folder: Path, heads: Heads, record: HeadsRecord) -> None:
    """Write `heads.onnx` and `heads.json`, from which a bundle is built.

    To stop between leaves no record, and without one nothing is built.
    """
    folder.mkdir(parents=True, exist_ok=True)
    raw = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    written = {folder / HEADS: heads_graph(heads), folder / HEADS_RECORD: raw}
    write_all(written, sealed_by=folder / HEADS_RECORD)


def write_agreement(folder: Path, file: AgreementFile) -> None:
    """Write `agreement.json` beside the heads, as a bundle has it."""
    write_whole(folder / AGREEMENT, msgspec.json.encode(file) + b"\n")
