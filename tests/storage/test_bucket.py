"""A bucket of a real S3 server keeps what a folder keeps: whole, created once, and locked."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from wentu.clip.encoder import find_bundle
from wentu.errors import FormatError, InputError, ServiceError, StaleError
from wentu.storage import lease, local_copy, open_storage
from wentu.storage.bucket import Bucket
from wentu.storage.mirror import FILES
from wentu.storage.s3 import SHA, client
from wentu.store import Release, Store

WRITERS = 8


@pytest.fixture
def storage(bucket: str) -> Bucket:
    """An empty place in the bucket; a name that has to be escaped in requests."""
    found = open_storage(f"s3://{bucket}/仓库 😀 +%/{uuid.uuid4().hex[:8]}/")
    assert isinstance(found, Bucket)
    return found


def keys(storage: Bucket) -> list[str]:
    return [entry.key for entry in storage.objects.list(deep=True)]


def make_folder(folder: Path, content: str) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "图 a").write_text(content)
    (folder / "manifest.json").write_text("{}")
    return folder


# --- objects ----------------------------------------------------------------------------------


def test_of_eight_threads_one_creates(storage: Bucket) -> None:
    barrier = Barrier(WRITERS)

    def write(number: int) -> bool:
        barrier.wait()
        return storage.create("pointer/00000001.json", f"writer {number}".encode())

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, range(WRITERS)))
    assert sum(won) == 1
    assert storage.read("pointer/00000001.json") == f"writer {won.index(True)}".encode()


def test_a_file_is_created_without_reading_it_whole(storage: Bucket, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    assert storage.create("a", tmp_path / "a")
    assert not storage.create("a", tmp_path / "a")
    with storage.open("a") as file:
        assert file.read(3) == b"xxx"


def test_what_is_not_there_is_said(storage: Bucket) -> None:
    assert not storage.exists("a/b")
    for ask in (storage.read, storage.folder, lambda key: storage.open(key).__enter__()):
        with pytest.raises(InputError, match="has no a/b"):
            ask("a/b")


def test_a_listing_is_sorted_and_without_what_is_unfinished(storage: Bucket) -> None:
    for key in ("p/b", "p/a", "p/.b.tmp", "p/c/d", "p/c/e"):
        storage.write(key, b"")
    assert list(storage.list("p")) == ["a", "b", "c"]
    assert list(storage.list("nothing")) == []


def test_more_objects_than_a_page_holds_are_listed_and_deleted(storage: Bucket) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: storage.write(f"p/{n:05d}", b""), range(1_100)))
    assert list(storage.list("p")) == [f"{n:05d}" for n in range(1_100)]
    storage.delete(f"p/{n:05d}" for n in range(1, 1_100))
    assert keys(storage) == ["p/00000"]


def test_what_we_wrote_is_held_against_its_digest(storage: Bucket) -> None:
    storage.write("a", b"right")
    sha = hashlib.sha256(b"right").hexdigest()
    client().put_object(**storage.objects.where("a"), Body=b"wrong", Metadata={SHA: sha})
    with pytest.raises(ServiceError, match=r"a: arrived changed 8 times \(SHA-256"):
        storage.read("a")


# --- folders ----------------------------------------------------------------------------------


def test_a_folder_is_put_once_and_fetched_once(storage: Bucket, tmp_path: Path) -> None:
    storage.put_folder(make_folder(tmp_path / "one", "first"), "models/abc")
    storage.put_folder(make_folder(tmp_path / "two", "second"), "models/abc")
    found = storage.folder("models/abc")
    assert (found / "sub" / "图 a").read_text() == "first"
    assert sorted(p.name for p in found.rglob("*")) == ["manifest.json", "sub", "图 a"]
    storage.objects.delete(keys(storage))
    assert storage.folder("models/abc") == found
    assert sorted(path.name for path in found.parent.iterdir()) == [f".abc{FILES}", "abc"]
    assert found.stat().st_mode & 0o077, "a cache may be shared"


def test_a_folder_that_was_not_put_to_its_end_is_not_there(storage: Bucket, tmp_path: Path) -> None:
    storage.put_folder(make_folder(tmp_path / "one", "first"), "models/abc")
    storage.objects.delete([f"models/abc/{FILES}"])
    with pytest.raises(InputError, match="has no models/abc"):
        storage.folder("models/abc")
    storage.put_folder(tmp_path / "one", "models/abc")
    assert storage.folder("models/abc").is_dir()


def test_a_file_that_was_exchanged_is_noticed(storage: Bucket, tmp_path: Path) -> None:
    storage.put_folder(make_folder(tmp_path / "one", "first"), "models/abc")
    storage.write("models/abc/sub/图 a", b"another")
    with pytest.raises(ServiceError, match="is not the file that was put there"):
        storage.folder("models/abc")
    assert not (storage.home / "models" / "abc").exists()


def test_a_large_file_goes_and_comes_in_parts(
    storage: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wentu.storage.s3.LARGE", 2**20)
    content = os.urandom(9 * 2**20)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a").write_bytes(content)
    storage.put_folder(tmp_path / "one", "models/abc")
    head = storage.objects.head("models/abc/a")
    assert head is not None
    assert head["ETag"].endswith('-2"'), "one part only"
    assert (storage.folder("models/abc") / "a").read_bytes() == content


def test_a_copy_that_somebody_tidied_is_completed(storage: Bucket, tmp_path: Path) -> None:
    storage.put_folder(make_folder(tmp_path / "one", "first"), "models/abc")
    found = storage.folder("models/abc")
    (found / "sub" / "图 a").unlink()
    assert (storage.folder("models/abc") / "sub" / "图 a").read_text() == "first"


@pytest.mark.parametrize("name", ["../../x", "/x", "a//x", "./x"])
def test_no_object_is_written_outside_of_its_copy(
    storage: Bucket, tmp_path: Path, name: str
) -> None:
    client().put_object(
        Bucket=storage.objects.bucket, Key=f"{storage.objects.prefix}m/{name}", Body=b"x"
    )
    with pytest.raises(InputError, match="is no name that a file can have here"):
        local_copy(f"{storage.place}/m")
    storage.write(f"models/abc/{FILES}", json.dumps({name: "0"}).encode())
    with pytest.raises(InputError, match="is no name that a file can have here"):
        storage.folder("models/abc")
    storage.write(f"work/abc/{FILES}", json.dumps({name: "0"}).encode())
    with pytest.raises(InputError, match="is no name"), storage.work("abc"):
        pass


# --- locks ------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from wentu.storage import open_storage
with open_storage(sys.argv[1]).lock("run") as got:
    print(got, flush=True)
    time.sleep(60)
"""


