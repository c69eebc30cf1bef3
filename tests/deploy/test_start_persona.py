"""The script that the container runs, on a volume and an image of the test's own."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path("deploy/image/start-persona")
INDEXES = "/opt/persona/indexes"


@dataclass(frozen=True)
class Container:
    """What a start finds: the image's folder of indexes and the volume."""

    script: Path
    shipped: Path
    volume: Path

    def ship(self, name: str, content: str) -> None:
        """Put an index into the image."""
        (self.shipped / name).mkdir(parents=True)
        (self.shipped / name / "index.json").write_text(content)

    def start(self) -> str:
        """Start; what `persona` was called with."""
        path = f"{self.script.parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "PERSONA_CACHE": str(self.volume)}
        command = ["sh", str(self.script), "doctor", "--all of it"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def found(self) -> dict[str, str]:
        """The files in the volume, and what they hold."""
        files = (path for path in self.volume.rglob("*") if path.is_file())
        return {str(path.relative_to(self.volume)): path.read_text() for path in files}


@pytest.fixture
def container(tmp_path: Path) -> Container:
    found = Container(tmp_path / "start-persona", tmp_path / "indexes", tmp_path / "volume")
    found.volume.mkdir()
    text = SCRIPT.read_text()
    assert INDEXES in text
    found.script.write_text(text.replace(INDEXES, str(found.shipped)))
    (tmp_path / "persona").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (tmp_path / "persona").chmod(0o755)
    return found


def test_the_index_is_put_into_the_volume_and_persona_called(container: Container) -> None:
    container.ship("a1", "whole")
    assert container.start() == "doctor|--all of it|"
    assert container.found() == {"indexes/a1/index.json": "whole"}


def test_an_image_without_an_index_starts(container: Container) -> None:
    assert container.start()
    assert container.found() == {}


def test_an_index_that_a_later_image_brings_comes_to_those_that_are_there(
    container: Container,
) -> None:
    container.ship("a1", "whole")
    container.start()
    (container.volume / "indexes/a1/index.json").write_text("grown")
    container.ship("b2", "of another encoder")
    container.start()
    assert container.found() == {
        "indexes/a1/index.json": "grown",
        "indexes/b2/index.json": "of another encoder",
    }


def test_what_a_killed_start_left_is_no_index_and_goes(container: Container) -> None:
    container.ship("a1", "whole")
    for name in (".indexes.7", ".indexes.new"):
        (container.volume / name / "a1").mkdir(parents=True)
        (container.volume / name / "a1/index.json").write_text("torn")
    container.start()
    assert container.found() == {"indexes/a1/index.json": "whole"}
