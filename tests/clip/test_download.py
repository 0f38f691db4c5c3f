"""Weights arrive whole, or not at all, whatever a host, a network or a disk does on the way.

The hosts are played by real servers on this machine: a hub that redirects to a store on another
port, as Hugging Face does, and answers ModelScope's paths too.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from wentu.clip.download import REPOSITORIES, get, names, target, web
from wentu.clip.model import VISION_AND_TEXT
from wentu.errors import FormatError, InputError, WentuError
from wentu.language import set_language
from wentu.progress import Reporter

CONTENT = random.Random(0).randbytes(3_200_000)
NAME, FILE = "ViT-B-16", "clip_cn_vit-b-16.pt"
ON_HF = f"OFA-Sys/chinese-clip-vit-base-patch16/{FILE}"
ON_MODELSCOPE = f"AI-ModelScope/chinese-clip-vit-base-patch16/{FILE}"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SECRET = "hf_a-secret-of-the-user"


class Notes(Reporter):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, event: str, **values: Any) -> None:
        self.events.append((event, values))

    @property
    def text(self) -> str:
        """All notes."""
        return "\n".join(values["text"] for event, values in self.events if event == "note")


@dataclass
class Request:
    """One request that a server saw."""

    server: str
    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0
    """Bytes of a body."""


Fault = Callable[["Handler"], bool]
"""Answers a request in its own way; False: let it be answered as always."""


@dataclass
class World:
    """Both hosts and the store that they redirect to."""

    files: dict[str, bytes] = field(default_factory=dict)
    """``ORG/REPO/FILE`` -> content."""
    small: set[str] = field(default_factory=set)
    """Files that are not in LFS: no redirect to the store, and git's id as ETag."""
    faults: list[tuple[str, str, Fault]] = field(default_factory=list)
    """(server, method, fault): each is used once, in order."""
    requests: list[Request] = field(default_factory=list)
    ranges: bool = True
    ranged_status: int = 206
    digests: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def servers(self) -> dict[str, ThreadingHTTPServer]:
        found = {}
        for name in ("hub", "store"):
            handler = type(name, (Handler,), {"world": self, "name": name})
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            found[name] = server
        return found

    def url(self, server: str) -> str:
        return f"http://127.0.0.1:{self.servers[server].server_address[1]}"

    def close(self) -> None:
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    def sent(self) -> list[int]:
        """Bytes of each answer to GET that carried some of a file."""
        return [each.sent for each in self.requests if each.method == "GET" and each.sent > 2000]

    def asked(self, server: str, method: str = "GET") -> list[Request]:
        return [each for each in self.requests if (each.server, each.method) == (server, method)]


