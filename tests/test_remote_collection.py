"""Pictures and captions in a bucket are those of a folder with the same files."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from wentu.captions import caption_files
from wentu.collection import Skipped, open_collection
from wentu.errors import InputError
from wentu.formats import STORE_MARK
from wentu.storage import local_copy
from wentu.storage.s3 import Objects

FILES = [
    *("a.jpg", "a/b.PNG", "a/c.mp4", "a.b/图 片+%.webp", "中文/😀.jpeg", "notes.txt"),
    *(".hidden/a.jpg", "a/@eaDir/b.jpg", "store/" + STORE_MARK, "store/thumbnails/1.jpg"),
    *("noname", "a/drawing.svg", "z/Thumbs.db"),
]


@pytest.fixture
def places(bucket: str, tmp_path: Path) -> tuple[str, str]:
    """The same files in a folder and below a prefix of a bucket."""
    place = f"s3://{bucket}/图库 {uuid.uuid4().hex[:8]}"
    objects = Objects(place)
    for name in FILES:
        data = b"\xff\xd8\xff" + name.encode()
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        objects.put(name, data)
    objects.put("a/", b"")  # as consoles make for a folder
    return str(tmp_path / "folder"), place


def test_a_walk_meets_the_same_pictures_and_passes_over_the_same(places: tuple[str, str]) -> None:
    met: list[Any] = []
    for place in places:
        skipped = Skipped()
        found = list(open_collection(place).walk(skipped.add))
        met.append(([(each.path, each.size) for each in found], sorted(skipped.examples)))
    assert met[0] == met[1]
    assert [path for path, _ in met[0][0]] == [
        *("a.b/图 片+%.webp", "a.jpg", "a/b.PNG", "noname", "中文/😀.jpeg"),
    ]


def test_bytes_and_digests_are_the_same_and_marks_change_with_them(
    places: tuple[str, str], bucket: str
) -> None:
    local, remote = map(open_collection, places)
    assert local.read("a/b.PNG") == remote.read("a/b.PNG")
    assert local.digest("a/b.PNG") == remote.digest("a/b.PNG")
    with pytest.raises(OSError, match=r"gone\.jpg"):
        remote.read("gone.jpg")
    before = {each.path: each.mark for each in remote.walk(Skipped().add)}
    Objects(places[1]).put("a.jpg", b"\xff\xd8\xffA.jpg")
    after = {each.path: each.mark for each in remote.walk(Skipped().add)}
    assert {path for path in after if after[path] != before[path]} == {"a.jpg"}


def test_a_picture_that_was_exchanged_meanwhile_is_noticed(places: tuple[str, str]) -> None:
    remote = open_collection(places[1])
    digest = bytes.fromhex(remote.digest("a.jpg"))
    Objects(places[1]).put("a.jpg", b"another")
    with pytest.raises(InputError, match="was changed during the run"):
        remote.read_unchanged("a.jpg", digest)


def test_captions_and_models_are_copied_when_they_are_named_and_when_they_changed(
    bucket: str,
) -> None:
    place = f"s3://{bucket}/{uuid.uuid4().hex[:8]}"
    objects = Objects(place)
    for name in ("cn_train.json", "cn_test.json", "a.jpg", "deep/x.json", "deep/y"):
        objects.put(name, name.encode())
    assert [path.name for path in caption_files(place)] == ["cn_test.json", "cn_train.json"]
    one = caption_files(f"{place}/cn_train.json")[0]
    assert one.read_bytes() == b"cn_train.json"
    objects.put("cn_train.json", b"[]")
    assert caption_files(f"{place}/cn_train.json")[0].read_bytes() == b"[]"
    assert sorted(path.name for path in local_copy(f"{place}/deep").iterdir()) == ["x.json", "y"]
    with pytest.raises(InputError, match="nothing is there"):
        local_copy(f"{place}/nowhere")
