"""Following a folder: whatever happens to it, the release is what an obvious look at it gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.library.folders import OLD, assert_right, fill, follow, held, jpeg, opened, put, there
from wentu.collection import local
from wentu.library import follow as following
from wentu.library import writing
from wentu.library.place import Library
from wentu.library.scan import AwayError, scan
from wentu.library.state import State
from wentu.library.status import read_status
from wentu.search.engine import Engine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of 60 pictures."""
    folder = tmp_path / "我的 pictures"
    fill(folder, range(60))
    return folder


@pytest.fixture
def library(root: Path, tmp_path: Path, built: Any) -> Library:
    """Its library, before anything is indexed."""
    return opened(root, tmp_path / "index", built.winner)


@pytest.fixture
def indexed(library: Library) -> Library:
    """The same, indexed."""
    follow(library)
    return library


@contextmanager
def no_model(library: Library) -> Iterator[None]:
    """Meanwhile embedding any picture is an error."""
    path = library.store.model(library.model) / "image.onnx"
    path.rename(path.with_name("aside"))
    yield
    path.with_name("aside").rename(path)


def states(library: Library) -> tuple[str, int, int, int]:
    """What the status says."""
    status = read_status(library.store)
    assert status is not None
    return status.state, status.indexed, status.waiting, status.damaged


def test_it_serves_before_anything_is_indexed(library: Library) -> None:
    with closing(Engine.open(library.store.place)) as engine:
        engine.check()
        assert engine.pictures == 0
        assert engine.search("雪地里的狗") == []


def test_everything_is_found(indexed: Library, root: Path, built: Any) -> None:
    assert_right(indexed, root, built.winner)
    assert states(indexed) == ("following", 60, 0, 0)
    path = root / "3/00010.jpg"
    with closing(Engine.open(indexed.store.place)) as engine:
        (hit,) = engine.search(picture=path.read_bytes(), k=1)
        assert hit.paths == ("3/00010.jpg",)
        assert hit.score == pytest.approx(1, abs=1e-5)


def test_nothing_new_is_no_new_release(indexed: Library) -> None:
    before = indexed.store.pointer()
    follow(indexed, 3)
    assert indexed.store.pointer() == before


def test_additions_edits_renames_and_removals(indexed: Library, root: Path, built: Any) -> None:
    fill(root, range(60, 75))
    put(root / "0/00007.jpg", jpeg(1007), OLD + 5000)  # edited
    (root / "1/00001.jpg").rename(root / "1/neu 名.jpg")
    (root / "2").rename(root / "zwei")
    (root / "3/00003.jpg").unlink()
    shutil.copy2(root / "4/00004.jpg", root / "copy.jpg")
    follow(indexed)
    assert_right(indexed, root, built.winner)
    (root / "4/00004.jpg").unlink()  # its copy stays: only a name goes
    follow(indexed)
    assert_right(indexed, root, built.winner)


def test_a_rename_embeds_nothing(indexed: Library, root: Path, built: Any) -> None:
    (root / "1").rename(root / "renamed")
    for path in list((root / "2").iterdir()):  # another inode, another time: read, and recognised
        put(root / "moved" / path.name, path.read_bytes(), OLD + 9000)
        path.unlink()
    with no_model(indexed):
        follow(indexed)
    assert_right(indexed, root, built.winner)
    assert states(indexed) == ("following", 60, 0, 0)


def test_a_picture_that_comes_back_takes_its_vector_from_the_dead_row(
    indexed: Library, root: Path, built: Any
) -> None:
    data = (root / "1/00001.jpg").read_bytes()
    (root / "1/00001.jpg").unlink()
    follow(indexed)
    assert "1/00001.jpg" not in held(indexed.store)[0]
    put(root / "back.jpg", data)
    follow(indexed)
    assert_right(indexed, root, built.winner)


