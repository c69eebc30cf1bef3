"""What onnxruntime would tell its makers of a player's turn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["heads.session", "rag.embedder"])
def test_onnxruntime_makes_no_device_id_and_reports_nothing(module: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=environment)
    assert not [*tmp_path.rglob("*")]
