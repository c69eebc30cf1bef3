"""scripts/image, with programs that stand in for Docker, buildah and what is built."""

import fcntl
import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.scripts.checkout import Checkout

DOCKER = """
echo "docker $*" >>calls
case "$1 $2" in
"buildx version") [ ! -e no-buildx ] ;;
"buildx inspect") echo "Platforms: linux/amd64, linux/386$(cat emulated 2>/dev/null)" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """With Docker on x86-64, all that Python needs installed, and the default bundle built."""
    found = Checkout(tmp_path / "checkout")
    wanted = b"".join(
        (found.root / name).read_bytes() for name in ("pyproject.toml", "scripts/env.sh")
    )
    for name in ("pip", "persona"):
        found.stand_in(f".venv/bin/{name}", "")
    found.stand_in(".venv/bin/python", "mkdir -p build/image/indexes")
    stamp = f"{hashlib.sha256(wanted).hexdigest()}  -\n"
    (found.root / ".venv/installed-demo,docs").write_text(stamp)
    for name in ("bundles", "encoders"):
        (found.root / "cache" / name / "default").mkdir(parents=True, mode=0o700)
    found.stand_in("docker", DOCKER)
    return found


def calls(checkout: Checkout) -> str:
    path = checkout.root / "calls"
    return path.read_text() if path.exists() else ""


def test_docker_builds_both_targets_with_the_day_and_what_it_copies_is_for_all_to_read(
    checkout: Checkout,
) -> None:
    (checkout.root / "emulated").write_text(", linux/arm64")
    done = checkout.run("scripts/image")
    assert done.returncode == 0, done.stderr
    builds = [line for line in calls(checkout).splitlines() if " build --load " in line]
    assert [re.findall(r"--target (\S+)", build) for build in builds] == [["slim"], ["with-model"]]
    days = {day for build in builds for day in re.findall(r"DAY=(\d{4}-\d\d-\d\d) ", build)}
    assert len(days) == 1
    for name in ("bundle", "encoder"):
        assert (checkout.root / "build/image" / name).stat().st_mode & 0o777 == 0o755


def test_docker_without_buildx_is_told_before_any_work(checkout: Checkout) -> None:
    (checkout.root / "no-buildx").touch()
    done = checkout.run("scripts/image")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no docker buildx here; install it" in done.stderr
    assert not (checkout.root / "build/image/bundle").exists()


def test_docker_that_cannot_run_the_platform_says_how_it_could(checkout: Checkout) -> None:
    done = checkout.run("scripts/image")
    assert (done.returncode, done.stdout) == (1, "")
    assert "docker run --privileged --rm tonistiigi/binfmt --install arm64" in done.stderr
    assert " build " not in calls(checkout)
    assert checkout.run("scripts/image", "--platform", "amd64").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="without Docker the script wants root")
@pytest.mark.parametrize(("platform", "emulator"), [("arm64", "aarch64"), ("amd64", "x86_64")])
def test_the_emulator_of_the_platform_that_is_asked_for_is_enabled(
    checkout: Checkout, platform: str, emulator: str
) -> None:
    checkout.stand_in("docker", "exit 1")
    for name in ("dpkg", "dpkg-query", "mountpoint", "buildah"):
        checkout.stand_in(name, "")
    checkout.stand_in("arch-test", "[ -e enabled ]")
    checkout.stand_in("update-binfmts", 'touch enabled; echo "$*" >>calls')
    done = checkout.run("scripts/image", "--platform", platform)
    assert done.returncode == 0, done.stderr
    assert calls(checkout) == f"--enable qemu-{emulator}\n"


def test_auditors_are_installed_anew_when_their_pins_change(checkout: Checkout) -> None:
    checkout.stand_in(".venv/bin/python", "")
    checkout.stand_in("build/image/tools/bin/pip", 'echo "$*" >>calls')
    script = checkout.root / "scripts/image"
    functions = script.read_text().partition('parse_arguments "$@"')[0]
    for version in ("2.10.1", "2.10.1", "9.9.9"):
        script.write_text(functions.replace("pip-audit==2.10.1", f"pip-audit=={version}"))
        done = checkout.run("bash", "-c", ". scripts/image; install_auditors", "scripts/image")
        assert done.stderr == ""
    assert re.findall(r"pip-audit==(\S+)", calls(checkout)) == ["2.10.1", "9.9.9"]


def test_a_second_run_waits_for_the_first(checkout: Checkout) -> None:
    folder = checkout.root / "build/image"
    folder.mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    second = subprocess.Popen(
        ["scripts/image", "--prepare"],
        cwd=checkout.root,
        env=checkout.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with second:
        assert second.stdout is not None
        assert second.stdout.readline() == "==> waiting for another scripts/image\n"
        assert not (folder / "bundle").exists()
        os.close(lock)
    assert second.returncode == 0
    assert (folder / "bundle").exists()


@pytest.mark.parametrize("option", ["--target", "--platform"])
def test_an_option_without_its_value_is_told(checkout: Checkout, option: str) -> None:
    done = checkout.run("scripts/image", option)
    assert done.returncode == 1
    assert f"{option} needs a value" in done.stderr
