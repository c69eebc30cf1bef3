"""Everything that is checked of the image, in order.

    python -m check WITH_MODEL_FOLDER SLIM_FOLDER TOOLS_FOLDER

The folders are what `scripts/image --check` unpacks; run from the root of the checkout.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.server_process import free_port
from check.agreement import check_answers, check_greedy, greedy_here, greedy_there
from check.container import Container, Image
from check.contents import check_contents, check_dockerfile, check_packages
from check.report import Report
from check.server import Server

A1, PLAIN = "neoverse-n1", "cortex-a72"
SLIM_MB, WITH_MODEL_MB = 350, 520
PATIENT = {"PERSONA_DEADLINE_MS": "1800000", "PERSONA_THREADS": "2", "PERSONA_DRAIN_MS": "3000"}
GREEDY = {"temperature": 0, "max_tokens": 16}
TURNS = [  # of two players: where lines differ by a word, what follows them would not be the same
    {"npc_id": "sora", "player_id": "p1", "text": "안녕하세요, 혹시 도움이 필요하신가요?"},
    {"npc_id": "sora", "player_id": "p2", "text": "어젯밤에 등대 불이 왜 꺼졌어요?"},
]


def main(with_model: Path, slim: Path, tools: Path) -> int:
    """Run every check; the number of lines that are not well."""
    report = Report()
    images = Image.read(with_model), Image.read(slim)
    check_contents("with-model", images[0], WITH_MODEL_MB, report)
    check_contents("slim", images[1], SLIM_MB, report)
    check_packages(images[0], tools, report)
    check_dockerfile(tools, report)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        scratch.chmod(0o755)
        check_a1(images[0], scratch, report)
        check_plain(images[0], scratch, report)
        check_slim(images[1], scratch, report)
    report.show()
    return report.num_bad


def check_a1(image: Image, scratch: Path, report: Report) -> None:
    """The default image as an Oracle A1 would run it."""
    container = Container(image, _volume(image, scratch / "a1"), A1, Path(__file__).parent)
    ran = container.run("doctor")
    is_used = "DOTPROD" in ran.output
    report.line(
        f"{A1}: doctor", "all well, DOTPROD", _features(ran.output), is_used and not ran.code
    )
    with _reference(scratch / "here.log") as server:
        here = [server.ask(_turn(turn)) for turn in TURNS]
    with container.serving(scratch / "a1.log", **PATIENT) as server:
        report.line(f"{A1}: start to ready, emulated", "told only", f"{server.ready_s:.0f} s", None)
        report.line(f"{A1}: API key printed", "yes", *_yes(server.key in server.log.read_text()))
        refused = server.status("/npcs")
        report.line(f"{A1}: /npcs without the key", "401", f"{refused}", refused == 401)
        there = [server.ask(_turn(turn)) for turn in TURNS]
        meta = there[0]["meta"]
        found = (
            f"{meta['text_source']}, {meta['timings_ms']['total'] / 1e3:.0f} s: {there[0]['text']}"
        )
        report.line(f"{A1}: /ask", "a line of the model's", found, meta["valid"])
        healthy = container.run_program("healthcheck", PERSONA_PORT=str(server.port)).code
        report.line(f"{A1}: HEALTHCHECK", "0", f"{healthy}", healthy == 0)
        users = set(" ".join(server.told("Uid")).split())
        report.line(f"{A1}: user of its processes", f"{image.user[0]}", *_is(users, image.user[0]))
        report.line(f"{A1}: RSS, emulated", "told only", f"{server.memory_mb():.0f} MB", None)
        kept = ", ".join(sorted(path.name for path in container.volume.iterdir()))
        found = f"root is read-only; in the volume: {kept}"
        report.line(f"{A1}: written to", "the volume alone", found, True)
        check_drain(server, report)
    check_answers(here, there, report)
    bundle = image.root / "opt/persona/bundle"
    check_greedy(greedy_here(bundle), greedy_there(container), report)


def check_drain(server: Server, report: Report) -> None:
    """SIGTERM in the middle of a turn: red, then the turn's end, then the process's."""
    with server.post({**_turn(TURNS[1]), "player_id": "drained", "stream": True}) as reply:
        for line in reply:
            if line.startswith(b"event: state"):
                break
        server.terminate()
        time.sleep(1)
        status = server.status("/readyz")
        rest = reply.read().decode()
    code = server.process.wait(120)
    is_whole = "event: done" in rest
    found = f"/readyz {status}, turn {'finished' if is_whole else 'cut'}, exit code {code}"
    is_well = status == 503 and is_whole and code in (0, 128 + signal.SIGTERM)
    report.line("SIGTERM during a turn", "/readyz 503, turn finished, 143", found, is_well)


def check_plain(image: Image, scratch: Path, report: Report) -> None:
    """The same image on a CPU without dotprod."""
    container = Container(image, _volume(image, scratch / "plain"), PLAIN)
    ran = container.run("doctor")
    is_well = not ran.code and "DOTPROD," not in ran.output
    report.line(f"{PLAIN}: doctor", "all well, no DOTPROD", _features(ran.output), is_well)
    with container.serving(scratch / "plain.log", **PATIENT) as server:
        answer = server.ask(_turn({**TURNS[0], "gen_params": {**GREEDY, "max_tokens": 6}}))
    found = f"{answer['meta']['text_source']}: {answer['text']}"
    report.line(f"{PLAIN}: /ask", "a line of the model's", found, answer["meta"]["valid"])


def check_slim(image: Image, scratch: Path, report: Report) -> None:
    """Without a bundle one sentence; with one from a mounted volume an answer."""
    container = Container(image, _volume(image, scratch / "slim"), A1, Path("build/image/bundle"))
    ran = container.run("serve")
    said = ran.output.strip().splitlines()[-1]
    report.line(
        "slim without a bundle", "one sentence", said, ran.code == 1 and "Trace" not in ran.output
    )
    ran = container.run("doctor", PERSONA_BUNDLE="/mnt")
    found = "all well" if not ran.code else ran.output[-300:]
    report.line("slim with a mounted bundle: doctor", "all well", found, not ran.code)


@contextlib.contextmanager
def _reference(log: Path) -> Iterator[Server]:
    """`persona serve` of this checkout with the bundle and encoder that the image holds."""
    port = free_port()
    changes = {
        "PERSONA_BUNDLE": "build/image/bundle",
        "PERSONA_EMBEDDER": "build/image/encoder",
        "PERSONA_PREFIX_MB": "0",
        "PERSONA_PORT": str(port),
        "PERSONA_THREADS": "2",
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            ["persona", "serve"], stdout=out, stderr=out, env={**os.environ, **changes}
        )
        server = Server(process, port, log)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.end()


def _turn(turn: Mapping[str, object]) -> dict[str, object]:
    return {"gen_params": GREEDY, **turn}


def _volume(image: Image, folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    os.chown(folder, *image.user)
    return folder


def _features(output: str) -> str:
    """The line about the CPU in the doctor's table, without its frame."""
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in output.splitlines()]
    found, is_inside = [], False
    for row in rows:
        if len(row) == 3:
            is_inside = row[0].startswith("CPU") or (is_inside and not row[0])
            found += [row[1]] if is_inside else []
    return " ".join(found) or output[-300:]


def _yes(value: bool) -> tuple[str, bool]:
    return ("yes" if value else "no"), value


def _is(found: set[str], wanted: int) -> tuple[str, bool]:
    return ", ".join(sorted(found)), found == {str(wanted)}


if __name__ == "__main__":
    sys.exit(1 if main(*(Path(name).absolute() for name in sys.argv[1:])) else 0)
