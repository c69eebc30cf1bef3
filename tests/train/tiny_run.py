"""A tiny training run: a random base, the scaffold's NPC, a handful of conversations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from server.cli import main
from tests.tiny_models import Architecture, make_tiny
from tests.train.nari import good_lines, nari_world, write_dataset
from train.run_log import LOG, read_log

SETTINGS = {
    "data.notes": False,
    "lora.r": 4,
    "optimiser.accumulation": 2,
    "optimiser.row_tokens": 1,
    "optimiser.warmup_share": 0.0,
    "run.epochs": 4,
    "run.eval_steps": 2,
    "run.checkpoint_steps": 1,
    "run.patience": 99,
    "run.precision": "fp32",
    "run.threads": 1,
}


@dataclass(frozen=True)
class TinyRun:
    """Where everything of a run is."""

    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def arguments(self, **settings: Any) -> list[str]:
        """The command line; `run__seed=1` sets run.seed."""
        changed = {name.replace("__", "."): value for name, value in settings.items()}
        args = ["train", "--config", str(self.folder / "config.toml"), "--out", str(self.out)]
        for name, value in changed.items():
            args += ["--set", f"{name}={msgspec.json.encode(value).decode()}"]
        return args

    def train(self, **settings: Any) -> int:
        """Train, or go on training, in this process."""
        return main(self.arguments(**settings))

    def rows(self, kind: str = "train") -> list[dict[str, Any]]:
        """The rows of the log, without what depends on the machine."""
        timed = ("seconds", "tokens_per_s")
        return [
            {name: value for name, value in row.items() if name not in timed}
            for row in read_log(self.out / LOG)
            if row["kind"] == kind
        ]


def make_run(folder: Path, base: str, path: Path) -> TinyRun:
    """A run of the weights at `path`, which are `gguf` or `hf`."""
    folder.mkdir(parents=True, exist_ok=True)
    nari_world(folder / "world")
    write_dataset(folder / "data", good_lines())
    sections: dict[str, list[str]] = {
        "base": [f"{base} = '{path}'"],
        "data": [f"world = '{folder / 'world'}'", f"data = '{folder / 'data'}'"],
    }
    for name, value in SETTINGS.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, []).append(f"{key} = {msgspec.json.encode(value).decode()}")
    text = "".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections.items())
    (folder / "config.toml").write_text(text, encoding="utf-8")
    return TinyRun(folder)


def gguf_run(folder: Path, architecture: Architecture = "qwen2") -> TinyRun:
    """A run of a tiny GGUF base."""
    folder.mkdir(parents=True, exist_ok=True)
    return make_run(folder, "gguf", make_tiny(architecture, folder, specials=False).path)
