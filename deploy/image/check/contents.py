"""What an image is made of: its size, what it must not hold, and what auditors say of it."""

import json
import os
import subprocess
from pathlib import Path

from check.container import Image
from check.report import Report

SITE = "usr/local/lib/python3.11/dist-packages"
SBOM = "usr/share/doc/persona-chat-engine/sbom.cdx.json"
FORBIDDEN = ("usr/bin/gcc", "usr/bin/cc", "usr/bin/pip", "usr/bin/pip3", "usr/bin/git")

_VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()) or "")
"""


def check_contents(name: str, image: Image, limit_mb: int, report: Report) -> None:
    """Size, user and leftovers of one target."""
    size = _size_mb(image.root)
    report.line(f"{name}: unpacked size", f"≤ {limit_mb} MB", f"{size:.0f} MB", size <= limit_mb)
    user, _ = image.user
    report.line(f"{name}: user", "not root", f"{user}", user != 0)
    found = [path for path in FORBIDDEN if (image.root / path).exists()]
    report.line(f"{name}: compiler, pip, git", "none", ", ".join(found) or "none", not found)
    setuid = [path for path in _files(image.root) if path.lstat().st_mode & 0o6000]
    names = ", ".join(path.name for path in setuid)
    report.line(f"{name}: setuid programs", "none", names or "none", not setuid)


def check_packages(image: Image, tools: Path, report: Report) -> None:
    """The list of parts, and known vulnerabilities of the Python packages."""
    text = (image.root / SBOM).read_text()
    said = _run([str(tools / "python"), "-c", _VALIDATE], text)
    num_parts = len(json.loads(text)["components"])
    found = f"{num_parts} parts" if not said.strip() else said[-300:]
    report.line("SBOM", "valid CycloneDX 1.6", found, not said.strip())
    command = [str(tools / "pip-audit"), "--path", str(image.root / SITE)]
    said = _run([*command, "--progress-spinner", "off", "--format", "json"])
    try:
        packages = json.loads(said[said.index("{") : said.rindex("}") + 1])["dependencies"]
    except ValueError:
        report.line("pip-audit", "nothing known", f"could not be asked: {said[-200:]}", False)
        return
    bad = [f"{part['name']}: {flaw['id']}" for part in packages for flaw in part.get("vulns", [])]
    skipped = [part["name"] for part in packages if "skip_reason" in part]
    if len(skipped) == len(packages):
        report.line("pip-audit", "nothing known", "PyPI's advisories cannot be reached here", None)
        return
    found = ", ".join(bad) or f"nothing in {len(packages) - len(skipped)} packages"
    found += f"; not on PyPI: {', '.join(skipped)}" if skipped else ""
    report.line("pip-audit", "nothing known", found, not bad)


def check_dockerfile(tools: Path, report: Report) -> None:
    """What hadolint finds in Dockerfile.arm64 beyond what is argued there."""
    said = _run([str(tools / "hadolint"), "Dockerfile.arm64"]).strip()
    report.line("hadolint", "nothing unargued", said or "nothing", not said)


def _run(command: list[str], given: str = "") -> str:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, timeout=600
    )
    return done.stdout + (done.stderr if done.returncode else "")


def _files(root: Path) -> list[Path]:
    return [Path(folder) / name for folder, _, names in os.walk(root) for name in names]


def _size_mb(root: Path) -> float:
    """Bytes of all files, each hard link once, in megabytes of 10^6."""
    sizes = {path.lstat().st_ino: path.lstat().st_size for path in _files(root)}
    return sum(sizes.values()) / 1e6