class Handler(BaseHTTPRequestHandler):
    """Answers as Hugging Face, as ModelScope and as the store of both."""

    world: World
    name: str
    seen: Request

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.handle_one()

    def do_GET(self) -> None:
        self.handle_one()

    def handle_one(self) -> None:
        world = self.world
        self.path = self.path.removeprefix(f"http://{self.headers['Host']}")  # asked as a proxy
        self.seen = Request(self.name, self.command, self.path, dict(self.headers))
        with world.lock:
            world.requests.append(self.seen)
            fault = None
            for each in world.faults:
                if each[:2] == (self.name, self.command):
                    world.faults.remove(each)
                    fault = each[2]
                    break
        try:
            if fault is None or not fault(self):
                self.usual()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def usual(self) -> None:
        path, world = unquote(urlsplit(self.path).path).strip("/"), self.world
        if path.startswith("api/v1/models/"):
            return self.listing(path.removeprefix("api/v1/models/").removesuffix("/repo/files"))
        for words in ("/resolve/main/", "/resolve/master/"):
            path = path.replace(words, "/")
        path = path.removeprefix("models/")
        if path not in world.files:
            return self.answer(404, b"Entry not found")
        content = world.files[path]
        if self.name == "store" or "/resolve/master/" in self.path:
            return self.serve(content, {})
        if path in world.small:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self.serve(content, {"ETag": f'"{git}"', "X-Repo-Commit": "0" * 40})
        headers = {"Location": f"{world.url('store')}/{path}?signature=1"}
        if world.digests:
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(content))
        return self.answer(302, b"Found.", headers)

    def listing(self, repository: str) -> None:
        files = [
            {
                "Path": path.removeprefix(f"{repository}/"),
                "Size": len(content),
                "Type": "blob",
                "Sha256": hashlib.sha256(content).hexdigest() if self.world.digests else "",
            }
            for path, content in self.world.files.items()
            if path.startswith(f"{repository}/")
        ]
        if not files:
            return self.answer(404, b'{"Code": 404}')
        value = {"Code": 200, "Data": {"Files": files}}
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def serve(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = self.headers["Range"]
        if not wanted or not self.world.ranges:
            return self.answer(200, content, headers)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        extent = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.answer(self.world.ranged_status, content[start:], headers | extent)

    def answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        """An answer, cut off after ``cut`` bytes of its body by a reset."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.seen.sent = len(body) if cut is None else cut
        self.wfile.write(body[:cut])
        self.wfile.flush()
        if cut is not None:
            self.connection.shutdown(socket.SHUT_RDWR)


def dropping(at: int, content: bytes = CONTENT, **headers: str) -> Fault:
    """The connection breaks after ``at`` bytes."""

    def fault(handler: Handler) -> bool:
        handler.answer(200, content, headers, cut=at)
        return True

    return fault


def saying(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, **named: str
) -> Fault:
    """Another answer; ``X_Y`` is the header X-Y."""

    def fault(handler: Handler) -> bool:
        own = {name.replace("_", "-"): value for name, value in named.items()}
        handler.answer(status, body, own | dict(headers or {}))
        return True

    return fault


def resetting(handler: Handler) -> bool:
    """The connection is reset before there is an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
    raise ConnectionResetError


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Hosts that have the weights of ViT-B-16, in the environment's name."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(web, "PAUSE", 0.01)
    made = World(files={ON_HF: CONTENT, ON_MODELSCOPE: CONTENT})
    monkeypatch.setenv("HF_ENDPOINT", made.url("hub"))
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", made.url("hub"))
    yield made
    made.close()


@pytest.fixture
def notes() -> Notes:
    return Notes()


def files_in(folder: Path) -> set[str]:
    """Names of what is in a folder, but for the locks."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def whole(folder: Path) -> bool:
    """Is the file there, with its digest, and nothing else?"""
    right = (folder / FILE).read_bytes() == CONTENT
    told = (folder / f"{FILE}.sha256").read_text() == f"{SHA256}  {FILE}\n"
    return right and told and files_in(folder) == {FILE, f"{FILE}.sha256"}


def leave_part(folder: Path, part: bytes, *, digest: str = SHA256) -> None:
    """What an interrupted `get` leaves behind."""
    folder.mkdir(exist_ok=True)
    (folder / f"{FILE}.part").write_bytes(part)
    about = {"size": len(CONTENT), "digest": digest}
    (folder / f"{FILE}.part.json").write_text(json.dumps(about))


# --- names -------------------------------------------------------------------------------------


def test_the_repositories_are_those_of_cn_clip() -> None:
    spec = importlib.util.find_spec("cn_clip")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], "clip", "utils.py").read_text("utf-8")
    theirs = {
        node.targets[0].id: node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    models = ast.literal_eval(theirs["_MODELS"])
    assert models == {name: (REPOSITORIES[name], VISION_AND_TEXT[name][2]) for name in models}
    assert ast.literal_eval(theirs["_MODELSCOPE_ORG"]) == names.COPIES
    assert models.keys() == REPOSITORIES.keys() == VISION_AND_TEXT.keys()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("RN50", "clip_cn_rn50.pt"),
        ("openclip:ViT-B-32@LAION2B-s34b_b79k", "openclip/ViT-B-32@laion2b_s34b_b79k/"
         "open_clip_model.safetensors"),
        ("some/model:weights/a.pt", "some/model/weights/a.pt"),
    ],
)  # fmt: skip
def test_where_a_name_lands(tmp_path: Path, name: str, where: str) -> None:
    assert target(name, tmp_path) == tmp_path / where


def test_weights_that_are_there_are_the_target(tmp_path: Path) -> None:
    pickled = tmp_path / "openclip" / "RN50@openai" / "open_clip_model.bin"
    pickled.parent.mkdir(parents=True)
    pickled.touch()
    assert target("openclip:RN50@openai", tmp_path) == pickled


@pytest.mark.parametrize(
    "name",
    ["ViT-B-17", "", "a/b", "a/b:", "a/b:../c", "a/b:c/../../d", "a/b:/etc/x", "a/b:c//d", "../b:c",
     "a/..:c", "a/b/c:d", "a/b:x\0y", "a/b:.", "é/b:c"],
)  # fmt: skip
def test_an_unknown_name_lists_the_known(tmp_path: Path, notes: Notes, name: str) -> None:
    for act in (lambda: target(name, tmp_path), lambda: get(name, "hf", tmp_path, notes)):
        with pytest.raises(InputError, match=r"ViT-L-14-336.*ORG/REPO:FILE"):
            act()


def test_an_unknown_source(tmp_path: Path, notes: Notes) -> None:
    with pytest.raises(InputError, match="'ftp' is none of: hf, modelscope"):
        get(NAME, "ftp", tmp_path, notes)


# --- the straight way --------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_weights_arrive_verified(world: World, tmp_path: Path, notes: Notes, source: str) -> None:
    folder = tmp_path / "new" / "weights"
    assert get(NAME, source, folder, notes) == [target(NAME, folder)]
    assert whole(folder)
    assert SHA256 in notes.text
    progress = [values for event, values in notes.events if event == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 3200  # KB
    assert world.sent() == [len(CONTENT)]


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_what_is_there_is_left_alone(
    world: World, tmp_path: Path, notes: Notes, source: str
) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    before = (tmp_path / FILE).stat()
    get(NAME, source, tmp_path, notes)
    assert (tmp_path / FILE).stat() == before
    assert whole(tmp_path)
    assert "is there already" in notes.text
    assert world.sent() == []


def test_other_content_is_replaced(world: World, tmp_path: Path, notes: Notes) -> None:
    (tmp_path / FILE).write_bytes(CONTENT[:-1] + b"?")
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    assert "will be replaced" in notes.text


def test_a_file_of_a_repository(world: World, tmp_path: Path, notes: Notes) -> None:
    world.files["some/model/sub dir/ü#1.bin"] = b"x" * 10
    (path,) = get("some/model:sub dir/ü#1.bin", "modelscope", tmp_path, notes)
    assert path == tmp_path / "some/model/sub dir/ü#1.bin"
    assert path.read_bytes() == b"x" * 10


def test_a_small_file_is_checked_by_gits_id(world: World, tmp_path: Path, notes: Notes) -> None:
    world.files["some/model/a.json"] = b"{}" * 500
    world.small.add("some/model/a.json")
    get("some/model:a.json", "hf", tmp_path, notes)
    assert "as Hugging Face states it" in notes.text
    world.faults += [("hub", "GET", saying(200, b"[]" * 500))]
    (tmp_path / "some/model/a.json").unlink()
    with pytest.raises(FormatError, match="other content"):
        get("some/model:a.json", "hf", tmp_path, notes)


def test_redirects_within_the_hub(
    world: World, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for renamed repositories and cached small files: relative, without the digest."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    there = saying(307, Location=f"/{ON_HF.replace('/clip_cn', '/resolve/main/clip_cn')}?etag=%22")
    world.faults += [("hub", "HEAD", there), ("hub", "GET", there)]
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    hub = world.asked("hub", "HEAD") + world.asked("hub")
    assert [each.headers["Authorization"] for each in hub] == [f"Bearer {SECRET}"] * 4


def test_redirects_in_a_circle(world: World, tmp_path: Path, notes: Notes) -> None:
    world.faults += [("hub", "HEAD", saying(302, Location="/again"))] * 1000
    with pytest.raises(InputError, match="infinite loop"):
        get(NAME, "hf", tmp_path, notes)


@pytest.mark.parametrize("where", ["file:///etc/passwd", "http://a:b"])
def test_redirects_to_nowhere(world: World, tmp_path: Path, notes: Notes, where: str) -> None:
    world.faults += [("hub", "GET", saying(302, Location=where))] * 1000
    with pytest.raises(InputError, match=r"not allowed|nonnumeric"):
        get(NAME, "hf", tmp_path, notes)


def test_a_proxy_of_the_environment(
    world: World, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", world.url("hub").replace("//", "//me:word@"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # the store is reached directly
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    (store,) = world.asked("store")
    assert "word" not in str(store.headers)
    assert "Proxy-Authorization" not in {name.title() for name in store.headers}
    assert "Proxy-Authorization" in {name.title() for name in world.asked("hub")[0].headers}


# --- the token ---------------------------------------------------------------------------------


def test_the_token_goes_to_the_endpoint_only(
    world: World, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    world.digests = False  # then HEAD follows to the store, too
    get(NAME, "hf", tmp_path, notes)
    get(NAME, "modelscope", tmp_path / "other", notes)
    for each in world.requests:
        own = each.server == "hub" and "/resolve/main/" in each.path
        assert (SECRET in str(each.headers)) == own
    assert len(world.asked("store")) == len(world.asked("store", "HEAD")) == 1
    assert SECRET not in str(notes.events)
    assert not [path for path in tmp_path.rglob("*.*") if SECRET.encode() in path.read_bytes()]


def test_a_broken_token_is_not_shown(
    world: World, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{SECRET}\r\nX: y")
    with pytest.raises(InputError, match="HF_TOKEN") as caught:
        get(NAME, "hf", tmp_path, notes)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_repository_that_needs_a_token(
    world: World, tmp_path: Path, notes: Notes, status: int
) -> None:
    world.faults += [("hub", "HEAD", saying(status))]
    with pytest.raises(InputError, match=rf"HTTP {status}.*HF_TOKEN"):
        get(NAME, "hf", tmp_path, notes)


@pytest.mark.parametrize(
    "value", ["hub.example", "ftp://hub.example", "https://", "https://me:word@hub.example",
              "https://hub.example/?a", "http://hub.example:port", "http://[::1"],
)  # fmt: skip
def test_an_endpoint_that_is_none(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", value)
    with pytest.raises(InputError, match="HF_ENDPOINT is no address such as") as caught:
        get(NAME, "hf", tmp_path, notes)
    assert "word" not in str(caught.value)


# --- what goes wrong on the way ----------------------------------------------------------------


@pytest.mark.parametrize(("source", "server"), [("hf", "store"), ("modelscope", "hub")])
@pytest.mark.parametrize("status", [206, 200])
def test_a_dropped_connection_goes_on(
    world: World, tmp_path: Path, notes: Notes, source: str, server: str, status: int
) -> None:
    """ModelScope says 200 to a Range that it honours; what counts is Content-Range."""
    world.ranged_status = status
    if source == "modelscope":  # the first GET is for the list
        world.faults += [("hub", "GET", lambda handler: False)]
    world.faults += [(server, "GET", dropping(2_000_000))]
    get(NAME, source, tmp_path, notes)
    assert whole(tmp_path)
    first, second = world.sent()
    assert first == 2_000_000
    assert 0 <= first + second - len(CONTENT) <= 1 << 16  # only what was missing, but for a block
    assert "again in" in notes.text


def test_a_later_run_goes_on(world: World, tmp_path: Path, notes: Notes) -> None:
    world.faults += [("store", "GET", dropping(2_000_000))]
    world.faults += [("hub", "GET", lambda handler: False)] + [("hub", "GET", saying(500))] * 99
    with pytest.raises(InputError, match="HTTP 500"):
        get(NAME, "hf", tmp_path, notes)
    assert files_in(tmp_path) == {f"{FILE}.part", f"{FILE}.part.json"}
    have = (tmp_path / f"{FILE}.part").stat().st_size
    world.faults.clear()
    get(NAME, "modelscope", tmp_path, notes)  # the same digest: it may come from anywhere
    assert whole(tmp_path)
    assert world.sent()[-1] == len(CONTENT) - have


def test_many_drops_are_survived_while_it_goes_on(
    world: World, tmp_path: Path, notes: Notes
) -> None:
    def drop(handler: Handler) -> bool:
        start = int((handler.headers["Range"] or "bytes=0-")[6:-1])
        extent = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        handler.answer(206, CONTENT[start:], {"Content-Range": extent}, cut=200_000)
        return True

    world.faults += [("store", "GET", drop)] * 12  # twice as many as tries without progress
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)


def test_a_host_without_ranges_starts_over(world: World, tmp_path: Path, notes: Notes) -> None:
    world.ranges = False
    world.faults += [("store", "GET", dropping(2_000_000))]
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    assert world.sent() == [2_000_000, len(CONTENT)]


def test_a_host_that_never_finishes_is_given_up(world: World, tmp_path: Path, notes: Notes) -> None:
    world.ranges = False
    world.faults += [("store", "GET", dropping(1_000_000))] * 99
    with pytest.raises(InputError, match=r"dropped|broke"):
        get(NAME, "hf", tmp_path, notes)
    assert len(world.sent()) == web.ATTEMPTS


@pytest.mark.parametrize("status", [206, 416])
@pytest.mark.parametrize(
    "extent", ["bytes 7-3199999/3200000", "bytes */3200000", "bytes 0-", "items 5-6/7", None]
)
def test_another_extent_than_asked_for_starts_over(
    world: World, tmp_path: Path, notes: Notes, extent: str | None, status: int
) -> None:
    leave_part(tmp_path, CONTENT[:1_000_000])
    headers = {"Content-Range": extent} if extent else {}
    world.faults += [("store", "GET", saying(status, CONTENT[1_000_000:], headers))]
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    assert world.sent()[-1] == len(CONTENT)


def test_a_part_of_another_version_starts_over(world: World, tmp_path: Path, notes: Notes) -> None:
    leave_part(tmp_path, b"old" * 1000, digest="0" * 64)
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    assert world.sent() == [len(CONTENT)]


@pytest.mark.parametrize("about", ["", "[1", '{"size": 3}', "null", "\udcff"])
def test_a_part_of_unknown_origin_starts_over(
    world: World, tmp_path: Path, notes: Notes, about: str
) -> None:
    leave_part(tmp_path, b"?" * 1000)
    (tmp_path / f"{FILE}.part.json").write_text(about, errors="surrogateescape")
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"?"], ids=["whole", "too long"])
def test_a_part_that_lacks_nothing(world: World, tmp_path: Path, notes: Notes, part: bytes) -> None:
    leave_part(tmp_path, part)
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    assert world.sent() == ([] if part == CONTENT else [len(CONTENT)])


@pytest.mark.parametrize("source", ["hf", "modelscope"])
@pytest.mark.parametrize(
    "body", [CONTENT[:-1] + b"?", CONTENT + b"?" * 500_000], ids=["wrong", "too long"]
)
def test_other_bytes_are_deleted(
    world: World, tmp_path: Path, notes: Notes, source: str, body: bytes
) -> None:
    (tmp_path / FILE).write_bytes(b"an older version")
    wrong = saying(200, body)
    world.faults += [("store", "GET", wrong), ("hub", "GET", lambda handler: False)]
    world.faults += [("hub", "GET", wrong)] if source == "modelscope" else []
    told = rf"announced \({len(CONTENT)} bytes, {SHA256}\).*deleted"
    with pytest.raises(FormatError, match=told):
        get(NAME, source, tmp_path, notes)
    assert files_in(tmp_path) == {FILE}
    assert (tmp_path / FILE).read_bytes() == b"an older version"


def test_a_busy_host_is_asked_again(world: World, tmp_path: Path, notes: Notes) -> None:
    world.faults += [("hub", "HEAD", saying(503)), ("hub", "HEAD", resetting)]
    world.faults += [("hub", "GET", saying(429, Retry_After="soon")), ("store", "GET", resetting)]
    world.faults += [("store", "GET", saying(403, b"<Error>signature expired</Error>"))]
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    assert "HTTP 503" in notes.text
    assert "HTTP 429" in notes.text


def test_a_host_may_say_how_long_to_wait(world: World, tmp_path: Path, notes: Notes) -> None:
    world.faults += [("hub", "HEAD", saying(429, Retry_After="1"))]
    began = time.monotonic()
    get(NAME, "hf", tmp_path, notes)
    assert time.monotonic() - began > 0.9


def test_tries_are_bounded(world: World, tmp_path: Path, notes: Notes) -> None:
    world.faults += [("hub", "HEAD", saying(503))] * 99
    with pytest.raises(InputError, match="HTTP 503"):
        get(NAME, "hf", tmp_path, notes)
    assert len(world.requests) == web.ATTEMPTS


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_file_that_a_host_does_not_have(
    world: World, tmp_path: Path, notes: Notes, source: str
) -> None:
    world.files = {f"AI-ModelScope/{REPOSITORIES['RN50']}/README.md": b"x"}
    for name in ("RN50", "ViT-L-14"):
        with pytest.raises(InputError, match=r"clip_cn.*HTTP 404.*Try another --from") as caught:
            get(name, source, tmp_path, notes)
        assert f"{world.url('hub')}/" in str(caught.value)
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(
    "body", [b'{"Code": 404, "Data": null}', b"[]", b'{"Data": {"Files": [3]}}']
)
def test_modelscope_says_no_with_status_200(
    world: World, tmp_path: Path, notes: Notes, body: bytes
) -> None:
    world.faults += [("hub", "GET", saying(200, body))]
    with pytest.raises(InputError, match="HTTP 404"):
        get(NAME, "modelscope", tmp_path, notes)


def test_a_cut_list_is_asked_for_again(world: World, tmp_path: Path, notes: Notes) -> None:
    world.faults += [("hub", "GET", saying(200, b'{"Data": {"Fil'))]
    get(NAME, "modelscope", tmp_path, notes)
    assert whole(tmp_path)


@pytest.mark.parametrize(
    ("source", "server", "method"),
    [("hf", "hub", "HEAD"), ("hf", "store", "GET"), ("modelscope", "hub", "GET")],
)
def test_a_web_page_is_no_file(
    world: World, tmp_path: Path, notes: Notes, source: str, server: str, method: str
) -> None:
    """As a hotel's network answers whatever is asked for."""
    page = saying(200, b"<html>Log in", Content_Type="text/html; charset=utf-8")
    world.faults += [(server, method, page)] * 99
    with pytest.raises(InputError, match="web page instead of the file"):
        get(NAME, source, tmp_path, notes)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("etag", ["", '"d41d8cd98f00b204e9800998ecf8427e-3"', "0" * 64])
def test_no_digest_is_said_so(world: World, tmp_path: Path, notes: Notes, etag: str) -> None:
    """An ETag of somebody else's may look like a digest: only the hub's own counts."""
    world.digests = False
    length = str(len(CONTENT))
    head = saying(200, b"", {"ETag": etag, "Content-Length": length})
    world.faults += [("store", "HEAD", head)] * 3 * bool(etag)
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)
    assert "states no digest" in notes.text
    assert SHA256 in notes.text
    get(NAME, "hf", tmp_path, notes)
    assert "is there already (Hugging Face states no digest" in notes.text
    (tmp_path / FILE).write_bytes(CONTENT[:-1])
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)


