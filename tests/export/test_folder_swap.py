from pathlib import Path

import pytest

from export.errors import BuildError
from export.folder_swap import locked, replaced, write_errors_told


def put(target: Path, content: str) -> None:
    """Replaces a folder by one that holds a single file."""
    with locked(target, lambda: None), replaced(target) as folder:
        (folder / "file").write_text(content)


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link to a folder elsewhere, which is not there yet."""
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "disk" / "real")
    return path


def test_what_a_link_leads_to_is_replaced_as_often_as_one_likes(tmp_path: Path, link: Path) -> None:
    for content in ("first", "second", "third"):
        put(link, content)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "real" / "file").read_text() == content
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == [".real.lock", "real"]


def test_a_linked_folder_that_was_killed_between_the_renames_comes_back(link: Path) -> None:
    put(link, "first")
    real = link.resolve()
    real.rename(real.with_name(".real.old"))
    with locked(link, lambda: None):
        assert (link / "file").read_text() == "first"


def test_a_place_where_nothing_can_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "bundle"
    found = r"file/bundle: expected room and rights to write, found .*/file; free some space, or"
    with pytest.raises(BuildError, match=found), write_errors_told(target):
        put(target, "anything")
