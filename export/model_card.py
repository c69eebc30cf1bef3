"""The README.md of a published version, written from the manifest alone: what it is, how it did.

The front matter is the Hugging Face Hub's; elsewhere it does no harm.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from heads.bundle import Bundle, Manifest

_LICENCES = {"apache-2.0", "gemma", "mit"}
"""Licences by names that the Hub knows too."""
_BASES = {
    "Gemma 3 270m": "google/gemma-3-270m",
    "Qwen2.5 3B Instruct": "Qwen/Qwen2.5-3B-Instruct",
}
"""Bases whose GGUF names them in another way than the Hub does."""
_TAGS = ("gguf", "onnx", "dialogue", "npc", "game", "text-generation")
_NOTICE = "LICENSES/NOTICE.txt"


def model_card(bundle: Bundle, address: str) -> str:
    """The card of a bundle that is published at `address`, in Markdown."""
    manifest = bundle.manifest
    parts = [
        _front_matter(manifest),
        f"# {_inline(manifest.name)}\n",
        "A bundle of the Persona Chat Engine: a language model that speaks for game characters, "
        "and heads that read from its state how the character's feelings change and which game "
        "events it sets off.\n",
        _usage(address),
        _base(manifest, bundle),
        _heads(manifest),
        _figures("Training", manifest.training),
        _figures("Evaluation", manifest.evaluation),
        _figures("Parity", manifest.parity),
        _files(manifest),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(manifest: Manifest) -> str:
    licence = manifest.base.licence.lower()
    fields: dict[str, Any] = {"license": licence if licence in _LICENCES else "other"}
    if licence not in _LICENCES:
        fields["license_name"] = re.sub(r"[^a-z0-9.]+", "-", licence).strip("-") or "unknown"
    if base := _base_on_hub(manifest.base.name):
        fields["base_model"] = base
    fields["language"] = ["ko", "en"]
    fields["library_name"] = "persona-chat-engine"
    fields["pipeline_tag"] = "text-generation"
    fields["tags"] = list(_TAGS)
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]  # JSON is YAML
    return "\n".join(["---", *lines, "---\n"])


def _base_on_hub(name: str) -> str | None:
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else _BASES.get(name)


def _usage(address: str) -> str:
    package = "persona-chat-engine[hub]" if address.startswith("hf:") else "persona-chat-engine"
    return f"""## Use

```
pip install {shlex.quote(package)}
PERSONA_BUNDLE="$(persona pull {shlex.quote(address)})" persona serve
```

`persona pull` takes `latest`, or the version that `--revision` names, verifies every file and
replaces what was there as a whole.
"""


def _base(manifest: Manifest, bundle: Bundle) -> str:
    rows = [
        ("base", manifest.base.name),
        ("licence", manifest.base.licence),
        ("architecture", manifest.architecture),
        ("weights", manifest.quantisation),
        ("width of a state", manifest.n_embd),
        ("context in training, tokens", manifest.n_ctx_train),
        ("prompt format", manifest.prompt_format),
        ("SHA-256 of the vocabulary", manifest.base.vocabulary_sha256),
    ]
    text = f"## Base and licence\n\n{_table(('', 'value'), rows)}"
    notice = bundle.folder / _NOTICE
    if not notice.is_file():
        return text
    quoted = "".join(f"> {line}".rstrip() + "\n" for line in notice.read_text("utf-8").splitlines())
    return f"{text}\nFrom [{_NOTICE}]({_NOTICE}), which goes with every copy:\n\n{quoted}"


def _heads(manifest: Manifest) -> str:
    heads = manifest.heads
    rows = [(delta.name, "change", f"{delta.min:g} to {delta.max:g}") for delta in heads.delta]
    rows += [(flag.name, "event", f"raised from {flag.threshold:g}") for flag in heads.flags]
    return f"## Heads\n\n{_table(('output', 'kind', 'range or threshold'), rows)}"


def _figures(title: str, figures: Mapping[str, Any]) -> str:
    """A table: one column where groups measure the same things, else a row for each figure."""
    if not figures:
        return ""
    groups = {name: dict(_leaves(value)) for name, value in figures.items() if _is_group(value)}
    if len(groups) < 2 or not set.intersection(*map(set, groups.values())):
        return f"## {title}\n\n{_table(('figure', 'value'), _leaves(figures))}"
    plain = [(name, value) for name, value in figures.items() if name not in groups]
    names = dict.fromkeys(name for leaves in groups.values() for name in leaves)
    rows = [(name, *(leaves.get(name, "") for leaves in groups.values())) for name in names]
    tables = [_table(("figure", "value"), plain)] if plain else []
    return f"## {title}\n\n" + "\n".join([*tables, _table(("figure", *groups), rows)])


def _files(manifest: Manifest) -> str:
    rows = [(entry.path, f"{entry.size:,}", entry.sha256) for entry in manifest.files]
    return f"## Files\n\n{_table(('file', 'bytes', 'SHA-256'), rows)}"


def _is_group(value: object) -> bool:
    return isinstance(value, dict) and bool(value)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if _is_group(inner):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _inline(text).replace("|", "\\|")


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")