def test_without_a_digest_a_part_is_not_trusted(world: World, tmp_path: Path, notes: Notes) -> None:
    world.digests = False
    leave_part(tmp_path, b"?" * 1000, digest="")
    get(NAME, "hf", tmp_path, notes)
    assert whole(tmp_path)


def test_no_size_is_no_answer(world: World, tmp_path: Path, notes: Notes) -> None:
    world.digests = False
    world.faults += [("store", "HEAD", saying(200, Content_Length="?"))]
    get(NAME, "hf", tmp_path, notes)
    assert "does not state the size of the file; again in" in notes.text
    assert whole(tmp_path)


# --- no connection -----------------------------------------------------------------------------


def closed_port() -> str:
    """An address at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


@pytest.mark.parametrize("source", ["hf", "modelscope"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_offline_says_what_to_do_by_hand(
    world: World,
    tmp_path: Path,
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    language: Any,
) -> None:
    set_language(language)
    here = closed_port()
    monkeypatch.setenv("HF_ENDPOINT", here)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", here)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        get(NAME, source, tmp_path, notes)
    assert time.monotonic() - began < 5
    assert notes.events == []  # nothing is tried again
    repository = "chinese-clip-vit-base-patch16/resolve"
    for part in (
        {"en": "the connection was refused", "zh": "连接被拒绝"}[language],
        f"{here}/OFA-Sys/{repository}/main/{FILE}",
        f"{here}/models/AI-ModelScope/{repository}/master/{FILE}",
        str(tmp_path),
        "HF_ENDPOINT",
    ):
        assert part in str(caught.value)


def test_a_name_that_cannot_be_resolved(
    world: World, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    with pytest.raises(InputError, match="its name cannot be resolved"):
        get(NAME, "hf", tmp_path, notes)


def test_a_host_that_does_not_answer(
    world: World, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match="no answer within"):
            get(NAME, "hf", tmp_path, notes)


def test_offline_with_the_file_there(
    world: World, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    (tmp_path / FILE).write_bytes(b"as it came")
    assert get(NAME, "hf", tmp_path, notes) == [tmp_path / FILE]
    assert "is there already; not compared with Hugging Face" in notes.text


# --- the disk, and others at work --------------------------------------------------------------


def test_a_full_disk_keeps_the_part(world: World, tmp_path: Path, notes: Notes) -> None:
    leave_part(tmp_path, b"")
    part = tmp_path / f"{FILE}.part"
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"\(3 MB\) cannot be .* No space left.*is kept"):
        get(NAME, "hf", tmp_path, notes)
    assert part.is_symlink()


def test_a_disk_that_is_too_small_is_known_before(
    world: World, tmp_path: Path, notes: Notes
) -> None:
    head = {"X-Linked-ETag": SHA256, "X-Linked-Size": str(10**17), "Location": "/x"}
    world.faults += [("hub", "HEAD", saying(302, b"", head))]
    with pytest.raises(InputError, match="No space left on device"):
        get(NAME, "hf", tmp_path, notes)
    assert world.asked("hub") == []


def test_a_folder_that_cannot_be_made(world: World, tmp_path: Path, notes: Notes) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        get(NAME, "hf", tmp_path / "file" / "weights", notes)


GET = """
import sys
from pathlib import Path
from wentu.clip.download import get
from wentu.progress import Lines
get(sys.argv[1], "hf", Path(sys.argv[2]), Lines("weights"))
"""


def test_two_processes_fetch_once(world: World, tmp_path: Path) -> None:
    first, second = threading.Event(), threading.Event()

    def slow(handler: Handler) -> bool:
        first.set()
        assert second.wait(30)
        return False

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", GET, NAME, str(tmp_path)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    world.faults += [("store", "GET", slow)]
    with start() as one:
        assert first.wait(30)
        with start() as two:
            assert two.stderr is not None
            assert "waiting for it" in two.stderr.readline()
            second.set()
            assert "is there already" in two.communicate()[1]
        assert "is complete" in one.communicate()[1]
    assert one.returncode == two.returncode == 0
    assert whole(tmp_path)
    assert world.sent() == [len(CONTENT)]


# --- open_clip ---------------------------------------------------------------------------------


@pytest.fixture
def open_clip() -> Any:
    return pytest.importorskip("open_clip")


SIGLIP = "openclip:ViT-B-16-SigLIP@webli"
XLM = "openclip:xlm-roberta-base-ViT-B-32@laion5b_s13b_b90k"


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_an_open_clip_model_with_its_tokenizer(
    world: World, tmp_path: Path, notes: Notes, open_clip: Any, source: str
) -> None:
    owner = {"hf": "timm", "modelscope": "AI-ModelScope"}[source]
    world.files = {
        f"{owner}/ViT-B-16-SigLIP/open_clip_model.safetensors": CONTENT,
        f"{owner}/ViT-B-16-SigLIP/tokenizer.json": b"{}",
        f"{owner}/ViT-B-16-SigLIP/tokenizer_config.json": b"{ }",
    }
    home = tmp_path / "openclip" / "ViT-B-16-SigLIP@webli"
    paths = get(SIGLIP, source, tmp_path, notes)
    names = ("open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert paths == [home / name for name in names]
    assert paths[0] == target(SIGLIP, tmp_path)
    assert paths[0].read_bytes() == CONTENT


def test_an_open_clip_model_without_safetensors(
    world: World, tmp_path: Path, notes: Notes, open_clip: Any
) -> None:
    """Its text tower's tokenizer and config come too; the tokenizer from a copy."""
    where = open_clip.get_pretrained_cfg(*XLM.removeprefix("openclip:").split("@"))["hf_hub"]
    world.files = {
        f"{where}open_clip_pytorch_model.bin": CONTENT,
        f"{where}tokenizer.json": b"{}",
        f"{where}tokenizer_config.json": b"{ }",
        "xlm-roberta-base/config.json": b"{ }",
    }
    paths = get(XLM, "hf", tmp_path, notes)
    names = ["open_clip_model.bin", "tokenizer.json", "tokenizer_config.json", "config.json"]
    assert [path.name for path in paths] == names
    assert paths[0] == target(XLM, tmp_path)


