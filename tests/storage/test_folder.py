"""Whole objects, created once, written atomically, locked by who lives; places that survive."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wentu.errors import InputError
from wentu.storage import Storage, link_or_copy, local_path, open_storage, portable

WRITERS = 8


def everything(folder: Path) -> list[str]:
    """All files below ``folder``, hidden ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "仓库 😀"))


# --- create-only writes -----------------------------------------------------------------------


def test_of_eight_threads_one_creates(storage: Storage) -> None:
    barrier = Barrier(WRITERS)

    def write(number: int) -> bool:
        barrier.wait()
        return storage.create("pointer/00000001.json", f"writer {number}".encode())

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, range(WRITERS)))
    assert sum(won) == 1
    assert storage.read("pointer/00000001.json") == f"writer {won.index(True)}".encode()
    assert everything(storage.home) == ["pointer/00000001.json"]


def test_of_eight_processes_one_creates(storage: Storage, tmp_path: Path) -> None:
    code = (
        "import sys; from wentu.storage import open_storage; storage = open_storage(sys.argv[1]);"
        "print('ready', flush=True); sys.stdin.readline();"
        "print(storage.create('a/b', sys.argv[2].encode()))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(storage.home), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WRITERS)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [process.communicate()[0].strip() for process in processes]
    assert sorted(won) == ["False"] * (WRITERS - 1) + ["True"]
    assert storage.read("a/b") == str(won.index("True")).encode()
    assert everything(storage.home) == ["a/b"]


# --- atomic writes ----------------------------------------------------------------------------


def test_a_write_replaces_the_whole_and_leaves_nothing_else(storage: Storage) -> None:
    storage.write("a/b.json", b"longer than the next")
    storage.write("a/b.json", b"new")
    assert storage.read("a/b.json") == b"new"
    assert storage.exists("a/b.json")
    assert everything(storage.home) == ["a/b.json"]


def test_threads_that_write_one_object_do_not_disturb_each_other(storage: Storage) -> None:
    def write(number: int) -> None:
        for _ in range(50):
            storage.write("a", bytes([number]) * 5000)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    data = storage.read("a")
    assert data == data[:1] * 5000
    assert everything(storage.home) == ["a"]


def test_a_write_that_fails_leaves_nothing(storage: Storage) -> None:
    storage.write("folder/a", b"")
    with pytest.raises(OSError, match="folder"):
        storage.write("folder", b"new")
    assert everything(storage.home) == ["folder/a"]


# --- folders ----------------------------------------------------------------------------------


def make_folder(folder: Path, content: str) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text(content)
    return folder


def test_a_folder_is_put_once(storage: Storage, tmp_path: Path) -> None:
    storage.put_folder(make_folder(tmp_path / "one", "first"), "models/abc")
    storage.put_folder(make_folder(tmp_path / "two", "second"), "models/abc")
    assert storage.read("models/abc/sub/a") == b"first"
    assert everything(storage.home) == ["models/abc/sub/a"]


def test_of_folders_put_at_once_one_stays_whole(storage: Storage, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "one", "same")
    barrier = Barrier(WRITERS)

    def put(_: int) -> None:
        barrier.wait()
        storage.put_folder(folder, "models/abc")

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(put, range(WRITERS)))
    assert everything(storage.home) == ["models/abc/sub/a"]
    assert list(storage.list("models")) == ["abc"]
    assert [path.name for path in (storage.home / "models").iterdir()] == ["abc"]


def test_a_copy_outlives_its_source(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"))
    (tmp_path / "a").unlink()
    assert (tmp_path / "b").read_text() == "content"


def test_a_listing_is_sorted_and_without_what_is_unfinished(storage: Storage) -> None:
    for key in ("p/b", "p/a", "p/.b.tmp", "p/c/d"):
        storage.write(key, b"")
    assert list(storage.list("p")) == ["a", "b", "c"]
    assert list(storage.list("nothing")) == []


# --- locks ------------------------------------------------------------------------------------


def test_a_lock_is_free_again_when_its_holder_was_killed(storage: Storage) -> None:
    code = (
        "import sys, time; from wentu.storage import open_storage\n"
        "with open_storage(sys.argv[1]).lock('run') as got: print(got, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(storage.home)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with storage.lock("run", wait=False) as free:
        assert not free
    with storage.lock("another", wait=False) as free:
        assert free
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with storage.lock("run", wait=False) as free:
        assert free


def test_a_lock_is_free_again_after_an_error(storage: Storage) -> None:
    with pytest.raises(KeyError), storage.lock("run"):
        raise KeyError
    with storage.lock("run", wait=False) as free:
        assert free


# --- places -----------------------------------------------------------------------------------

AWKWARD = ["python3", "我的 图片", "😀", "100%", "%6E", "a#b?c", "file:", "ünï", "a;b", "python33"]


@given(st.lists(st.sampled_from(AWKWARD), min_size=1, max_size=4))
def test_a_portable_place_names_the_same_path_and_never_python3(parts: list[str]) -> None:
    path = Path("/data", *parts)
    place = portable(str(path))
    assert local_path(place) == path
    assert "python3" not in place
    assert portable(place) == place


def test_a_relative_place_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert portable("图片") == str(tmp_path / "图片")
    assert local_path(portable("python3/图片")) == tmp_path / "python3" / "图片"


def test_the_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/文")
    assert portable("~/pictures") == "/home/文/pictures"


def test_a_place_of_an_object_store_is_no_local_one() -> None:
    with pytest.raises(InputError, match=r"s3://bucket/a: s3:// cannot be used here"):
        local_path("s3://bucket/a")
    assert portable("s3://bucket/a/") == "s3://bucket/a"


def test_everything_is_walked_and_a_folder_goes_as_a_whole(
    storage: Storage, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "in").mkdir(parents=True)
    (source / "a").write_bytes(b"12345")
    (source / "in/.hidden").write_bytes(b"1")
    storage.put_folder(source, "segments/abc")
    storage.write("segments/abcd", b"123")
    here = {each.key: each for each in storage.walk("segments")}
    assert here.keys() >= {"segments/abc/a", "segments/abc/in/.hidden", "segments/abcd"}
    assert here["segments/abc/a"].size == 5
    assert abs(here["segments/abc/a"].changed - storage.now()) < 60
    assert {each.key for each in storage.walk("")} >= here.keys()
    storage.folder("segments/abc")
    storage.remove("segments/abc")
    storage.remove("segments/abc")  # nothing is there: no matter
    with pytest.raises(InputError):
        storage.folder("segments/abc")
    assert [each.key for each in storage.walk("segments")] == ["segments/abcd"]
    storage.put_folder(source, "segments/abc")
    assert (storage.folder("segments/abc") / "a").read_bytes() == b"12345"