def test_a_lock_is_free_when_its_holder_has_not_been_heard_of(
    storage: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, storage.place], stdout=subprocess.PIPE, text=True
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
        assert not free, "a moment's silence is no death"
    monkeypatch.setattr(lease, "LIFE", 2.0)
    time.sleep(3)
    with storage.lock("run", wait=False) as free:
        assert free


def test_a_lock_is_renewed_while_it_is_held(
    storage: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LIFE", 3.0)
    monkeypatch.setattr(lease, "RENEWAL", 0.5)
    with storage.lock("run"):
        time.sleep(5)
        with storage.lock("run", wait=False) as free:
            assert not free
    with storage.lock("run", wait=False) as free:
        assert free


def test_of_eight_that_want_a_lock_one_has_it_at_a_time(storage: Bucket) -> None:
    inside, most = 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        with storage.lock("run"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            inside -= 1

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(work, range(WRITERS)))
    assert most == 1
    assert len(keys(storage)) <= 3, "old leases are removed"


def test_a_slow_one_does_not_get_a_number_that_was_removed(storage: Bucket) -> None:
    """Three others had the lock between its look and its write."""
    objects, folder = storage.objects, "locks/run/"
    objects.put(f"{folder}00000001", b"")
    objects.put(f"{folder}00000001.free", b"")
    real = lease._entries
    looks: list[dict[str, Any]] = []

    def entries(objects: Any, folder: str) -> Any:
        found = real(objects, folder)
        looks.append(found)
        if len(looks) == 1:
            objects.put(f"{folder}00000003", b"")
            objects.delete([f"{folder}00000001", f"{folder}00000001.free"])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "_entries", entries)
        with storage.lock("run", wait=False) as free:
            assert not free
    assert sorted(keys(storage)) == [f"{folder}00000003"]


def test_a_lock_is_free_again_after_an_error(storage: Bucket) -> None:
    with pytest.raises(KeyError), storage.lock("run"):
        raise KeyError
    with storage.lock("run", wait=False) as free:
        assert free


# --- work -------------------------------------------------------------------------------------


