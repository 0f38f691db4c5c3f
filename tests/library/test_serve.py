"""`wentu serve --library` as a person runs it: a real process, real pictures, over HTTP."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import segno

from tests.library.folders import assert_right, fill, jpeg, put
from tests.library.service import serving, until
from wentu.commands import library as own
from wentu.errors import InputError
from wentu.library.place import load
from wentu.library.status import lives


def follower(index: Path) -> int:
    """The process that follows, as the status has it."""
    return int(json.loads((index / "library/status.json").read_text("utf-8"))["pid"])


def test_a_folder_is_served_and_followed(built: Any, tmp_path: Path) -> None:
    root, index = tmp_path / "pictures", tmp_path / "index"
    fill(root, range(40))
    with serving(root, index, tmp_path / "log", "--model", str(built.winner)) as service:
        until(lambda: service.library().get("state") == "following")
        assert service.library() == {
            "state": "following",
            "indexed": 40,
            "waiting": 0,
            "damaged": 0,
            "problem": "",
        }
        until(lambda: service.found(jpeg(7)) == ["0/00007.jpg"])
        new, began = jpeg(1000), time.monotonic()
        put(root / "new 新.jpg", new, time.time())
        until(lambda: service.found(new) == ["new 新.jpg"])
        assert time.monotonic() - began < 60
        (identity,) = (hit["id"] for hit in search(service, new))
        original = service.client.get(f"/api/v1/pictures/{identity}/original?location=true")
        assert original.content == new
        assert service.client.get(f"/api/v1/pictures/{identity}/thumbnail").status_code == 200
        (root / "new 新.jpg").rename(root / "renamed.jpg")
        until(lambda: service.found(new) == ["renamed.jpg"])
        (root / "renamed.jpg").unlink()
        until(lambda: not service.found(new))

        os.kill(follower(index), signal.SIGKILL)  # serving goes on, and it is started again
        until(lambda: service.library().get("state") == "stopped")
        assert "not followed" in service.library()["problem"]
        assert service.found(jpeg(7)) == ["0/00007.jpg"]
        until(lambda: service.library().get("state") == "following")
        root.rename(tmp_path / "away")
        until(lambda: service.library().get("state") == "away")
        assert service.found(jpeg(7)) == ["0/00007.jpg"]
        (tmp_path / "away").rename(root)
        put(root / "new.jpg", new)
        until(lambda: service.found(new) == ["new.jpg"])
    library = load(str(index))
    assert library
    assert_right(library, root, built.winner)


def search(service: Any, picture: bytes) -> list[dict[str, Any]]:
    files = {"picture": picture}
    hits: list[dict[str, Any]] = service.client.post(
        "/api/v1/search/picture?k=1", files=files
    ).json()["hits"]
    return hits


def test_of_two_services_one_follows_and_the_other_takes_over(built: Any, tmp_path: Path) -> None:
    root, index, model = tmp_path / "pictures", tmp_path / "index", ("--model", str(built.winner))
    fill(root, range(5))
    with serving(root, index, tmp_path / "one", *model) as one:
        until(lambda: one.library().get("state") == "following")
        with serving(root, index, tmp_path / "two") as two:
            until(lambda: "another process follows" in two.said())
            until(lambda: two.found(jpeg(3)) == ["3/00003.jpg"])
            first = follower(index)
            one.kill()
            fill(root, range(5, 6))
            until(lambda: two.found(jpeg(5)) == ["5/00005.jpg"])
            assert follower(index) != first
            until(lambda: not lives(first))


@pytest.mark.parametrize("name", ["model", "moved_from"])
def test_options_of_a_library_need_one(name: str) -> None:
    given = {"library": None, "model": None, "moved_from": None} | {name: "x"}
    with pytest.raises(InputError, match="goes with --library DIR"):
        own.served(store="", collection="", lan=False, **given)


# --- for a telephone --------------------------------------------------------------------------


def test_the_code_is_that_of_the_link() -> None:
    """Drawn in half lines; read back, it is the code that segno makes."""
    text = "http://192.168.1.7:8000/#token=abc_-123"
    rows: list[list[int]] = []
    for line in own.qr_code(text).splitlines():
        cells = line.removeprefix("\x1b[97;40m").removesuffix("\x1b[0m")
        # White on black: what is drawn is light.
        rows.append([0 if cell in "█▀" else 1 for cell in cells])
        rows.append([0 if cell in "█▄" else 1 for cell in cells])
    expected = [list(row) for row in segno.make(text, error="l", micro=False).matrix_iter(border=4)]
    assert rows[: len(expected)] == expected


def test_in_the_network_there_is_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_TOKEN", "")
    assert own.lan_host(False, None, False) is None
    assert "WENTU_TOKEN" in os.environ
    assert os.environ["WENTU_TOKEN"] == ""
    assert own.lan_host(True, "10.0.0.7", False) == "10.0.0.7"
    first = os.environ["WENTU_TOKEN"]
    assert len(first) >= 20
    assert own.lan_host(True, "10.0.0.7", False) == "10.0.0.7"
    assert os.environ["WENTU_TOKEN"] == first  # the user's own is kept
    assert own.invitation("http://10.0.0.7:80", first) == f"http://10.0.0.7:80/#token={first}"
    assert own.invitation("http://h", "a+b/c=") == "http://h/#token=a%2Bb%2Fc%3D"
    assert own.invitation("http://h", "mine", known=True) == "http://h/#token=$WENTU_TOKEN"
    monkeypatch.setenv("WENTU_TOKEN", "")
    own.lan_host(True, "10.0.0.7", True)
    assert os.environ["WENTU_TOKEN"] == ""
    assert own.invitation("http://10.0.0.7:80", "") == "http://10.0.0.7:80/"


def test_the_address_is_one_of_this_machine(built: Any, tmp_path: Path) -> None:
    try:
        address = own.lan_address()
    except InputError:
        pytest.skip("this machine is in no network")
    root = put(tmp_path / "pictures/a.jpg", jpeg(1)).parent
    model = ("--model", str(built.winner))
    with serving(root, tmp_path / "index", tmp_path / "log", "--lan", *model) as service:
        assert service.client.base_url.host == address
        assert until(lambda: service.client.get("/api/v1/release")).status_code == 401
        (link,) = (line for line in service.said().splitlines() if "#token=" in line)
        token = link.partition("#token=")[2]
        service.client.headers["Authorization"] = f"Bearer {token}"
        until(lambda: service.found(jpeg(1)) == ["a.jpg"])
