from pathlib import Path
from typing import Any

import msgspec
import pytest

from export.build import build
from server.cli import main
from tests.export.bundles import Recorder, make_options

pytestmark = pytest.mark.filterwarnings("ignore")  # optimum imports PyTorch, which warns


def test_the_heads_are_measured_beside_int8_and_their_outputs_compared(tmp_path: Path) -> None:
    options = make_options(tmp_path)
    build(options, Recorder())
    figures = tmp_path / "figures.json"
    command = ["bench", "onnx", "--bundle", str(options.out), "--runs", "2", "--json", str(figures)]
    assert main(command) == 0
    report = msgspec.json.decode(figures.read_bytes(), type=dict[str, Any])
    served, plain, small = report["figures"]["heads"]
    assert [row["name"] for row in (served, plain, small)] == [
        "served",
        "not optimised",
        "int8 by optimum",
    ]
    assert served["difference"] == 0
    assert plain["difference"] < 1e-4
    assert small["difference"] > plain["difference"]
    assert all(row["microseconds"] > 0 for row in (served, plain, small))
    assert "cpu" in report["machine"]
    assert report["settings"] == {
        "bundle": options.out.name,
        "encoder": None,
        "target": "avx2",
        "runs": 2,
    }
