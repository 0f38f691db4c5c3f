"""watch: notifications of a bucket become one run, and none is lost."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from wentu.commands.watch import execute, interest_of
from wentu.errors import FormatError, InputError
from wentu.orchestrate import receiver
from wentu.orchestrate.receiver import Debounce, Interest, Receiver, objects_of

INTEREST = Interest(
    pictures="s3://photos/2026",
    captions=("s3://photos/texts/c.csv", "s3://photos/more"),
    store="s3://photos/2026/store",
)


def record(key: str, event: str = "s3:ObjectCreated:Put", bucket: str = "photos") -> Any:
    return {"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


def body(*keys: str, **said: str) -> bytes:
    return json.dumps({"Records": [record(key, **said) for key in keys]}).encode()


# --- what a notification says -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("bucket", "key", "wanted"),
    [
        ("photos", "2026/a.jpg", True),
        ("photos", "2026/深/图 片.PNG", True),
        ("photos", "2026/mmexport", True),  # its bytes would tell
        ("photos", "2026/clip.mp4", False),
        ("photos", "2026/notes.txt", False),
        ("photos", "2026/.hidden.jpg", False),
        ("photos", "2026/@eaDir/a.jpg", False),
        ("photos", "2025/a.jpg", False),
        ("photos", "20260/a.jpg", False),
        ("others", "2026/a.jpg", False),
        ("photos", "2026/store/thumbnails/00/1.jpg", False),  # what a run itself writes
        ("photos", "texts/c.csv", True),
        ("photos", "texts/d.csv", False),
        ("photos", "more/cn_train.json", True),
        ("photos", "more/a.jpg", False),
    ],
)
def test_only_pictures_and_captions_matter(bucket: str, key: str, wanted: bool) -> None:
    assert INTEREST.wants(bucket, key) is wanted


def test_the_forms_of_s3_of_ceph_and_of_minio_are_read() -> None:
    aws = body("2026/%E5%9B%BE+a%2Bb.jpg", event="ObjectCreated:Put")
    assert ("photos", "2026/图 a+b.jpg") in objects_of(aws)
    ceph = body("2026/图 a+b.jpg", event="ObjectCreated:CompleteMultipartUpload")
    assert ("photos", "2026/图 a+b.jpg") in objects_of(ceph)
    minio = json.dumps(
        {"EventName": "s3:ObjectRemoved:Delete", "Key": "photos/a.jpg"}
        | json.loads(body("a.jpg", event="s3:ObjectRemoved:Delete"))
    ).encode()
    assert objects_of(minio) == [("photos", "a.jpg")]
    sns = json.dumps({"Type": "Notification", "Message": body("a.jpg").decode()}).encode()
    assert objects_of(sns) == [("photos", "a.jpg")]
    for nothing in ({"Event": "s3:TestEvent", "Bucket": "photos"}, {"Records": []}):
        assert objects_of(json.dumps(nothing).encode()) == []
    assert objects_of(body("a.jpg", event="s3:ObjectAccessed:Get")) == []


@pytest.mark.parametrize(
    "said", [b"", b"x", b"[]", b"{}", b'{"Records": [{}]}', b'{"Records": 3}', b"\xff", b"null"]
)
def test_anything_else_is_refused(said: bytes) -> None:
    with pytest.raises(FormatError, match="no bucket notification"):
        objects_of(said)


# --- over HTTP --------------------------------------------------------------------------------


class Runs:
    """Stands where a run is started: counts, takes a while, ends with a status."""

    def __init__(self) -> None:
        self.started: list[float] = []
        self.seconds, self.statuses = 0.0, [0]
        self.names: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, name: str) -> int:
        self.names.append(name)
        self.started.append(time.monotonic())
        time.sleep(self.seconds)
        return self.statuses[min(len(self.started), len(self.statuses)) - 1]

    def wait_for(self, count: int, seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while len(self.started) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.started) == count

    def stay(self, count: int, seconds: float) -> None:
        time.sleep(seconds)
        assert len(self.started) == count


def until(true: Callable[[], Any], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


class Watching:
    """A receiver in this process."""

    def __init__(self, state: Path, runs: Any, token: str, named: bool, **times: float) -> None:
        self.said: list[str] = []
        times = {"quiet": 0.3, "at_most": 5.0} | times
        self.debounce = Debounce(state, runs, tell=self.said.append, named=named, **times)
        self.server = Receiver(
            ("127.0.0.1", 0),
            token=token,
            interest=INTEREST,
            debounce=self.debounce,
            tell=self.said.append,
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        for each in (self.server.serve_forever, self.debounce.follow):
            threading.Thread(target=each, daemon=True).start()

    def post(self, data: bytes, path: str = "/events", **headers: str) -> int:
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def health(self) -> Any:
        with urllib.request.urlopen(f"{self.url}/healthz", timeout=10) as answer:
            return json.load(answer)

    def close(self) -> None:
        self.debounce.stop()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def watching(tmp_path: Path, runs: Runs) -> Iterator[Callable[..., Watching]]:
    made: list[Watching] = []

    def begin(token: str = "", named: bool = False, start: Any = runs, **times: float) -> Watching:
        made.append(Watching(tmp_path / "state", start, token, named, **times))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_a_burst_is_one_run(watching: Callable[..., Watching], runs: Runs) -> None:
    watch = watching()
    for number in range(20):
        assert watch.post(body(f"2026/{number}.jpg")) == 200
    assert runs.started == []
    assert watch.health() == {"status": "ok", "waiting": True, "running": False}
    runs.wait_for(1)
    runs.stay(1, 0.6)
    assert watch.health() == {"status": "ok", "waiting": False, "running": False}


def test_a_stream_without_a_pause_is_not_waited_for(
    watching: Callable[..., Watching], runs: Runs
) -> None:
    watch = watching(quiet=0.6, at_most=1.2)
    began = time.monotonic()
    while not runs.started and time.monotonic() - began < 5:
        watch.post(body("2026/a.jpg"))
        time.sleep(0.1)
    assert 1.1 < runs.started[0] - began < 3.0


def test_what_comes_during_a_run_leads_to_one_more(
    watching: Callable[..., Watching], runs: Runs
) -> None:
    runs.seconds = 1.0
    watch = watching(quiet=0.1)
    watch.post(body("2026/a.jpg"))
    runs.wait_for(1)
    assert watch.health()["running"]
    for number in range(5):
        watch.post(body(f"2026/{number}.jpg"))
    runs.stay(1, 0.4)
    runs.wait_for(2)
    assert runs.started[1] - runs.started[0] >= 1.0, "two at once"
    runs.stay(2, 1.5)


def test_what_does_not_matter_starts_nothing(
    watching: Callable[..., Watching], runs: Runs, tmp_path: Path
) -> None:
    watch = watching(quiet=0.0)
    assert watch.post(body("2026/store/thumbnails/00/1.jpg", "2025/a.jpg")) == 200
    assert watch.post(body("2026/a.jpg", event="s3:ObjectAccessed:Get")) == 200
    runs.stay(0, 0.4)
    assert not (tmp_path / "state/pending.json").exists()


def test_an_event_is_on_the_disk_before_it_is_answered(
    watching: Callable[..., Watching], runs: Runs, tmp_path: Path
) -> None:
    first = watching(quiet=60.0)
    assert first.post(body("2026/a.jpg")) == 200
    assert (tmp_path / "state/pending.json").exists()
    first.close()
    watching(quiet=0.1)  # as after a restart
    runs.wait_for(1)
    runs.stay(1, 0.4)
    assert list((tmp_path / "state").iterdir()) == []


def test_a_run_that_failed_is_tried_again(
    watching: Callable[..., Watching], runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(receiver, "AGAIN", (0.2, 0.4))
    runs.statuses = [2, 6, 0]
    watch = watching(quiet=0.1)
    watch.post(body("2026/a.jpg"))
    runs.wait_for(3)
    runs.stay(3, 0.8)
    assert watch.said[0] == "the run failed (status 2); it is tried again in 0 s"
    runs.statuses = [1]
    watch.post(body("2026/b.jpg"))
    runs.wait_for(6)
    runs.stay(6, 0.8)
    assert "failed 3 times (status 1); waiting" in watch.said[-1]
    assert list((tmp_path / "state").iterdir()) == []


def test_a_run_that_cannot_be_started_is_a_run_that_failed(
    watching: Callable[..., Watching], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(receiver, "AGAIN", (0.2,))
    program = tmp_path / "program"
    watch = watching(quiet=0.1, start=receiver.Command([str(program)]))
    watch.post(body("2026/a.jpg"))
    until(lambda: len(watch.said) == 4)
    assert "could not be started" in watch.said[0]
    assert str(program) in watch.said[0]
    assert watch.said[1] == "the run failed (status 1); it is tried again in 0 s"
    assert watch.said[3] == "the run failed 2 times (status 1); waiting"
    assert watch.health()["status"] == "ok"


def test_a_disk_that_refuses_is_tried_again(
    watching: Callable[..., Watching], runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(receiver, "AGAIN", (0.2,) * 5)
    watch, state = watching(quiet=0.3), tmp_path / "state"
    watch.post(body("2026/a.jpg"))
    (state / "pending.json").unlink()
    state.rmdir()
    state.write_bytes(b"")  # no folder any more
    until(lambda: len(watch.said) >= 3)
    assert "could not be started" in watch.said[0]
    assert "cannot be written" in watch.said[2]
    assert runs.started == []
    state.unlink()
    runs.wait_for(1)
    until(lambda: not list(state.iterdir()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_no_health(watching: Callable[..., Watching]) -> None:
    def start(name: str) -> int:
        raise SystemExit

    watch = watching(quiet=0.0, start=start)
    watch.post(body("2026/a.jpg"))
    until(lambda: watch.debounce.dead)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        watch.health()


def test_a_run_that_goes_on_is_waited_for_after_a_restart(
    watching: Callable[..., Watching], runs: Runs, tmp_path: Path
) -> None:
    runs.seconds = 1.0
    first = watching(named=True, quiet=0.1)
    first.post(body("2026/a.jpg"))
    runs.wait_for(1)
    first.close()
    second = watching(named=True, quiet=0.1)
    runs.wait_for(2)
    assert second.health()["running"]
    second.post(body("2026/b.jpg"))
    runs.wait_for(3)
    until(lambda: not list((tmp_path / "state").iterdir()))
    assert runs.names[0] == runs.names[1] != runs.names[2]
    assert runs.names[0].startswith("watch-")
    assert runs.started[2] - runs.started[1] >= 1.0, "two at once"


def test_a_run_is_given_up_only_when_it_ended(
    watching: Callable[..., Watching], runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 7: the server did not answer; 6: the run failed."""
    monkeypatch.setattr(receiver, "AGAIN", (0.1,) * 5)
    runs.statuses = [7, 143, 6, 0]
    watch = watching(named=True, quiet=0.1)
    watch.post(body("2026/a.jpg"))
    runs.wait_for(4)
    assert runs.names[0] == runs.names[1] == runs.names[2] != runs.names[3]
    runs.stay(4, 0.5)


