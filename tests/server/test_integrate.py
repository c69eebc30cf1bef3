"""What docs/integrate.md shows is run, where the language is here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server.service import Service
from tests.server.serving import altered, served

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integrate.md").read_text(encoding="utf-8")
CLIENT = ROOT / "examples" / "game-server" / "persona-client.js"


def parts(language: str) -> list[str]:
    """The page's code in a language; its NPC is one of the small world's."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return [code.replace("sora", "mina") for code in found]


def run(service: Service, command: list[str], folder: Path) -> str:
    with served(altered(service)) as url:
        done = subprocess.run(
            command,
            env={**os.environ, "PERSONA_URL": url},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_curl_commands_get_an_answer_and_a_stream(
    tiny_service: Service, tmp_path: Path
) -> None:
    whole, streamed = (run(tiny_service, ["sh", "-c", code], tmp_path) for code in parts("sh"))
    assert '"valid":true' in whole
    assert streamed.startswith("event: state\n")
    assert "event: done\n" in streamed


def test_the_python_prints_line_and_delta(tiny_service: Service, tmp_path: Path) -> None:
    (code,) = parts("python")
    assert "'trust'" in run(tiny_service, [sys.executable, "-c", code], tmp_path)


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js here")
def test_the_client_for_node_hears_the_state_before_the_line(
    tiny_service: Service, tmp_path: Path
) -> None:
    (code,) = parts("js")
    shutil.copy(CLIENT, tmp_path)
    (tmp_path / "play.mjs").write_text(code, encoding="utf-8")
    said = run(tiny_service, ["node", "play.mjs"], tmp_path)
    assert said.startswith("apply once:")
    assert "show:" in said
