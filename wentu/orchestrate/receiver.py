"""Bucket notifications over HTTP -> one run when the burst is over; the standard library only.

An event leaves a mark on the disk before it is answered, so that none is lost with this process:

    pending.json    events came that no run has seen yet
    running.json    a run works on those that came before it; left behind, they count as pending,
                    or, where it goes on without this process, its name says which run to wait for

A run starts when no event came for ``quiet`` seconds, or ``at_most`` seconds after the first one;
one at a time, and what comes meanwhile leads to one more. A run that fails is tried again, with
growing pauses. Which events were lost on the way the schedule finds out: a run looks at everything.
"""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

from wentu.collection.names import is_junk_folder, kind_of_name
from wentu.errors import FormatError, StageError
from wentu.formats import write_json
from wentu.storage import REMOTE, is_remote

MOST_BYTES = 2**20
"""Of a request's body: a notification has a few KB."""
PATIENCE = 10.0
"""Seconds for which a client may keep a connection without a word."""
AGAIN = (60.0, 120.0, 240.0, 480.0, 960.0)
"""Seconds after which a run that failed is tried again; then only with the next event."""
CAPTIONS = (".json", ".jsonl", ".csv", ".tsv", ".xlsx")


# --- what a notification says -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Interest:
    """Which objects matter: pictures and captions below these places, none of the store's own."""

    pictures: str
    captions: tuple[str, ...] = ()
    store: str = ""

    def wants(self, bucket: str, key: str) -> bool:
        """Would a run look at that object?"""
        place = f"{REMOTE}{bucket}/{key}"
        if self.store and _below(place, self.store):
            return False
        if _below(place, self.pictures):
            *folders, name = place[len(self.pictures.rstrip("/")) + 1 :].split("/")
            if not any(map(is_junk_folder, folders)) and kind_of_name(name) in _PICTURES:
                return True
        given = (each for each in self.captions if is_remote(each))
        return key.lower().endswith(CAPTIONS) and any(
            place == each or _below(place, each) for each in given
        )


_PICTURES = ("picture", "unknown")


def _below(place: str, folder: str) -> bool:
    return place.startswith(folder.rstrip("/") + "/")


def objects_of(body: bytes) -> list[tuple[str, str]]:
    """(bucket, key) of every object that came or went, as S3, Ceph and MinIO tell it.

    Keys are told as they are (Ceph) or URL-encoded (S3, MinIO): where that differs, both are given.
    Raises FormatError for anything else; a test event is understood, and the envelope of
    SNS, of messages that somebody forwards: a subscription is not confirmed.
    """
    try:
        value = json.loads(body)
        if isinstance(value, dict) and isinstance(value.get("Message"), str):
            value = json.loads(value["Message"])
        if not isinstance(value, dict):
            raise TypeError("not an object")
        found = []
        for record in value.get("Records") or []:
            name = str(record["eventName"])
            if "ObjectCreated" in name or "ObjectRemoved" in name:
                bucket, key = record["s3"]["bucket"]["name"], str(record["s3"]["object"]["key"])
                found += [(str(bucket), each) for each in {key, unquote_plus(key)}]
        if not found and not {"Records", "Event", "EventName"} & value.keys():
            raise KeyError("Records")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"this is no bucket notification ({error!r}).", f"这不是存储桶通知({error!r})。"
        ) from None
    return found


# --- when a run starts ------------------------------------------------------------------------


