"""Whether the image says and decides what the x86-64 engine of this checkout does."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from check.container import Container
from check.report import Report

MAX_CHANGE = 0.03
"""Other kernels round otherwise: a delta or a flag's score may differ by so much."""
MAX_LEAD = 0.5
"""Where the likeliest token is another, it led the next one by fewer logits than this."""
MIN_EQUAL = 0.9
"""Share of positions whose likeliest token is the same."""

GREEDY = Path(__file__).with_name("greedy.py")
TEXT = """\
The lamp went out twice before midnight, and nobody on the quay would say who had the key.
I sold the last of the salt on market day; ask the ferryman what he paid, if he still speaks to me.
어젯밤에는 바람이 세서 배가 나가지 못했습니다. 등대에 불이 꺼진 것도 그때쯤이었지요.
소금값이 오른 건 다리가 끊긴 뒤부터예요. 믿을 만한 사람에게만 창고 열쇠를 맡긴답니다.
"""

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Greedy:
    """What `greedy.py` prints."""

    tokens: list[int]
    leads: list[float]


def greedy_here(bundle: Path) -> Greedy:
    """By this machine's own engine."""
    command = [sys.executable, "-P", str(GREEDY), str(bundle)]
    done = subprocess.run(
        command,
        input=TEXT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    return Greedy(**json.loads(done.stdout))


def greedy_there(container: Container) -> Greedy:
    """By the image's."""
    program = ["python3.11", "-P", "/mnt/greedy.py", "/opt/persona/bundle"]
    ran = container.run_program(*program, given=TEXT)
    return Greedy(**json.loads(ran.output.splitlines()[-1]))


def check_greedy(here: Greedy, there: Greedy, report: Report) -> None:
    """The likeliest next token at every position of the text."""
    pairs = list(zip(here.tokens, there.tokens, here.leads, strict=True))
    leads = [lead for ours, theirs, lead in pairs if ours != theirs]
    share = 1 - len(leads) / len(pairs)
    found = f"{len(pairs) - len(leads)} of {len(pairs)}"
    found += f"; the others led by at most {max(leads):.2f} logits" if leads else ""
    is_well = share >= MIN_EQUAL and max(leads, default=0) < MAX_LEAD
    wanted = f"≥ {MIN_EQUAL:.0%} the same, else a lead < {MAX_LEAD:g}"
    report.line("greedy tokens as on x86-64", wanted, found, is_well)


def check_answers(here: Sequence[Answer], there: Sequence[Answer], report: Report) -> None:
    """Deltas, flags and lines of the same turns."""
    change = max(_change(*pair) for pair in zip(here, there, strict=True))
    raised = [one["flags"] == other["flags"] for one, other in zip(here, there, strict=True)]
    wanted = f"scores, deltas within {MAX_CHANGE}; flags equal"
    found = f"{change:.4f} at most; flags equal in {sum(raised)} of {len(raised)} turns"
    report.line("heads as on x86-64", wanted, found, change <= MAX_CHANGE and all(raised))
    same = sum(one["text"] == other["text"] for one, other in zip(here, there, strict=True))
    report.line("whole lines as on x86-64", "told only", f"{same} of {len(here)} turns", None)


def _change(one: Answer, other: Answer) -> float:
    return max(abs(value - _numbers(other)[name]) for name, value in _numbers(one).items())


def _numbers(answer: Answer) -> Mapping[str, float]:
    details = answer["meta"]["flags_detail"].items()
    return {**answer["delta"], **{name: detail["score"] for name, detail in details}}
