import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from heads.bundle import BundleError
from heads.clues import NO_CLUES
from heads.session import HeadsSession
from heads.spec import HeadSpec
from tests.heads.bundles import DELTA_NAMES, FLAG_NAMES, SPEC, RandomHeads, write_heads

N_EMBD = 16
HEAD_SPEC = msgspec.convert(SPEC, HeadSpec)


def open_heads(path: Path) -> tuple[HeadsSession, RandomHeads]:
    heads = write_heads(path, N_EMBD)
    return HeadsSession(path, HEAD_SPEC, N_EMBD), heads


def states(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    draw = np.random.default_rng(1)
    return draw.normal(0, 10, (count, N_EMBD)).astype(np.float32)


def test_predictions_equal_the_formula_in_numpy(tmp_path: Path) -> None:
    session, heads = open_heads(tmp_path / "heads.onnx")
    expected_delta, expected_flag = heads.predict(states(50))
    delta, flag = session.predict_batch(states(50), [NO_CLUES] * 50)
    np.testing.assert_allclose(delta, expected_delta, atol=1e-5)
    np.testing.assert_allclose(flag, expected_flag, atol=1e-5)
    assert np.ptp(delta) > 0.1


def test_one_state_gives_the_same_as_a_row_of_a_batch_by_name(tmp_path: Path) -> None:
    session, _ = open_heads(tmp_path / "heads.onnx")
    delta, flag = session.predict_batch(states(3), [NO_CLUES] * 3)
    one = session.predict(states(3)[1], NO_CLUES)
    assert tuple(one.delta) == DELTA_NAMES
    assert tuple(one.flag_scores) == FLAG_NAMES
    np.testing.assert_allclose([*one.delta.values()], delta[1], rtol=1e-5)
    np.testing.assert_allclose([*one.flag_scores.values()], flag[1], rtol=1e-5)


def test_normalisation_is_inside_the_graph(tmp_path: Path) -> None:
    session, heads = open_heads(tmp_path / "heads.onnx")
    at_mean = session.predict(heads.mean.astype(np.float32), NO_CLUES)
    np.testing.assert_allclose([*at_mean.delta.values()], np.tanh(heads.b_delta), atol=1e-5)
    scores = 1 / (1 + np.exp(-heads.b_flag))
    np.testing.assert_allclose([*at_mean.flag_scores.values()], scores, atol=1e-5)


def test_a_score_that_is_no_number_is_never_given(tmp_path: Path) -> None:
    session, _ = open_heads(tmp_path / "heads.onnx")
    with pytest.raises(ValueError, match="not all finite"):
        session.predict(np.full(N_EMBD, np.nan, np.float32), NO_CLUES)


def test_as_many_clues_as_states_are_wanted(tmp_path: Path) -> None:
    session, _ = open_heads(tmp_path / "heads.onnx")
    with pytest.raises(ValueError, match="3 states and the clues of 1"):
        session.predict_batch(states(3), [NO_CLUES])


@pytest.mark.parametrize(
    ("n_embd", "num_flags", "expected", "found"),
    [
        (N_EMBD + 1, 3, "input `state` of shape [batch, 16]", "17"),
        (N_EMBD, 2, "output `flag` of shape [batch, 3]", "2"),
    ],
)
def test_a_graph_of_another_width_is_refused(
    tmp_path: Path, n_embd: int, num_flags: int, expected: str, found: str
) -> None:
    path = tmp_path / "heads.onnx"
    write_heads(path, n_embd, num_flags)
    with pytest.raises(BundleError) as caught:
        HeadsSession(path, HEAD_SPEC, N_EMBD)
    error = caught.value
    assert (error.file, error.expected) == (str(path), expected)
    assert found in error.found
    assert "persona bundle build" in str(error)


def test_a_graph_with_other_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "heads.onnx"
    graph = RandomHeads.draw(N_EMBD).graph()
    graph.graph.output[0].name = graph.graph.node[4].output[0] = "change"
    onnx.save(graph, path)
    with pytest.raises(BundleError) as caught:
        HeadsSession(path, HEAD_SPEC, N_EMBD)
    assert caught.value.expected == "output `delta` of shape [batch, 2]"
    assert "change" in caught.value.found


@pytest.mark.parametrize("raw", [b"", b"not a graph", b"\x08\x0a" * 100])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "heads.onnx"
    path.write_bytes(raw)
    with pytest.raises(BundleError, match="expected an ONNX graph"):
        HeadsSession(path, HEAD_SPEC, N_EMBD)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected an ONNX graph"):
        HeadsSession(tmp_path / "heads.onnx", HEAD_SPEC, N_EMBD)


COUNT_THREADS = """
import os, sys
from pathlib import Path
import msgspec, numpy as np
from heads.clues import NO_CLUES
from heads.session import HeadsSession
from heads.spec import HeadSpec
spec = msgspec.json.decode(sys.argv[2], type=HeadSpec)
before = len(os.listdir("/proc/self/task"))
session = HeadsSession(Path(sys.argv[1]), spec, 16)
session.predict(np.zeros(16, np.float32), NO_CLUES)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_a_session_starts_no_threads(tmp_path: Path) -> None:
    path = tmp_path / "heads.onnx"
    write_heads(path, N_EMBD)
    command = [sys.executable, "-c", COUNT_THREADS, str(path), msgspec.json.encode(SPEC).decode()]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "0"