class Debounce:
    """Marks on the disk, and the thread that turns them into runs."""

    def __init__(
        self,
        state: Path,
        start: Callable[[str], int],
        *,
        quiet: float,
        at_most: float,
        tell: Callable[[str], object],
        named: bool = False,
    ) -> None:
        """start: runs something to its end, and returns its exit status.

        named: it goes on without this process; started again under its name, it is waited for.
        """
        self._pending, self._running = state / "pending.json", state / "running.json"
        self._start, self._quiet, self._at_most, self._tell = start, quiet, at_most, tell
        self._changed = threading.Condition()
        self._stopped = False
        self._named, self._unfinished = named, ""
        self.at_work = self.dead = False
        self._failures, self._not_before = 0, 0.0
        self.last_status: int | None = None
        state.mkdir(parents=True, exist_ok=True)
        self._first = self._last = 0.0
        if named:
            self._unfinished = _name_in(self._running)
        left = self._running.exists() and not self._unfinished
        if left or self._pending.exists():  # of a process that is gone
            with self._changed:
                self._mark()
        if left:
            self._running.unlink(missing_ok=True)

    @property
    def waiting(self) -> bool:
        """Did events come that no run has seen?"""
        return self._first > 0

    def event(self) -> None:
        """Something came; on the disk when this returns."""
        with self._changed:
            if not self._unfinished:
                self._failures, self._not_before = 0, 0.0
            self._mark()
            self._changed.notify_all()

    def _mark(self) -> None:
        moment = time.time()
        if not self._first or not self._pending.exists():
            write_json(self._pending, {"first": self._first or moment})
            self._first = self._first or moment
        self._last = moment

    def stop(self) -> None:
        """End the thread; a run at work is its caller's to end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def follow(self) -> None:
        """Start runs until ``stop``; what goes wrong with one is a failed run."""
        try:
            self._follow()
        except BaseException:
            self.dead = True
            raise

    def _follow(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (rest := self._rest()) > 0:
                    self._changed.wait(min(rest, 3600.0))
                if self._stopped:
                    return
            name = self._unfinished or (_new_name() if self._named else "")
            try:
                self._begin(name)
                status = self._start(name)
            except Exception as error:
                self._tell(f"the run could not be started: {error}")
                status = 1
            with self._changed:
                self.at_work, self.last_status = False, status
                if self._stopped:
                    return
                try:
                    self._ended(status, name)
                except OSError as error:
                    self._tell(f"{self._running.parent} cannot be written: {error}")

    def _begin(self, name: str) -> None:
        with self._changed:
            self.at_work = True
            if self._unfinished:  # what is pending came after it
                return
            write_json(self._running, {"first": self._first, "name": name})
            self._pending.unlink(missing_ok=True)
            self._first = 0.0

    def _rest(self) -> float:
        """Seconds until a run is due."""
        if self._unfinished:
            return self._not_before - time.time()
        if not self._first:
            return 3600.0
        due = min(self._last + self._quiet, self._first + self._at_most)
        return max(due, self._not_before) - time.time()

    def _ended(self, status: int, name: str) -> None:
        self._unfinished = ""
        if not status:
            self._failures, self._not_before = 0, 0.0
            self._running.unlink(missing_ok=True)
            return
        if self._failures >= len(AGAIN):
            self._tell(f"the run failed {self._failures + 1} times (status {status}); waiting")
            self._failures = 0
            self._running.unlink(missing_ok=True)
            return
        pause = AGAIN[self._failures]
        self._failures += 1
        self._not_before = time.time() + pause
        self._tell(f"the run failed (status {status}); it is tried again in {pause:.0f} s")
        ended = status == StageError.exit_code
        if name and not ended and self._running.exists():  # it may go on, unheard of
            self._unfinished = name
            return
        self._last = time.time()
        self._first = self._first or self._last  # also where the disk refuses the mark
        self._mark()
        self._running.unlink(missing_ok=True)


def _new_name() -> str:
    return f"watch-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


def _name_in(running: Path) -> str:
    """The name of the run that an earlier process waited for; empty where there is none."""
    try:
        return str(json.loads(running.read_text(encoding="utf-8")).get("name") or "")
    except (OSError, ValueError, AttributeError):
        return ""


class Command:
    """A command line in a process of its own, that ends with this one."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, name: str = "") -> int:
        """Run it to its end; its exit status. name: see ``wentu submit --once``."""
        words = [*self._words, *(["--run-name", name, "--once"] if name else [])]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        return self._process.wait()

    def end(self) -> None:
        """Ask it to end, and wait."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self._process.kill()


# --- over HTTP --------------------------------------------------------------------------------


class Receiver(ThreadingHTTPServer):
    """POST /events takes notifications of whoever knows the token; GET /healthz says how it is.

    The token comes as ``Authorization: Bearer``, as the password of basic authentication, as
    ``/events/TOKEN`` or as ``/events?token=TOKEN``: what a server can be told to send.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        *,
        token: str,
        interest: Interest,
        debounce: Debounce,
        tell: Callable[[str], object],
    ) -> None:
        self.token, self.interest, self.debounce, self.tell = token, interest, debounce, tell
        super().__init__(address, Handler)

    def knows(self, headers: Any, path: str) -> bool:
        """Does the request bring the token? Compared in constant time."""
        if not self.token:
            return True
        asked = urlsplit(path)
        offered = [unquote(asked.path.removeprefix("/events").removeprefix("/"))]
        offered += parse_qs(asked.query).get("token", [])
        kind, _, value = str(headers.get("Authorization") or "").partition(" ")
        if kind.lower() == "bearer":
            offered.append(value.strip())
        elif kind.lower() == "basic":
            with suppress(ValueError):
                offered.append(base64.b64decode(value).decode().partition(":")[2])
        expected = self.token.encode()
        right = [hmac.compare_digest(each.encode(), expected) for each in offered]
        return any(right)


class Handler(BaseHTTPRequestHandler):
    """One request; nothing of it is logged, for addresses may carry the token."""

    protocol_version = "HTTP/1.1"
    server_version = "wentu"
    sys_version = ""
    timeout = PATIENCE
    server: Receiver

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """/healthz."""
        if self.path != "/healthz":
            self._answer(404, "not found")
            return
        debounce = self.server.debounce
        status = "dead" if debounce.dead else "ok"
        text = {"status": status, "waiting": debounce.waiting, "running": debounce.at_work}
        self._answer(503 if debounce.dead else 200, json.dumps(text))

    def do_POST(self) -> None:
        """/events."""
        path = urlsplit(self.path).path
        if path != "/events" and not path.startswith("/events/"):
            self._answer(404, "not found")
            return
        if not self.server.knows(self.headers, self.path):
            self._answer(401, "give the token", close=True)
            return
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit():
            self._answer(411, "Content-Length is needed", close=True)
            return
        if int(length) > MOST_BYTES:
            self._answer(413, f"at most {MOST_BYTES} bytes", close=True)
            return
        try:
            objects = objects_of(self.rfile.read(int(length)))
        except FormatError as error:
            self._answer(400, str(error))
            return
        if any(self.server.interest.wants(*each) for each in objects):
            try:
                self.server.debounce.event()
            except OSError as error:  # not on the disk: the sender has to try again
                self.server.tell(f"an event could not be kept: {error}")
                self._answer(503, "could not be kept")
                return
        self._answer(200, "")

    def _answer(self, status: int, text: str, *, close: bool = False) -> None:
        data = text.encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="wentu"')
        kind = "application/json" if text.startswith("{") else "text/plain; charset=utf-8"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if close:  # its body is not read
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)