def test_work_goes_on_on_another_machine(
    storage: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.work("abc") as folder:
        (folder / "state.pt").write_text("1")
        (folder / "best-1.pt").write_text("one")
    monkeypatch.setenv("WENTU_CACHE", str(tmp_path / "other machine"))
    other = Bucket(storage.place)
    with other.work("abc") as folder:
        assert (folder / "state.pt").read_text() == "1"
        (folder / "best-1.pt").unlink()
        (folder / "best-2.pt").write_text("two")
    with storage.work("abc") as folder:
        assert sorted(path.name for path in folder.iterdir()) == [FILES, "best-2.pt", "state.pt"]
    assert len([key for key in keys(storage) if key.startswith("work/")]) == 3


def test_what_is_newer_here_than_in_the_bucket_goes_on(storage: Bucket) -> None:
    with storage.work("abc") as folder:
        (folder / "state.pt").write_text("step 10")
    (folder / "state.pt").unlink()
    (folder / "state.pt").write_text("step 5000")  # killed before it could be copied
    with storage.work("abc") as folder:
        assert (folder / "state.pt").read_text() == "step 5000"


def test_work_that_was_taken_over_is_not_overwritten(
    storage: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.work("abc") as folder:
        (folder / "state.pt").write_text("1")

    def sleep() -> None:
        with storage.work("abc") as folder:
            (folder / "state.pt").unlink()
            (folder / "state.pt").write_text("old 2")
            monkeypatch.setattr(lease, "LIFE", -1.0)  # nothing was heard of this one
            monkeypatch.setenv("WENTU_CACHE", str(tmp_path / "other machine"))
            with Bucket(storage.place).work("abc") as other:
                (other / "state.pt").unlink()
                (other / "state.pt").write_text("new 2")

    with pytest.raises(StaleError, match="took this work over"):
        sleep()
    monkeypatch.setattr(lease, "LIFE", 90.0)
    monkeypatch.setenv("WENTU_CACHE", str(tmp_path / "third machine"))
    with Bucket(storage.place).work("abc") as third:
        assert (third / "state.pt").read_text() == "new 2"


def test_what_goes_wrong_in_the_work_is_what_is_told(storage: Bucket) -> None:
    def work() -> None:
        with storage.work("abc") as folder:
            (folder / "state.pt").write_text("1")
            storage.objects.bucket = "nobody-has-this"
            raise KeyError

    with pytest.raises(KeyError):
        work()


def test_work_is_kept_while_it_goes_on(storage: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wentu.storage.bucket.MIRRORED", 0.2)
    with storage.work("abc") as folder:
        (folder / "state.pt").write_text("1")
        deadline = time.monotonic() + 20
        while not storage.exists(f"work/abc/{FILES}"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "state.pt" in json.loads(storage.read(f"work/abc/{FILES}"))


# --- a store ---


def test_a_release_is_verified_where_it_lies(storage: Bucket, tmp_path: Path) -> None:
    store = Store(storage.place)
    store.put_model(make_folder(tmp_path / "one", "first"), "abc")
    files = store.files_of("abc", ())
    release = Release(model="abc", segments=(), inventory="", pictures=0, dimension=1, files=files)
    store.verify(release)
    storage.objects.delete(["models/abc/sub/图 a"])
    with pytest.raises(FormatError, match=r"models/abc/sub/图 a is missing or was changed"):
        store.verify(release)


def test_a_store_needs_a_server_that_creates_only_once(
    storage: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(storage.place).claim()
    assert len(Store(storage.place).id) == 32
    Store(storage.place).claim()
    monkeypatch.setattr(Bucket, "create", lambda self, key, data: self.write(key, data) or True)
    with pytest.raises(ServiceError, match="replaces what should only be created"):
        Store(f"{storage.place}/another").claim()


def test_the_model_of_a_store_is_found_without_fetching_the_store(
    storage: Bucket, tmp_path: Path
) -> None:
    Store(storage.place).claim()
    for number in range(5):
        storage.write(f"thumbnails/{number}", b"")
    assert find_bundle(storage.place) is None
    assert not (tmp_path / "inputs").exists()


# --- what users meet --------------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_named(storage: Bucket) -> None:
    with pytest.raises(ServiceError, match="there is no bucket nobody-has-this"):
        open_storage("s3://nobody-has-this/a").write("b", b"")


def test_wrong_keys_are_said_without_telling_them(storage: Bucket) -> None:
    code = (
        "import sys; from wentu.storage import open_storage\n"
        "try: open_storage(sys.argv[1]).read('a')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    env = os.environ | {"AWS_SECRET_ACCESS_KEY": "wrong-and-secret"}
    done = subprocess.run(
        [sys.executable, "-c", code, storage.place], capture_output=True, text=True, env=env
    )
    assert done.stdout.startswith("ServiceError")
    assert "keys" in done.stdout
    assert "wrong-and-secret" not in done.stdout + done.stderr


def test_a_server_that_does_not_answer_is_named() -> None:
    code = (
        "import sys; import wentu.storage.s3 as s3; s3.ATTEMPTS = 2\n"
        "from wentu.storage import open_storage\n"
        "try: open_storage('s3://b/c').read('a')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    env = os.environ | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a"}
    env |= {"AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.startswith("ServiceError s3://b/c/a: the object store http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("settings", "words", "said"),
    [
        ({"AWS_ENDPOINT_URL_S3": "s3.example.com"}, "s3://b/c.json", "begins with https://"),
        ({"AWS_PROFILE": "nobody"}, "s3://b/c.json", "AWS_PROFILE is one of"),
        ({}, "s3://pho tos/c.json", "no bucket or object can be called that"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "s3://b/c.json", "no keys for"),
    ],
)
def test_wrong_settings_are_one_sentence_of_the_command(
    tmp_path: Path, settings: dict[str, str], words: str, said: str
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    env |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "x"} | settings
    command = [sys.executable, "-m", "wentu", "run", "--pictures", str(tmp_path)]
    command += ["--captions", words, "--store", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode in (2, 7)
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_everything_is_walked_and_a_folder_goes_as_a_whole(storage: Bucket, tmp_path: Path) -> None:
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
