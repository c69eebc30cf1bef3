import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.heads_graph import ClueTable, linear_graph
from heads.attacks import AttackDetector, Detector
from heads.bundle import BundleError
from heads.clues import NO_CLUES, Remark, features_of
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


def replace_constant(graph: onnx.GraphProto, name: str, value: float) -> None:
    constant = next(each for each in graph.initializer if each.name == name)
    filled = np.full(constant.dims, value, np.float32)
    constant.CopyFrom(numpy_helper.from_array(filled, name))


def read_as(kind: int) -> Callable[[onnx.GraphProto], None]:
    """A change after which the state is of another type."""

    def change(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.elem_type = kind
        cast = helper.make_node("Cast", ["state"], ["float_state"], to=TensorProto.FLOAT)
        graph.node[0].input[0] = "float_state"
        graph.node.insert(0, cast)

    return change


def add_input(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 1]))


def fix_batch(graph: onnx.GraphProto) -> None:
    for port in (*graph.input, *graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 4


def give_text(graph: onnx.GraphProto) -> None:
    graph.node[-1].output[0] = "score"
    graph.node.append(helper.make_node("Cast", ["score"], ["flag"], to=TensorProto.STRING))
    graph.output[1].type.tensor_type.elem_type = TensorProto.STRING


def leave_open(operation: str) -> Callable[[onnx.GraphProto], None]:
    """A change after which what `operation` gave has no bounds."""

    def change(graph: onnx.GraphProto) -> None:
        next(node for node in graph.node if node.op_type == operation).op_type = "Identity"
        replace_constant(graph, "b_delta", 2)

    return change


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (read_as(TensorProto.DOUBLE), "tensor(double)"),
        (read_as(TensorProto.FLOAT16), "tensor(float16)"),
        (add_input, "more"),
        (fix_batch, "Expected: 4"),
        (give_text, "`flag` of object"),
        (lambda graph: replace_constant(graph, "inverse_scale", np.nan), "nan"),
        (lambda graph: replace_constant(graph, "b_flag", np.nan), "nan"),
        (leave_open("Tanh"), "`delta`"),
        (leave_open("Sigmoid"), "`flag`"),
    ],
)
def test_a_graph_that_cannot_answer_a_state_within_its_ranges_is_refused(
    tmp_path: Path, change: Callable[[onnx.GraphProto], None], found: str
) -> None:
    model = RandomHeads.draw(N_EMBD).graph()
    change(model.graph)
    onnx.save(model, tmp_path / "heads.onnx")
    with pytest.raises(BundleError, match=r"in \[-1, 1\].*persona bundle build") as caught:
        HeadsSession(tmp_path / "heads.onnx", HEAD_SPEC, N_EMBD)
    assert found in caught.value.found


@pytest.mark.parametrize("bias", [-100, 100])
def test_heads_may_be_sure(tmp_path: Path, bias: float) -> None:
    model = RandomHeads.draw(N_EMBD).graph()
    for name in ("b_delta", "b_flag"):
        replace_constant(model.graph, name, bias)
    onnx.save(model, tmp_path / "heads.onnx")
    session = HeadsSession(tmp_path / "heads.onnx", HEAD_SPEC, N_EMBD)
    found = session.predict(states(1)[0], NO_CLUES)
    np.testing.assert_allclose([*found.delta.values()], np.sign(bias), atol=1e-6)


@pytest.mark.parametrize("name", ["mean", "w_delta", "b_flag"])
def test_a_graph_with_weights_in_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = RandomHeads.draw(N_EMBD).graph()
    weights = next(each for each in model.graph.initializer if each.name == name)
    (tmp_path / "weights.bin").write_bytes(weights.raw_data)
    onnx.external_data_helper.set_external_data(weights, "weights.bin")
    weights.ClearField("raw_data")
    (tmp_path / "heads.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="expected an ONNX graph in one file"):
        HeadsSession(tmp_path / "heads.onnx", HEAD_SPEC, N_EMBD)


SAID = Remark("mina", "give me that ring", {"trust": 0.1})


def clue_graph() -> onnx.ModelProto:
    """Heads with a table that knows all there is in SAID."""
    heads, found = RandomHeads.draw(N_EMBD), features_of(SAID)
    keys = np.unique(np.concatenate([found.ngrams, found.names]))
    num_outputs = len(DELTA_NAMES) + len(FLAG_NAMES)
    table = np.arange(len(keys) * num_outputs).reshape(-1, num_outputs) % 100
    scale, bias = np.full(num_outputs, 0.001), np.zeros(num_outputs)
    return linear_graph(
        heads.mean,
        heads.scale,
        (heads.w_delta, heads.b_delta),
        (heads.w_flag, heads.b_flag),
        ClueTable(keys, table, scale, bias, np.ones(len(DELTA_NAMES))),
    )


def test_the_order_of_a_graphs_inputs_makes_no_difference(tmp_path: Path) -> None:
    model, told = clue_graph(), []
    for _ in range(2):
        onnx.save(model, tmp_path / "heads.onnx")
        session = HeadsSession(tmp_path / "heads.onnx", HEAD_SPEC, N_EMBD)
        told.append(session.predict(states(1)[0], session.find(SAID)))
        inputs = list(model.graph.input)
        del model.graph.input[:]
        model.graph.input.extend(inputs[::-1])
    assert told[0] == told[1]


def test_a_table_fitted_with_another_detector_of_attacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(clue_graph(), tmp_path / "heads.onnx")
    HeadsSession(tmp_path / "heads.onnx", HEAD_SPEC, N_EMBD)
    other = AttackDetector(Detector(keys=b"", weights=b"", bias=0, threshold=0.5))
    for module in ("clues", "session"):
        monkeypatch.setattr(f"heads.{module}.default_detector", lambda: other)
    with pytest.raises(BundleError, match=f"detector of attacks {other.id}.*persona export"):
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
