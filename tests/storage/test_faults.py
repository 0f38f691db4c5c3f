"""An object store that misbehaves: what is read and written is right, or it is said."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from tests.proxy import Fault, FaultyProxy
from wentu.errors import ServiceError
from wentu.storage import open_storage, s3
from wentu.storage.bucket import Bucket


class Faulty:
    """A place in the bucket, seen through a proxy whose fault a test sets."""

    def __init__(self, place: str) -> None:
        self.kind: Fault = lambda *_: ""
        self.proxy = FaultyProxy(
            os.environ["AWS_ENDPOINT_URL_S3"], lambda *asked: self.kind(*asked)
        )
        self.place = place

    def storage(self) -> Bucket:
        found = open_storage(self.place)
        assert isinstance(found, Bucket)
        return found


@pytest.fixture
def faulty(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    found = Faulty(f"s3://{bucket}/{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", found.proxy.url)
    s3.client.cache_clear()
    yield found
    found.proxy.close()
    s3.client.cache_clear()


def every(count: int, kind: str, methods: str = "GET PUT POST HEAD DELETE") -> Fault:
    return lambda number, method, _: kind if not number % count and method in methods else ""


@pytest.mark.parametrize(
    "fault",
    [
        every(10, "unavailable"),
        every(7, "cut", "GET"),
        every(7, "corrupt", "GET"),
        every(7, "drop"),
        every(20, "slow"),
    ],
    ids=["every tenth is 503", "cut", "corrupt", "answers are lost", "slow"],
)
def test_what_is_kept_and_fetched_is_right_all_the_same(
    faulty: Faulty, tmp_path: Path, fault: Fault
) -> None:
    source = tmp_path / "one"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02d}").write_bytes(os.urandom(2000 * number))
    faulty.kind = fault
    storage = faulty.storage()
    storage.put_folder(source, "segments/abc")
    found = storage.folder("segments/abc")
    for path in source.iterdir():
        assert (found / path.name).read_bytes() == path.read_bytes()
    assert sum(count for kind, count in faulty.proxy.done.items() if kind) > 1


def test_of_several_that_create_one_wins_also_where_answers_are_lost(faulty: Faulty) -> None:
    faulty.kind = every(3, "drop", "PUT")
    storage = faulty.storage()
    for number in range(10):
        key = f"p/{number}"
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(storage.create, [key] * 4, [b"%d" % who for who in range(4)]))
        assert sum(won) == 1
        assert storage.read(f"p/{number}") == b"%d" % won.index(True)
    assert faulty.proxy.done["drop"] > 5


def test_a_server_that_stays_unavailable_is_told_once_and_clearly(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.kind = lambda *_: "unavailable"
    code = (
        "import sys; import wentu.storage.s3 as s3; s3.ATTEMPTS = 3\n"
        "from wentu.storage import open_storage\n"
        "try: open_storage(sys.argv[1]).read('a')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    words = [sys.executable, "-c", code, faulty.place]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.startswith(f"ServiceError {faulty.place}/a: the object store http")
    assert "SlowDown" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_of_a_deletion_in_bulk_the_key_that_stayed_is_named(faulty: Faulty) -> None:
    storage = faulty.storage()
    for name in "abcd":
        storage.write(name, b"x")
    undone = "<Error><Key>{}/{}</Key><Code>AccessDenied</Code><Message>held</Message></Error>"
    prefix = faulty.place.removeprefix("s3://").partition("/")[2]
    errors = "".join(undone.format(prefix, name) for name in "bd")
    body = io.BytesIO(f"<DeleteResult>{errors}</DeleteResult>".encode())
    body.stream = lambda *_: iter(body.read, b"")  # type: ignore[attr-defined]

    def refuse(request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, 200, {}, body)

    s3.client().meta.events.register_first("before-send.s3.DeleteObjects", refuse)
    with pytest.raises(ServiceError) as found:
        storage.objects.delete(list("abcd"))
    assert str(found.value) == (
        f"{faulty.place}/b and 1 more: could not be deleted (AccessDenied: held)."
    )


def test_a_body_that_always_arrives_changed_is_told(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = faulty.storage()
    storage.write("a", b"content")
    monkeypatch.setattr(s3, "ATTEMPTS", 3)
    faulty.kind = lambda _, method, __: "corrupt" if method == "GET" else ""
    with pytest.raises(ServiceError, match="a: arrived changed 3 times"):
        storage.read("a")


COMMAND = """
import sys; import wentu.storage.s3 as s3; s3.ATTEMPTS = 2
from wentu.cli import main; main()
"""


@pytest.mark.parametrize("gone", [False, True], ids=["refuses everything", "is gone"])
def test_a_command_says_in_one_sentence_that_the_server_stays_away(
    faulty: Faulty, gone: bool, tmp_path: Path
) -> None:
    faulty.kind = lambda *_: "unavailable"
    url = "http://127.0.0.1:1" if gone else faulty.proxy.url
    for words in (
        ["run", "--pictures", f"{faulty.place}/p", "--store", f"{faulty.place}/s", "--no-train"],
        ["search", "x", "--store", f"{faulty.place}/s"],
    ):
        env = os.environ | {"AWS_ENDPOINT_URL_S3": url, "WENTU_TRACKING": "off"}
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, env=env
        )
        assert done.returncode == 7, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith(f"Error: {faulty.place}/s")
        assert f"the object store {url} did not do it" in line
