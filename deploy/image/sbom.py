"""Writes what the image is made of, as CycloneDX 1.6 JSON to standard output.

    python3.11 sbom.py VERSION [MODEL_FILE…]

Runs inside the image: its Debian packages, its Python packages and the weights that it carries.
Nothing in it depends on the time, so the same image has the same list.
"""

import hashlib
import json
import re
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

STATUS = Path("/var/lib/dpkg/status")
Component = dict[str, Any]


def debian_components(status: str) -> Iterator[Component]:
    """The installed packages of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            name, version, arch = (fields[key] for key in ("Package", "Version", "Architecture"))
            purl = f"pkg:deb/debian/{name}@{version}?arch={arch}&distro=bookworm"
            yield _library(name, version, purl)


def python_components() -> Iterator[Component]:
    """The installed Python packages."""
    for found in sorted(distributions(), key=lambda found: found.name.lower()):
        name = re.sub(r"[-_.]+", "-", found.name).lower()
        component = _library(name, found.version, f"pkg:pypi/{name}@{found.version}")
        if licences := _licences(found):
            component["licenses"] = licences
        yield component


def model_component(file: Path) -> Component:
    """A file of weights, with its hash."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "type": "machine-learning-model",
        "bom-ref": f"file:{file}",
        "name": f"{file.parent.name}/{file.name}",
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def make_bill(version: str, components: list[Component]) -> Component:
    """The whole document."""
    content = json.dumps(components, sort_keys=True)
    root = {
        "type": "container",
        "bom-ref": "image",
        "name": "persona-chat-engine",
        "version": version,
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
    }


def _library(name: str, version: str, purl: str) -> Component:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _licences(found: Distribution) -> list[Component]:
    def said(field: str) -> list[str]:
        return found.metadata.get_all(field) or []

    if expressions := said("License-Expression"):
        return [{"expression": expressions[0]}]
    named = [
        line.rpartition(" :: ")[2] for line in said("Classifier") if line.startswith("License :: ")
    ]
    named = named or [text.splitlines()[0] for text in said("License") if text]
    return [{"license": {"name": name}} for name in named]


if __name__ == "__main__":
    parts = [
        *debian_components(STATUS.read_text()),
        *python_components(),
        *(model_component(Path(name)) for name in sys.argv[2:]),
    ]
    json.dump(make_bill(sys.argv[1], parts), sys.stdout, indent=1, ensure_ascii=False)
