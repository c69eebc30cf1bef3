"""What all benchmarks have in common: they take down what they have put up."""

import subprocess
from pathlib import Path

import pytest

from bench.server_process import SERVE
from tests.server.serving import PATIENCE_S, wait_until

PERSONA = SERVE[:-1]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
def test_a_benchmark_that_is_terminated_leaves_no_server_behind(options: list[str]) -> None:
    command = [*PERSONA, "bench", "memory", *options, "--turns", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(children.read_text().split()))
        servers = [Path(f"/proc/{pid}") for pid in children.read_text().split()]
        process.terminate()
        process.wait(PATIENCE_S)
    wait_until(lambda: not any(server.exists() for server in servers))