def test_a_tokenizer_that_is_nowhere_is_known_first(
    world: World, tmp_path: Path, notes: Notes, open_clip: Any
) -> None:
    world.files = {"timm/ViT-B-16-SigLIP/open_clip_model.safetensors": CONTENT}
    with pytest.raises(InputError, match=r"no tokenizer(_config)?.json for us"):
        get(SIGLIP, "hf", tmp_path, notes)
    assert world.sent() == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("openclip:ViT-B-32", "known: openai, laion400m_e31"),
        ("openclip:ViT-B-32@nothing", "known: openai, laion400m_e31"),
        ("openclip:ViT-B-33@openai", "names like it: .*ViT-B-32"),
        ("openclip:../ViT-B-32@openai", "names like it"),
        ("openclip:", "names like it"),
        ("openclip:ViT-B-32@../x", "known: openai"),
    ],
)
def test_open_clip_names_that_are_none(
    tmp_path: Path, notes: Notes, open_clip: Any, name: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        get(name, "hf", tmp_path, notes)


def test_every_open_clip_model_has_a_place(tmp_path: Path, open_clip: Any) -> None:
    for model, tag in open_clip.list_pretrained():
        wanted = names.wanted(f"openclip:{model}@{tag}", tmp_path)
        places = [place for each in wanted for at in each.values() for place in at]
        assert all(place.file for place in places)
        assert all(place.path.is_relative_to(tmp_path / "openclip") for place in places)
        assert wanted[0]["hf"][0].path == target(f"openclip:{model}@{tag}", tmp_path)


# --- whatever a header says --------------------------------------------------------------------

HEADERS = ["ETag", "X-Linked-ETag", "X-Linked-Size", "X-Repo-Commit", "Content-Range", "Location"]
HEADERS += ["Content-Length", "Content-Type", "Retry-After", "Transfer-Encoding"]
VALUES = [
    "",
    "0",
    "-1",
    "9" * 5000,
    "²",
    "\xff\xfe",
    '"',
    "None",
    "chunked",
    "text/html",
]
VALUES += ["//", f'W/"{SHA256}"', SHA256.upper(), "a" * 40, "bytes 0-1/2", f"bytes 0-{9**20}/*"]


@pytest.mark.parametrize("seed", range(60))
def test_no_header_makes_it_stumble(
    world: World, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.0)
    monkeypatch.setattr(web, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(web, "TIMEOUT", 0.5)
    rng = random.Random(seed)

    def odd(handler: Handler) -> bool:
        status = rng.choice([200, 200, 200, 206, 302, 404, 416])
        chosen = {name: rng.choice(VALUES) for name in rng.sample(HEADERS, 4)}
        handler.answer(status, rng.choice([b"", CONTENT, CONTENT[1000:]]), chosen)
        return True

    for server, method in [("hub", "HEAD"), ("hub", "GET"), ("store", "GET")]:
        world.faults += [(server, method, odd)] * rng.randrange(3)
    if rng.random() < 0.5:
        leave_part(tmp_path, CONTENT[:1000])
    with contextlib.suppress(WentuError):
        get(NAME, rng.choice(["hf", "modelscope"]), tmp_path, notes)
    if "is complete" in notes.text and SHA256 in notes.text:
        assert whole(tmp_path)
