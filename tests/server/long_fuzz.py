"""The long fuzz of a `persona serve` process, which `scripts/fuzz` starts.

Its bundle is a tiny random one unless PERSONA_BUNDLE names another. Prints what was asked and what
the process held before and after; fails on a 5xx, on an answer that is neither right nor a problem,
on one that does not come, and on growth.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.server.schema_fuzz import PATIENCE_S, fuzz_schema
from tests.server.serving import wait_until
from tests.server.small_world import write_small_world
from tests.server.test_fuzz import check, raw_bodies
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[2]
GROWTH = 0.05
"""Of resident memory, as a share of what is resident after the warm-up."""
WARM_UP = 0.2
"""Of the inputs: enough to fill what is bounded (conversations, idempotent turns, KV cells)."""
_SETTINGS = {
    "EMBEDDER": "none",
    "PREFIX_MB": "0",
    "THREADS": "1",
    "N_CTX": "4096",
    "N_SEQUENCES": "4",
    "N_CONVERSATIONS": "64",
    "DRAIN_MS": "0",
    "LOG_LEVEL": "error",
}
_HELD = {
    "resident MB": "process_resident_memory_bytes",
    "waiting": "persona_requests_waiting",
    "running": "persona_requests_running",
    "claimed": "persona_sequences_claimed",
    "conversations": "persona_conversations",
    "internal errors": 'persona_errors_total{code="internal"}',
}


@dataclass
class LongFuzz:
    """One run, as far as it has come."""

    client: httpx.Client
    seed: int
    num_schema: int = 0
    num_bytes: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    def ask_by_schema(self, count: int) -> None:
        """At least `count` cases, in rounds of another seed each."""
        end, round_ = self.num_schema + count, 0
        while self.num_schema < end and round_ < 100:
            round_ += 1
            url = str(self.client.base_url)
            report = fuzz_schema(url, max_examples=100, seed=self.seed + self.num_schema + round_)
            self.num_schema += report.num_cases
            if not report.is_clean:
                self.faults.append(report.output)
                return

    def ask_by_bytes(self, count: int) -> None:
        """`count` bodies made by mutation."""

        @seed(self.seed + self.num_bytes)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(raw=raw_bodies())
        def ask(raw: bytes) -> None:
            start = time.monotonic()
            response = self.client.post("/ask", content=raw)
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)
            self.num_bytes += 1
            self.statuses[response.status_code] += 1
            check(response)

        try:
            ask()
        except Exception as error:
            self.faults.append(f"{type(error).__name__}: {error}")

    def held(self) -> dict[str, float]:
        """What the process holds once it is idle."""
        wait_until(lambda: not _metric(self._metrics(), _HELD["running"]))
        metrics = self._metrics()
        held = {name: _metric(metrics, metric) for name, metric in _HELD.items()}
        return held | {"resident MB": round(held["resident MB"] / 2**20, 1)}

    def _metrics(self) -> str:
        return self.client.get("/metrics").raise_for_status().text


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@contextmanager
def _served() -> Iterator[str]:
    """The address of `persona serve`."""
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        bundle, world = Path(folder, "bundle"), Path(folder, "world")
        bundle.mkdir()
        world.mkdir()
        given_bundle = os.environ.get("PERSONA_BUNDLE")
        environment = {
            **os.environ,
            **{f"PERSONA_{name}": value for name, value in _SETTINGS.items()},
            "PERSONA_BUNDLE": given_bundle or str(write_tiny_bundle(bundle)),
            "PERSONA_WORLD": str(write_small_world(world)),
        }
        port = free.getsockname()[1]
        free.close()
        persona = Path(sys.executable).with_name("persona")
        command = [str(persona), "serve", "--port", str(port)]
        with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
            url = f"http://127.0.0.1:{port}"
            try:
                wait_until(lambda: process.poll() is not None or _is_ready(url))
                yield url
            finally:
                process.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def main() -> int:
    """Run it and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schema-cases", type=int, default=5_000)
    parser.add_argument("--byte-inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="another one asks other things")
    args = parser.parse_args()
    start = time.monotonic()
    with _served() as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        run = LongFuzz(client, args.seed)
        stages = {"at the start": run.held()}
        run.ask_by_schema(int(args.schema_cases * WARM_UP))
        run.ask_by_bytes(int(args.byte_inputs * WARM_UP))
        stages["warmed up"] = warm = run.held()
        run.ask_by_schema(args.schema_cases - run.num_schema)
        stages["after the schema"] = run.held()
        run.ask_by_bytes(args.byte_inputs - run.num_bytes)
        stages["at the end"] = last = run.held()
    grown = last["resident MB"] / warm["resident MB"] - 1
    if grown > GROWTH:
        run.faults.append(f"resident memory grew by {grown:.1%} after the warm-up")
    if last["claimed"] or last["waiting"] or last["internal errors"]:
        run.faults.append(f"left behind: {last}")
    _print_summary(run, stages, time.monotonic() - start)
    return 1 if run.faults else 0


def _print_summary(run: LongFuzz, stages: dict[str, dict[str, float]], seconds: float) -> None:
    for fault in run.faults:
        print(fault, file=sys.stderr)
    statuses = ", ".join(f"{count:,} × {status}" for status, count in sorted(run.statuses.items()))
    print(f"{run.num_schema:,} cases of schemathesis over the OpenAPI document")
    print(f"{run.num_bytes:,} byte-level inputs to /ask: {statuses}")
    print(f"slowest answer {run.slowest_s:.2f} s; {seconds:.0f} s in all")
    print(f"faults: {len(run.faults)}\n")
    print(f"| | {' | '.join(_HELD)} |")
    print("| --- " * (len(_HELD) + 1) + "|")
    for stage, held in stages.items():
        print(f"| {stage} | {' | '.join(f'{value:g}' for value in held.values())} |")


if __name__ == "__main__":
    sys.exit(main())