def test_a_renamed_picture_is_found_while_others_wait(
    indexed: Library, root: Path, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was removed stays until all was read: it may be there under another name."""
    monkeypatch.setattr(following, "LONGEST_STEP", 0.0)
    monkeypatch.setattr("wentu.library.reading.BATCH", 8)
    data = (root / "1/00001.jpg").read_bytes()
    (root / "1/00001.jpg").unlink()
    put(root / "old.jpg", data, OLD - 1)  # the last to be read
    fill(root, range(100, 120))
    follow(indexed, 1)
    paths, _ = held(indexed.store)
    assert len(paths) == 68
    assert paths["1/00001.jpg"] == there(root)["old.jpg"]
    follow(indexed, 3)
    assert_right(indexed, root, built.winner)


def test_a_damaged_file_is_left_out_remembered_and_told(
    indexed: Library, root: Path, built: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = jpeg(500)[:200]
    put(root / "broken.jpg", broken)
    follow(indexed)
    assert "left out: broken.jpg: " in capfd.readouterr().err
    assert_right(indexed, root, built.winner, but=["broken.jpg"])
    assert states(indexed) == ("following", 60, 0, 1)
    put(root / "copy of broken.jpg", broken)
    with no_model(indexed):  # nothing is prepared for it
        follow(indexed)
    assert states(indexed) == ("following", 60, 0, 2)


def test_a_damaged_file_that_was_copied_to_its_end_is_found(
    indexed: Library, root: Path, built: Any
) -> None:
    put(root / "half.jpg", jpeg(500)[:300], OLD)
    follow(indexed)
    put(root / "half.jpg", jpeg(500), OLD + 1)
    follow(indexed)
    assert_right(indexed, root, built.winner)
    assert states(indexed)[3] == 0


def test_what_is_still_being_written_is_left_to_the_next_look(
    indexed: Library, root: Path, built: Any
) -> None:
    path = root / "now.jpg"
    path.write_bytes(jpeg(300))
    follow(indexed, 1)
    assert "now.jpg" not in held(indexed.store)[0]
    os.utime(path, (OLD, OLD))
    follow(indexed, 1)
    assert_right(indexed, root, built.winner)


# --- out of reach -----------------------------------------------------------------------------


def test_an_unplugged_drive_keeps_the_index(
    indexed: Library, root: Path, built: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    before, away = indexed.store.pointer(), root.with_name("away")
    root.rename(away)
    for make in (lambda: None, root.mkdir):  # no mount point; an empty one
        make()
        follow(indexed)
        assert indexed.store.pointer() == before
        assert states(indexed) == ("away", 60, 0, 0)
        assert "stays searchable" in capfd.readouterr().err
        status = read_status(indexed.store)
        assert status
        assert str(root) not in status.problem
        assert "absent or empty" in status.problem
    root.rmdir()
    fill(away, range(60, 63))
    away.rename(root)
    follow(indexed)
    assert_right(indexed, root, built.winner)
    assert states(indexed) == ("following", 63, 0, 0)


def test_a_drive_that_goes_while_it_is_read(
    indexed: Library, root: Path, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever waited goes on waiting; nothing is taken for unreadable or removed."""
    for path in root.rglob("*.jpg"):  # as on FAT after each mount: another inode for every file
        path.write_bytes(path.read_bytes())
        os.utime(path, (OLD + 5000, OLD + 5000))
    fill(root, range(60, 80))
    plain = following.scan

    def then_unplugged(state: State, place: str) -> Any:
        found = plain(state, place)
        root.rename(root.with_name("away"))
        return found

    monkeypatch.setattr(following, "scan", then_unplugged)
    follow(indexed, 1)
    monkeypatch.setattr(following, "scan", plain)
    assert len(held(indexed.store)[0]) == 60
    follow(indexed, 1)
    assert states(indexed) == ("away", 60, 80, 0)
    root.with_name("away").rename(root)
    follow(indexed)
    assert_right(indexed, root, built.winner)


def test_a_folder_that_cannot_be_listed_keeps_what_is_in_it(
    indexed: Library, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(indexed.store)[0]
    plain = os.scandir

    def failing(path: Any) -> Any:
        if str(path) == f"{root}/1":
            raise OSError(5, "Input/output error")
        return plain(path)

    monkeypatch.setattr(local.os, "scandir", failing)
    (root / "2/00002.jpg").unlink()
    follow(indexed)
    del before["2/00002.jpg"]
    assert held(indexed.store)[0] == before


def test_another_mount_in_the_middle_of_a_look_is_no_removal(
    indexed: Library, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = local.LocalCollection.walk

    def swapped(self: Any, skipped: Any) -> Iterator[Any]:
        yield from list(plain(self, skipped))[:5]
        root.rename(root.with_name("away"))
        fill(root, range(5))

    monkeypatch.setattr(local.LocalCollection, "walk", swapped)
    with (
        closing(State(indexed.home / "state.sqlite")) as state,
        pytest.raises(AwayError, match="stays searchable"),
    ):
        scan(state, str(root))


# --- ends in between --------------------------------------------------------------------------


def test_a_lost_state_is_made_again_without_embedding(
    indexed: Library, root: Path, built: Any
) -> None:
    path = indexed.home / "state.sqlite"
    for number, damage in enumerate((Path.unlink, lambda path: path.write_bytes(b"no database"))):
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        damage(path)
        (root / f"{number}").rename(root / f"renamed {number}")
        with no_model(indexed):
            follow(indexed, 3)
        assert_right(indexed, root, built.winner)


def test_what_was_read_and_not_published_is_read_again(
    indexed: Library, root: Path, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, range(60, 70))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writing.Writer, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            follow(indexed)
    follow(indexed, 3)
    assert_right(indexed, root, built.winner)


def test_a_failure_is_told_and_tried_again(
    indexed: Library, root: Path, built: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(root, range(60, 62))
    with no_model(indexed):
        follow(indexed)
    assert states(indexed)[0] == "failing"
    assert "image.onnx" in capfd.readouterr().err
    assert len(held(indexed.store)[0]) == 60
    follow(indexed)
    assert_right(indexed, root, built.winner)


def test_a_file_that_ends_the_process_is_tried_alone_and_then_given_up(
    indexed: Library, root: Path, built: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(root, range(60, 64))
    state_path = indexed.home / "state.sqlite"

    def ends(expected: int) -> None:
        """The process ends while it decodes what comes next."""
        with closing(State(state_path)) as state:
            scan(state, str(root))
            files = [path for path, _, _ in state.waiting(32)]
            assert len(files) == expected
            state.db.executemany(
                "INSERT OR IGNORE INTO trying VALUES (?, 0, 0)", zip(files, strict=True)
            )
            state.db.executemany(
                "UPDATE trying SET now = 1 WHERE path = ?", zip(files, strict=True)
            )

    ends(4)
    with closing(State(state_path)) as state:
        assert state.after_end(crashed=True) == []
        ((suspect, _, _),) = state.waiting(32)
    ends(1)
    follow(indexed, crashed=True)
    assert f"left out: {suspect}: " in capfd.readouterr().err
    assert_right(indexed, root, built.winner, but=[suspect])
    put(root / suspect, jpeg(900), OLD + 77)  # another file is another matter
    follow(indexed)
    assert_right(indexed, root, built.winner)


# --- what lies there --------------------------------------------------------------------------


def test_the_store_does_not_grow_for_ever(
    indexed: Library, root: Path, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "GRACE", 0.0)
    for number in range(25):
        (root / "1/00001.jpg" if not number else root / f"n{number - 1}.jpg").rename(
            root / f"n{number}.jpg"
        )
        fill(root, [200 + number])
        (root / f"{(200 + number) % 7}/{200 + number:05d}.jpg").rename(root / "temporary.jpg")
        follow(indexed, 1)
    assert_right(indexed, root, built.winner)
    store = indexed.store
    current, before = (release for _, release in reversed(store.history()))
    assert len(current.segments) <= 4
    needed = {each.digest for release in (current, before) for each in release.segments}
    assert set(store.storage.list("segments")) == needed
    assert len(list(store.storage.list("releases"))) == 2
    assert {each.key for each in store.storage.walk("thumbnails")} == {
        store.thumbnail_key(picture) for picture in held(store)[1]
    }


@pytest.fixture
def other(built: Any, tmp_path: Path) -> Path:
    """A bundle of another digest."""
    folder = Path(shutil.copytree(built.winner, tmp_path / "other"))
    info = (folder / "bundle.json").read_text("utf-8")
    (folder / "bundle.json").unlink()
    (folder / "bundle.json").write_text(info.replace("{", '{"epoch": 77,', 1), "utf-8")
    return folder


def test_another_model_that_is_given_up_costs_nothing(
    indexed: Library,
    root: Path,
    built: Any,
    tmp_path: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "LONGEST_STEP", 0.0)
    follow(opened(root, tmp_path / "index", other), 1)
    back = opened(root, tmp_path / "index", built.winner)
    for _ in range(4):
        with no_model(back):
            follow(back, 1)
        assert len(held(back.store)[0]) == 60
    assert_right(back, root, built.winner)


def test_who_follows_with_the_old_model_leaves_the_new_one(
    indexed: Library, root: Path, tmp_path: Path, other: Path
) -> None:
    changed = opened(root, tmp_path / "index", other)
    fill(root, range(60, 63))
    follow(indexed)
    assert changed.store.storage.exists(f"models/{changed.model}/bundle.json")
    changed.store.storage.remove(f"models/{changed.model}")
    assert opened(root, tmp_path / "index", other).model == changed.model
    follow(changed, 4)
    assert_right(changed, root, other)


def test_a_linked_drive_that_is_unplugged_keeps_its_pictures(
    library: Library, root: Path, built: Any, tmp_path: Path
) -> None:
    usb = tmp_path / "media/my.drive"
    fill(usb, range(60, 65))
    (root / "my.drive").symlink_to(usb)
    (root / "one.jpg").symlink_to(usb / "4/00060.jpg")
    follow(library)
    before = held(library.store)[0]
    assert len([path for path in before if path.startswith("my.drive/")]) == 5
    usb.parent.rename(tmp_path / "elsewhere")
    (root / "1/00001.jpg").unlink()
    follow(library)
    del before["1/00001.jpg"]
    assert held(library.store)[0] == before
    (tmp_path / "elsewhere").rename(usb.parent)
    follow(library)
    assert held(library.store)[0] == before


def test_what_was_edited_is_not_published_nameless_while_others_wait(
    indexed: Library, root: Path, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LONGEST_STEP", 0.0)
    fill(root, range(100, 180))
    put(root / "0/00007.jpg", jpeg(1007), OLD + 9000)  # the newest: read first
    for _ in range(6):
        follow(indexed, 1)
        paths, vectors = held(indexed.store)
        assert set(vectors) == set(paths.values())
    assert_right(indexed, root, built.winner)


def test_another_model_takes_over_when_it_has_everything(
    indexed: Library,
    root: Path,
    tmp_path: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = opened(root, tmp_path / "index", other)
    assert changed.model != indexed.model
    monkeypatch.setattr(following, "LONGEST_STEP", 0.0)
    before = changed.store.current()
    assert before
    follow(changed, 1)  # all is to be embedded again; a batch of 32 at each look
    follow(changed, 1)
    assert changed.store.current() == before
    follow(changed, 3)
    after = changed.store.current()
    assert after
    assert after[1].model == changed.model
    assert_right(changed, root, other)
