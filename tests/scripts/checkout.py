"""A checkout of the scripts alone, and programs that stand in for those that they call."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Checkout:
    """A folder with `scripts/`; what scripts call is looked for in `programs/` first."""

    root: Path

    def __post_init__(self) -> None:
        (self.root / "scripts").mkdir(parents=True)
        (self.root / "programs").mkdir()
        for name in ("pyproject.toml", "scripts/env.sh", "scripts/image"):
            shutil.copy(name, self.root / name)

    def stand_in(self, name: str, script: str) -> None:
        """A program by that name that runs `script` instead."""
        path = self.root / name if "/" in name else self.root / "programs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the user's, and a cache within the folder."""
        root = str(self.root)
        path = f"{root}/programs:{os.defpath}:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": root, "PERSONA_CACHE": f"{root}/cache"}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