def test_the_token_is_asked_for_in_four_places(
    watching: Callable[..., Watching], runs: Runs
) -> None:
    watch = watching(token="se/cret", quiet=60.0)
    data = body("2026/a.jpg")

    def basic(password: str) -> str:
        return "Basic " + base64.b64encode(f"any:{password}".encode()).decode()

    assert watch.post(data, Authorization="Bearer se/cret") == 200
    assert watch.post(data, Authorization=basic("se/cret")) == 200
    assert watch.post(data, "/events?token=se/cret") == 200
    assert watch.post(data, "/events/se%2Fcret") == 200
    wrong: tuple[tuple[str, dict[str, str]], ...] = (
        ("/events", {}),
        ("/events", {"Authorization": "Bearer secret"}),
        ("/events", {"Authorization": "Bearer "}),
        ("/events", {"Authorization": basic("")}),
        ("/events", {"Authorization": "Basic ?"}),
        ("/events?token=", {}),
        ("/events/se", {}),
        ("/events/", {}),
    )
    assert [watch.post(data, path, **headers) for path, headers in wrong] == [401] * len(wrong)
    assert watch.health()["status"] == "ok"  # for probes, which bring none
    assert watch.said == []


def test_what_is_no_notification_is_refused(watching: Callable[..., Watching], runs: Runs) -> None:
    watch = watching()
    assert watch.post(b"{}") == 400
    assert watch.post(b"x" * (receiver.MOST_BYTES + 1)) == 413
    assert watch.post(body("2026/a.jpg"), "/elsewhere") == 404
    assert watch.post(body("2026/a.jpg"), "/eventsx") == 404
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{watch.url}/events")
    with socket.create_connection(("127.0.0.1", watch.server.server_port), timeout=5) as raw:
        raw.sendall(b"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 411 " in raw.recv(1000)
    runs.stay(0, 0.5)


def test_who_says_nothing_is_hung_up_on(
    watching: Callable[..., Watching], runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver.Handler, "timeout", 0.3)
    watch = watching()
    with socket.create_connection(("127.0.0.1", watch.server.server_port), timeout=5) as raw:
        raw.sendall(b"POST /events HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        assert b"200" not in raw.recv(1000)
    assert watch.post(body("2026/a.jpg")) == 200


def test_a_mark_that_cannot_be_written_is_not_answered_as_kept(
    watching: Callable[..., Watching], runs: Runs, tmp_path: Path
) -> None:
    watch = watching()
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_bytes(b"")  # no folder any more
    assert watch.post(body("2026/a.jpg")) == 503
    assert "could not be kept" in watch.said[0]
    (tmp_path / "state").unlink()
    assert watch.post(body("2026/a.jpg")) == 200
    runs.wait_for(1)


# --- the command ------------------------------------------------------------------------------


WORDS = ("--pictures", "s3://photos/2026", "--captions", "names", "--store=s3://photos/2026/store")


def test_where_things_are_is_read_from_the_options_of_the_run() -> None:
    words = (*WORDS, "--captions", "s3://photos/texts/c.csv", "--min-new", "400")
    found = interest_of(words, check=True)
    assert found.pictures == "s3://photos/2026"
    assert found.captions == ("names", "s3://photos/texts/c.csv")
    assert found.store == "s3://photos/2026/store"


def test_mistakes_are_told_before_anything_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"submit": False, "state": None, "host": None, "port": None}
    given |= {"quiet_seconds": None, "at_most_seconds": None}
    for token in ("", " \n"):
        monkeypatch.setenv("WENTU_TOKEN", token)
        with pytest.raises(InputError, match="set WENTU_TOKEN"):
            execute(WORDS, **given | {"host": "0.0.0.0"})
    monkeypatch.delenv("WENTU_TOKEN", raising=False)
    for own in ("LocalHost", "127.0.0.2", "[::1]"):  # of this machine alone: no token is asked for
        with pytest.raises(click.NoSuchOption, match="min-knew"):
            execute((*WORDS, "--min-knew", "3"), **given | {"host": own})
    with pytest.raises(InputError, match="options of `wentu run`"):
        execute(("--pictures", "/some/folder"), **given)
    with pytest.raises(click.NoSuchOption, match="min-knew"):
        execute((*WORDS, "--min-knew", "3"), **given)


@contextmanager
def process(tmp_path: Path, *more: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The command itself; what it starts fails at once, for want of an S3 server."""
    words = [sys.executable, "-m", "wentu", "watch", "--port", "0", "--state"]
    words += [str(tmp_path / "state"), "--quiet-seconds", "0.2", *more, "--", *WORDS]
    keys = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "WENTU_CACHE": str(tmp_path / "cache")}
    keys |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_MAX_ATTEMPTS": "1"}
    started = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | keys | env,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def address(started: subprocess.Popen[str]) -> str:
    assert started.stdout
    line = started.stdout.readline()
    assert "listening on " in line, line + started.stdout.read()
    return line.split("listening on ")[1].split("/events")[0]


def test_killed_with_an_event_it_takes_it_up_when_it_is_started_again(tmp_path: Path) -> None:
    with process(tmp_path, "--quiet-seconds", "60", WENTU_TOKEN="abc") as started:
        url = address(started)
        request = urllib.request.Request(f"{url}/events?token=abc", body("2026/a.jpg"))
        assert urllib.request.urlopen(request).status == 200
        started.send_signal(signal.SIGKILL)
        started.wait()
    assert (tmp_path / "state/pending.json").exists()
    with process(tmp_path, WENTU_TOKEN="abc") as started:
        address(started)
        with process(tmp_path) as second:
            assert second.stdout
            assert "another `wentu watch` uses" in second.stdout.read()
            assert second.wait() == 2
        deadline = time.monotonic() + 20
        while not (tmp_path / "state/running.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (tmp_path / "state/running.json").exists(), "the run was not started"
        started.terminate()
        assert started.wait(20) == 0
        assert started.stdout
        assert "abc" not in started.stdout.read()
    left = {path.name for path in (tmp_path / "state").iterdir()} - {"alive"}
    assert left, "a run that was ended is taken up at the next start"
