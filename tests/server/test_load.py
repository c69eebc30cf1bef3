import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from server.service import Service
from tests.server.serving import ask_body, client_of, is_idle, served, wait_until

ROOT = Path(__file__).parents[2]
N_CTX = 4_096
TEXTS = ("안녕하세요?", "도와 드릴까요?", "꺼져, 이 바보야.", "Good evening.", "Is the light lit?")


@contextmanager
def watched_server(bundle: Path, world: Path) -> Iterator[str]:
    """The address of a server in a process of its own."""
    settings = {"BUNDLE": bundle, "WORLD": world, "THREADS": 1, "N_CTX": N_CTX}
    environment = {f"PERSONA_{name}": str(value) for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.server.watched_server"],
        cwd=ROOT,
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


async def ask_all(url: str, count: int) -> list[httpx.Response]:
    """Ask `count` different things at once."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=240, limits=limits) as client:
        bodies = [
            ask_body(
                TEXTS[number % len(TEXTS)],
                npc_id="rook",
                player_id=f"player {number}",
                gen_params={"max_tokens": 3, "seed": number},
                stream=number % 5 == 0,
            )
            for number in range(count)
        ]
        return await asyncio.gather(*(client.post("/ask", json=body) for body in bodies))


@pytest.mark.gemma
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_fifty_at_once_are_all_answered_and_leave_nothing_behind(
    default_bundle: Path, small_world: Path
) -> None:
    def ask_fifty() -> dict[str, Any]:
        responses = asyncio.run(ask_all(url, 50))
        assert [response.status_code for response in responses] == [200] * 50
        whole = [r.json() for r in responses if r.headers["content-type"] == "application/json"]
        assert len(whole) == 40
        assert all(answer["meta"]["valid"] and answer["text"] for answer in whole)
        held: dict[str, Any] = httpx.get(f"{url}/held").json()
        assert (held["sequences"], held["waiting"], held["free_cells"]) == (0, 0, N_CTX)
        return held

    with watched_server(default_bundle, small_world) as url:
        before = ask_fifty()["bytes"]
        after = ask_fifty()["bytes"]
    assert abs(after - before) <= 0.05 * before


@pytest.mark.gemma
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_bundles_that_are_replaced_leave_nothing_behind(
    default_bundle: Path, small_world: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(default_bundle, tmp_path / "bundle")
    manifest = msgspec.json.decode((bundle / "bundle.json").read_bytes())

    def replace(name: str) -> int:
        """The same bundle by another name, so that it is loaded anew; bytes once it answered."""
        (bundle / "bundle.json").write_bytes(msgspec.json.encode(manifest | {"name": name}))
        assert client.post("/admin/reload").json()["bundle"].startswith(name)
        response = client.post("/ask", json=ask_body(npc_id="rook", gen_params={"max_tokens": 3}))
        assert response.json()["meta"]["path"] == "main"
        num_bytes: int = client.get("/held").json()["bytes"]
        return num_bytes

    with (
        watched_server(bundle, small_world) as url,
        httpx.Client(base_url=url, timeout=240) as client,
    ):
        readings = [replace(f"{number}th") for number in range(6)]
    assert readings[-1] - readings[1] < (bundle / "model.gguf").stat().st_size


def test_answers_of_many_at_once_are_each_their_own(tiny_service: Service) -> None:
    async def ask_many() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return await asyncio.gather(
                *(
                    client.post("/ask", json=ask_body(player_id=f"p{number}", npc_id=npc))
                    for number in range(16)
                    for npc in ("mina", "rook")
                )
            )

    with served(tiny_service) as url:
        answers = [response.json() for response in asyncio.run(ask_many())]
    sessions = [answer["meta"]["session_id"] for answer in answers]
    assert sessions == [f"p{number}:{npc}" for number in range(16) for npc in ("mina", "rook")]
    assert len({answer["meta"]["turn_id"] for answer in answers}) == 32
    assert all(answer["meta"]["valid"] for answer in answers)


def test_whatever_became_of_turns_nothing_is_held(tiny_service: Service) -> None:
    async def ask_and_leave() -> None:
        async with httpx.AsyncClient(base_url=url) as client:

            async def one(number: int) -> None:
                body = ask_body(stream=number % 2 == 0, gen_params={"max_tokens": 64})
                with suppress(httpx.TimeoutException):
                    await client.post("/ask", json=body, timeout=0.002 * number)

            await asyncio.gather(*(one(number) for number in range(40)))

    with served(tiny_service) as url:
        asyncio.run(ask_and_leave())
        wait_until(lambda: is_idle(tiny_service.engine))
    assert tiny_service.engine.stats.num_free_cells == N_CTX
    with client_of(tiny_service) as client:
        assert client.post("/ask", json=ask_body()).json()["meta"]["valid"] is True
