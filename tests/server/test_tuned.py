import json
import logging
from pathlib import Path

import pytest

from heads.bundle import Bundle, load_bundle
from runtime.host import cpu_model, num_cores
from server import tuned
from server.settings import Settings, read_settings
from server.tuned import Tuned, in_force, read_tuned, tuned_file, write_tuned
from tests.heads.bundles import write_bundle
from tests.server.serving import opened

FOUND = Tuned(threads=3, threads_batch=4, step_tokens=128)
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PERSONA_CACHE", str(folder))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle whose model nobody loads."""
    return load_bundle(write_bundle(tmp_path / "bundle"))


def test_without_a_file_all_cores_work_on_whole_batches(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    assert in_force(Settings(), bundle) == Tuned(num_cores(), num_cores(), 512)
    assert not caplog.records


def test_what_was_found_is_in_force_for_its_bundle_alone(bundle: Bundle) -> None:
    write_tuned(bundle.id, FOUND)
    write_tuned("another@0", Tuned(7, 7, 64))
    assert in_force(Settings(), bundle) == FOUND
    assert read_tuned("another@0") == Tuned(7, 7, 64)
    assert read_tuned("a third@0") is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PERSONA_THREADS": "1"}, Tuned(1, 1, 128)),
        ({"PERSONA_THREADS_BATCH": "2"}, Tuned(3, 2, 128)),
        ({"PERSONA_THREADS": "1", "PERSONA_THREADS_BATCH": "2"}, Tuned(1, 2, 128)),
        ({"PERSONA_STEP_TOKENS": "256"}, Tuned(3, 4, 256)),
        ({"PERSONA_STEP_TOKENS": "9999"}, Tuned(3, 4, 512)),
    ],
)
def test_a_variable_that_is_set_wins(
    bundle: Bundle, variables: dict[str, str], expected: Tuned
) -> None:
    write_tuned(bundle.id, FOUND)
    assert in_force(read_settings(variables), bundle) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format": 2, "found": {}}',
        b'{"format": 1, "found": {"KEY": {"threads": 0, "threads_batch": 1, "step_tokens": 64}}}',
        b'{"format": 1, "found": {"KEY": {"threads": 1, "threads_batch": 999, "step_tokens": 1}}}',
        b'{"format": 1, "found": {"KEY": {"threads": 1, "threads_batch": 1}}}',
    ],
)
def test_a_broken_file_is_ignored_with_one_line_and_written_anew(
    bundle: Bundle, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write_tuned(bundle.id, FOUND)
    (key,) = json.loads(tuned_file().read_text())["found"]
    tuned_file().write_bytes(raw.replace(b"KEY", key.encode()))
    assert in_force(Settings(), bundle) == Tuned(num_cores(), num_cores(), 512)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{tuned_file()} is ignored: ")
    assert "persona tune" in record.getMessage()
    write_tuned(bundle.id, FOUND)
    assert read_tuned(bundle.id) == FOUND


def test_a_folder_in_its_place_is_ignored_too(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    tuned_file().mkdir(parents=True)
    assert in_force(Settings(), bundle) == Tuned(num_cores(), num_cores(), 512)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("name", "value"), [("cpu_model", "another CPU"), ("num_cores", 999)])
def test_what_another_machine_found_is_ignored_with_one_line(
    bundle: Bundle,
    name: str,
    value: object,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    write_tuned(bundle.id, FOUND)
    monkeypatch.setattr(tuned, name, lambda: value)
    assert read_tuned(bundle.id) is None
    (record,) = caplog.records
    assert str(value) in record.getMessage()


def test_writing_leaves_nothing_else_behind_even_if_it_fails(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tuned(bundle.id, FOUND)

    def interrupt(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_tuned(bundle.id, Tuned(9, 9, 64))
    assert [path.name for path in cache.iterdir()] == ["tuned.json"]
    assert read_tuned(bundle.id) == FOUND


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (ARM, "0x41 0xd0c"),
        ("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n\nprocessor\t: 1\n", "A CPU @ 2 GHz"),
        ("no colon here\n", "unknown CPU"),
    ],
)
def test_a_cpu_has_a_name_even_on_arm(cpuinfo: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_model(tmp_path / "cpuinfo") == name
    assert cpu_model(tmp_path / "none") == "unknown CPU"


def test_the_server_works_with_what_was_found(tiny_bundle: Path, small_world: Path) -> None:
    write_tuned(load_bundle(tiny_bundle).id, FOUND)
    with opened(tiny_bundle, small_world, threads=None) as service:
        config = service.engine._context.config
    assert (config.n_threads, config.n_threads_batch, config.n_batch) == (3, 4, 128)
    with opened(tiny_bundle, small_world, threads=2) as service:
        config = service.engine._context.config
    assert (config.n_threads, config.n_threads_batch, config.n_batch) == (2, 2, 128)


def test_a_step_has_room_for_a_token_of_each_sequence(tiny_bundle: Path, small_world: Path) -> None:
    with opened(tiny_bundle, small_world, step_tokens=32, n_sequences=50) as service:
        config = service.engine._context.config
    assert config.n_batch == config.n_seq_max == 74
    with opened(tiny_bundle, small_world, step_tokens=32, n_residents=2) as service:
        assert service.engine._context.config.n_batch == 32
