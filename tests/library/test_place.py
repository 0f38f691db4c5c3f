"""Where a library lies, which model it gets, and a folder that was moved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.library.folders import OLD, assert_right, fill, follow, held, jpeg, opened, put
from wentu.errors import InputError
from wentu.gc import collect
from wentu.library.place import LOCK, default_place, load, open_library
from wentu.store import Store


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 30 pictures; the user's data directory is a temporary one."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    fill(folder, range(30))
    return folder


def test_its_store_is_in_the_users_data_directory(root: Path, built: Any, tmp_path: Path) -> None:
    library = open_library("pictures", model=str(built.winner))
    assert library.root == str(root)
    home = library.store.storage.home
    assert home.parent == tmp_path / "data/wentu/libraries"
    assert (home / "wentu-store.json").exists()
    assert open_library(str(root)).store.storage.home == home  # needs no --model any more


def test_the_model_of_a_store_is_taken(
    root: Path, built: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = Store(store).current()
    assert current
    assert open_library(str(root), model=store).model == current[1].model
    shutil.rmtree(default_place(str(root)))
    monkeypatch.setenv("WENTU_STORE", store)
    assert open_library(str(root)).model == current[1].model


def test_it_needs_no_other_place_afterwards(root: Path, built: Any, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(built.winner, tmp_path / "bundle"))
    library = open_library(str(root), model=str(bundle))
    for path in bundle.iterdir():  # in place, which a hard link would show
        with path.open("r+b") as file:
            file.write(b"changed")
    shutil.rmtree(bundle)
    library = open_library(str(root))
    follow(library)
    assert_right(library, root, built.winner)


@pytest.mark.parametrize("model", ["", "ViT-B-16", "empty", "no-such-folder"])
def test_without_a_model_it_says_how_to_get_one(root: Path, tmp_path: Path, model: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="--no-train --model ViT-B-16"):
        open_library(str(root), model=model)
    assert not Path(default_place(str(root)), "pointer").exists()


def test_what_cannot_be_followed_is_refused(
    root: Path, built: Any, store: str, tmp_path: Path
) -> None:
    given = {"model": str(built.winner)}
    with pytest.raises(InputError, match="no such folder"):
        open_library(str(tmp_path / "nowhere"), **given)
    with pytest.raises(InputError, match="is no library's store"):
        open_library(str(root), place=store, **given)
    with pytest.raises(InputError, match="lies in the store"):
        open_library(f"{store}/thumbnails", place=store, **given)
    with pytest.raises(InputError, match="of this machine"):
        open_library("s3://bucket/pictures", **given)
    opened(root, tmp_path / "index", built.winner)
    other = put(tmp_path / "other/a.jpg", jpeg(1)).parent
    with pytest.raises(InputError, match=f"is the library of {root}; .* --moved-from {root}"):
        open_library(str(other), place=str(tmp_path / "index"), **given)


def test_a_store_inside_the_folder_is_no_part_of_it(root: Path, built: Any) -> None:
    library = opened(root, root / "index", built.winner)
    follow(library, 3)
    assert len(held(library.store)[0]) == 30


def test_a_known_folder_that_is_away_is_served(root: Path, built: Any, tmp_path: Path) -> None:
    follow(open_library(str(root), model=str(built.winner)))
    root.rename(tmp_path / "away")
    library = open_library(str(root))
    follow(library)
    assert len(held(library.store)[0]) == 30


def test_gc_and_the_follower_get_along(root: Path, built: Any, tmp_path: Path) -> None:
    library = opened(root, tmp_path / "index", built.winner)
    follow(library)
    for number in range(5):
        (root / f"{number}/{number:05d}.jpg").unlink()
    follow(library)
    plan = collect(library.store, keep=0, grace=0)
    assert plan.dead == 5
    assert_right(library, root, built.winner)
    fill(root, range(100, 103))
    follow(library)
    assert_right(library, root, built.winner)


# --- moved ------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
def test_a_moved_folder_is_pointed_at_again(
    root: Path, built: Any, tmp_path: Path, own: bool
) -> None:
    """Copied to another drive: no mark is as it was, and nothing is embedded again."""
    place = "" if own else str(tmp_path / "index")
    library = open_library(str(root), place=place, model=str(built.winner))
    follow(library)
    new = tmp_path / "mnt/pictures"
    shutil.copytree(root, new)
    shutil.rmtree(root)
    for number, path in enumerate(new.rglob("*.jpg")):
        os.utime(path, (OLD - number, OLD - number))
    put(new / "0/00000.jpg", jpeg(1000))  # edited meanwhile
    for _ in range(2):  # said again, it does no harm
        moved = open_library(str(new), place=place, moved_from=str(root))
    assert moved.root == str(new)
    follow(moved)
    assert_right(moved, new, built.winner)
    current = moved.store.current()
    assert current
    assert current[1].parameters["pictures"] == str(new)
    if own:
        assert load(default_place(str(root))) is None
        assert open_library(str(new)).root == str(new)


def test_a_start_that_failed_is_not_in_the_way_of_a_moved_library(
    root: Path, built: Any, tmp_path: Path
) -> None:
    library = open_library(str(root), model=str(built.winner))
    follow(library)
    new = root.rename(tmp_path / "new")
    with pytest.raises(InputError):
        open_library(str(new))  # neither a model nor where it was
    Store(default_place(str(new))).claim()  # as an earlier version left it
    moved = open_library(str(new), moved_from=str(root))
    follow(moved)
    assert_right(moved, new, built.winner)


def test_another_collection_is_not_taken_for_a_moved_one(
    root: Path, built: Any, tmp_path: Path
) -> None:
    library = open_library(str(root), model=str(built.winner))
    follow(library)
    other = tmp_path / "other"
    for path in root.rglob("*.jpg"):  # the same names
        put(other / path.relative_to(root), jpeg(int(path.stem) + 500))
    with pytest.raises(InputError, match="of 20 files, 0 are there unchanged"):
        open_library(str(other), moved_from=str(root))
    assert load(default_place(str(root)))
    with pytest.raises(InputError, match="no library of that folder"):
        open_library(str(other), moved_from=str(tmp_path / "elsewhere"))


def test_a_library_that_is_followed_is_not_moved(root: Path, built: Any, tmp_path: Path) -> None:
    library = open_library(str(root), model=str(built.winner))
    follow(library)
    new = root.rename(tmp_path / "new")
    with (
        library.store.storage.lock(LOCK),
        pytest.raises(InputError, match="end that `wentu serve` first"),
    ):
        open_library(str(new), moved_from=str(root))
