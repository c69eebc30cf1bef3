"""What `persona export` leaves on disk, whole or stopped in between."""

from pathlib import Path

import pytest

from export.build import read_heads_record
from export.errors import BuildError
from export.merge_lora import CONFIG, PERSONA, SPECIAL_ROWS, WEIGHTS
from heads.bundle import AGREEMENT, HEADS, HEADS_RECORD
from train.export_run import _keep
from train.heads_files import HEADS_WEIGHTS

TRAINED = (CONFIG, WEIGHTS, PERSONA, SPECIAL_ROWS, HEADS_WEIGHTS)


def made(folder: Path, name: str, *more: str) -> tuple[Path, Path]:
    """An adapter and heads that say in every file who they are."""
    adapter, heads = folder / name / "adapter", folder / name / "heads"
    for target, files in ((adapter, TRAINED), (heads, (HEADS, HEADS_RECORD, *more))):
        target.mkdir(parents=True)
        for file in files:
            (target / file).write_text(name)
    return adapter, heads


def kept(folder: Path) -> dict[str, str]:
    shown = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.read_text() for path in shown}


def test_what_is_kept_replaces_all_of_what_was(tmp_path: Path) -> None:
    """An agreement that was not made again too: it is of other responses."""
    target = tmp_path / "kept"
    _keep(target, *made(tmp_path, "first", AGREEMENT))
    assert kept(target)[AGREEMENT] == "first"
    _keep(target, *made(tmp_path, "second"))
    names = {f"adapter/{name}" for name in TRAINED} | {HEADS, HEADS_RECORD}
    assert kept(target) == dict.fromkeys(names, "second")


@pytest.mark.parametrize("num_done", range(4))
def test_to_stop_while_it_is_kept_leaves_nothing_to_build_a_mix_from(
    tmp_path: Path, num_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "kept"
    _keep(target, *made(tmp_path, "first", AGREEMENT))
    second = made(tmp_path, "second", AGREEMENT)
    moved: list[int] = []

    def stop_at_the_next() -> None:
        if len(moved) == num_done:
            raise KeyboardInterrupt
        moved.append(num_done)

    for name in ("rename", "replace"):
        real = getattr(Path, name)

        def stopped(path: Path, other: Path, real: object = real) -> Path:
            stop_at_the_next()
            assert callable(real)
            return Path(real(path, other))

        monkeypatch.setattr(Path, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        _keep(target, *second)
    monkeypatch.undo()
    with pytest.raises(BuildError, match="the record of fitted heads"):
        read_heads_record(target)
    _keep(target, *second)
    assert set(kept(target).values()) == {"second"}
