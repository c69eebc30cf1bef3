"""Schemathesis over the whole OpenAPI document of a server that runs."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30
"""After so long without an answer a request counts as hung."""
# what a schema cannot say, such as that two fields must agree, is refused rightly
_NOT_CHECKED = "positive_data_acceptance"
_NUM_CASES = re.compile(r"Test cases:\s+(\d+) generated")


@dataclass(frozen=True, slots=True)
class SchemaFuzz:
    """What a run found."""

    num_cases: int
    is_clean: bool
    output: str


def fuzz_schema(url: str, max_examples: int, seed: int = 1) -> SchemaFuzz:
    """Ask what the document at `url` allows and forbids; `max_examples` random cases a route.

    No status but those of the document may come, no 5xx, no answer of another form than it says,
    and nothing that it forbids may be let through.
    """
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(max_examples)),
        *("--checks", "all", "--exclude-checks", _NOT_CHECKED, "--continue-on-failure"),
        *("--request-timeout", str(PATIENCE_S), "--suppress-health-check", "all"),
        *("--generation-database", "none", "--seed", str(seed), "--no-color"),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "SCHEMATHESIS_HOOKS": "tests.server.schemathesis_hooks",
    }
    with TemporaryDirectory() as folder:  # it leaves records where it runs
        done = subprocess.run(
            command, check=False, cwd=folder, env=environment, capture_output=True, text=True
        )
    found = _NUM_CASES.search(done.stdout)
    return SchemaFuzz(
        num_cases=int(found[1]) if found else 0,
        is_clean=done.returncode == 0,
        output=done.stdout + done.stderr,
    )
