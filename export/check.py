"""`persona bundle check`: all that can be verified of a bundle without serving it."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gguf import TokenType
from rich.console import Console
from rich.table import Table
from rich.text import Text

from export.errors import ExportError
from export.gguf_file import GgufModel, read_gguf
from export.vocabulary import model_vocabulary_sha256, read_vocabulary
from heads.agreement import read_agreement
from heads.bundle import (
    AGREEMENT,
    HEADS,
    MANIFEST,
    MODEL,
    REBUILD,
    BundleError,
    Manifest,
    check_file,
    read_manifest,
)
from heads.session import HeadsSession
from runtime.prompt import FORMAT as PROMPT_FORMAT
from runtime.prompt import Special


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `problem` says what is wrong and how to mend it."""

    subject: str
    problem: str | None = None


def run_check(args: argparse.Namespace) -> int:
    """Prints a table of findings; 1 if there is a problem among them."""
    findings = check_bundle(args.folder)
    table = Table(title=Text(str(args.folder)), title_justify="left")
    table.add_column("checked")
    table.add_column("result", overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.subject), Text(finding.problem or "ok"))
    Console(width=None if Console().is_terminal else 160).print(table)
    return int(any(finding.problem for finding in findings))


def check_bundle(folder: Path) -> list[Finding]:
    """Everything that was looked at in the bundle in `folder`; goes on after a problem."""
    try:
        manifest = read_manifest(folder)
    except BundleError as error:
        return [Finding("manifest", str(error))]
    findings = [
        Finding("manifest", _problem(lambda: _check_manifest(folder, manifest))),
        *(
            Finding(entry.path, _problem(lambda entry=entry: check_file(folder, entry)))  # type: ignore[misc]
            for entry in manifest.files
        ),
    ]
    is_inside = {finding.subject: finding.problem is None for finding in findings}
    if is_inside.get(HEADS):
        findings.append(Finding("heads", _problem(lambda: _check_heads(folder, manifest))))
    if is_inside.get(AGREEMENT):
        findings.append(Finding("agreement", _problem(lambda: _check_agreement(folder))))
    if is_inside.get(MODEL):
        findings += _check_model(folder / MODEL, manifest)
    return findings


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except (BundleError, ExportError) as error:
        return str(error)
    return None


def _check_manifest(folder: Path, manifest: Manifest) -> None:
    path = folder / MANIFEST
    for required in (MODEL, HEADS):
        if manifest.entry(required) is None:
            raise BundleError(path, f"an entry for {required}", "none", REBUILD)
    if manifest.prompt_format != PROMPT_FORMAT:
        remedy = "update persona-chat-engine, or build the bundle again"
        expected, found = f"prompt format {PROMPT_FORMAT}", str(manifest.prompt_format)
        raise BundleError(path, expected, found, remedy)
    if set(manifest.special_tokens) != set(Special):
        found = ", ".join(sorted(manifest.special_tokens)) or "none"
        raise BundleError(path, "ids of " + " ".join(Special), found, REBUILD)


def _check_heads(folder: Path, manifest: Manifest) -> None:
    HeadsSession(folder / HEADS, manifest.heads, manifest.n_embd)


def _check_agreement(folder: Path) -> None:
    read_agreement(folder / AGREEMENT)


def _check_model(path: Path, manifest: Manifest) -> list[Finding]:
    try:
        model = read_gguf(path)
    except ExportError as error:
        return [Finding("model", str(error))]
    checks = {"model": _check_shape, "special tokens": _check_specials, "vocabulary": _check_hash}
    return [
        Finding(subject, _problem(lambda check=check: check(path, model, manifest)))  # type: ignore[misc]
        for subject, check in checks.items()
    ]


def _check_shape(path: Path, model: GgufModel, manifest: Manifest) -> None:
    n_embd = model.get(f"{model.architecture}.embedding_length")
    expected = f"{manifest.architecture} with n_embd {manifest.n_embd}"
    if (found := f"{model.architecture} with n_embd {n_embd}") != expected:
        raise BundleError(path, expected, found, REBUILD)


def _check_specials(path: Path, model: GgufModel, manifest: Manifest) -> None:
    vocabulary = read_vocabulary(model)
    for name, token in manifest.special_tokens.items():
        found = "no such entry"
        if token < len(vocabulary.tokens):
            found = f"{vocabulary.tokens[token]} of type {vocabulary.types[token].name}"
        if found != (expected := f"{name} of type {TokenType.CONTROL.name}"):
            raise BundleError(path, f"token {token} to be {expected}", found, REBUILD)


def _check_hash(path: Path, model: GgufModel, manifest: Manifest) -> None:
    expected, found = manifest.base.vocabulary_sha256, model_vocabulary_sha256(model)
    if found != expected:
        raise BundleError(path, f"vocabulary {expected}", found, REBUILD)
