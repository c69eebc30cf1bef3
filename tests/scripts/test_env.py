"""The virtual environment that every script begins with."""

from pathlib import Path

import pytest

from tests.scripts.checkout import Checkout

DEBIANS_PYTHON = """
[ "$1 $2" = "-m venv" ] || exit 0
echo "venv $3" >>calls
mkdir -p "$3/bin"
touch "$3/bin/python"
chmod +x "$3/bin/python"
[ -e has-python3-venv ] || exit 1
touch "$3/bin/pip"
chmod +x "$3/bin/pip"
"""
"""As in Debian: without python3-venv the environment stays without pip."""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    found = Checkout(tmp_path / "checkout")
    found.stand_in("python3", DEBIANS_PYTHON)
    return found


def test_an_environment_that_could_not_be_finished_is_told_and_finished_later(
    checkout: Checkout,
) -> None:
    make = ("bash", "-c", ". scripts/env.sh; make_venv; echo made")
    done = checkout.run(*make)
    assert done.returncode == 1
    assert "install python3-venv" in done.stderr
    (checkout.root / "has-python3-venv").touch()
    assert checkout.run(*make).stdout == "made\n"
    assert (checkout.root / ".venv/bin/pip").exists()


def test_an_environment_that_is_whole_is_left_alone(checkout: Checkout) -> None:
    checkout.stand_in(".venv/bin/pip", "")
    assert checkout.run("bash", "-c", ". scripts/env.sh; make_venv; echo made").stdout == "made\n"
    assert not (checkout.root / "calls").exists()


def test_missing_headers_of_python_are_told_before_anything_is_installed(
    checkout: Checkout,
) -> None:
    checkout.stand_in(".venv/bin/pip", "")
    checkout.stand_in(".venv/bin/python", "exit 1")
    done = checkout.run("bash", "-c", ". scripts/env.sh; install_extras demo")
    assert (done.returncode, done.stdout) == (1, "")
    assert "install python3-dev" in done.stderr
