"""Folders as phones, network drives and chats leave them: nothing lost, nothing odd let in."""

from __future__ import annotations

import inspect
import json
import os
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from wentu import pictures
from wentu.collection import Skipped, open_collection, walk
from wentu.collection.names import kind_of_bytes, kind_of_name
from wentu.collection.skipped import KINDS, MOST_EXAMPLES
from wentu.errors import InputError
from wentu.pictures import PictureError

JPEG = b"\xff\xd8\xff\xe0" + bytes(40)


def fill(root: Path, *names: str, data: bytes = JPEG) -> Path:
    """Make files, and the folders they are in."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def look(root: Path) -> tuple[list[str], dict[str, str]]:
    """The pictures, and the kind of everything that was passed over."""
    skipped: dict[str, str] = {}

    def tell(path: str, kind: str) -> None:
        assert path not in skipped
        skipped[path] = kind

    return list(walk(root, tell)), skipped


# What is a picture


def test_every_extension_in_any_case(tmp_path: Path) -> None:
    names = ["a.jpg", "B.JPG", "c.JpEg", "d.jfif", "e.png", "f.PNG", "g.webp", "h.gif", "i.bmp"]
    names += ["j.tif", "k.TIFF", "l.mpo", "m.HEIC", "n.heif", "o.hif", "p.avif", "q.jp2", "r.pnm"]
    assert look(fill(tmp_path, *names)) == (sorted(names), {})


def test_names_of_any_kind(tmp_path: Path) -> None:
    names = [
        "微信图片_20240101.jpg",
        "a b  c.png",
        "😀👨‍👩‍👧.jpeg",
        "年会/合影 (1).HEIC",
        "e\u0301.jpg",
        "é.jpg",
    ]
    names += [
        "two\nlines.jpg",
        "trailing .jpg",
        "space.jpg ",
        "-rf.png",
        "“引号”.webp",
        "a.b.c.jpg",
    ]
    assert look(fill(tmp_path, *names)) == (sorted(names), {})


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode("图".encode("gbk") + b".jpg")
    assert look(fill(tmp_path, name))[0] == [name]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.mp4", "video"),
        ("IMG_0001.MOV", "video"),  # the moving half of a live photo
        ("a.m2ts", "video"),
        ("a.dng", "unsupported"),
        ("DSC_0001.NEF", "unsupported"),
        ("a.svg", "unsupported"),
        ("a.psd", "unsupported"),
        ("IMG_0001.livp", "unsupported"),
        ("a.jxl", "unsupported"),
        ("Thumbs.db", "junk"),
        (".DS_Store", "junk"),
        ("desktop.ini", "junk"),
        ("ehthumbs.db", "junk"),
        ("._IMG_0001.jpg", "junk"),
        (".trashed-1700000000-a.jpg", "junk"),
        ("a.jpg~", "junk"),
        ("a.jpg_original", "junk"),
        ("captions.json", "other"),
        ("a.AAE", "other"),
        ("a.pdf", "other"),
        ("a.jpg.download", "other"),
        ("a.jpg.tmp", "other"),
        ("a.crdownload", "other"),
        ("0a1b.dat", "other"),
        ("noextension", "unknown"),
        ("cache.0", "unknown"),
        ("mmexport.jpg!large", "unknown"),
        ("2023.05.01 生日", "unknown"),
        ("photo.jpg_720x720", "unknown"),
    ],
)
def test_kinds_by_name(name: str, kind: str) -> None:
    assert kind_of_name(name) == kind


def test_what_systems_leave_behind_is_told_once(tmp_path: Path) -> None:
    junk = ["@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"]
    junk += [".Trash-1000", ".Trashes", "__MACOSX", ".thumbnails", "lost+found", "@Recycle"]
    fill(tmp_path, *(f"{folder}/deep/a.jpg" for folder in junk))
    fill(tmp_path, "相册/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "相册/a.jpg", "@小明/b.jpg")
    found, skipped = look(tmp_path)
    assert found == ["@小明/b.jpg", "相册/a.jpg"]
    assert skipped == dict.fromkeys([*(f"{each}/" for each in junk), "相册/@eaDir/"], "junk")


def test_files_whose_names_say_nothing_are_opened(tmp_path: Path) -> None:
    starts = {
        "jpeg": JPEG,
        "png.0": b"\x89PNG\r\n\x1a\n" + bytes(30),
        "webp": b"RIFF\x10\0\0\0WEBPVP8 ",
        "heic.12": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
        "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
        "bmp": b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(20),
        "ppm": b"P6\n# drawn\n12 9\n255\n",
        "video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        "webm": b"\x1aE\xdf\xa3" + bytes(30),
        "layers": b"8BPS\0\1" + bytes(30),
        "raw": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        "text": b"P1 is the name of a form, not a picture",
        "empty": b"",
    }
    for name, data in starts.items():
        fill(tmp_path, name, data=data)
    fill(tmp_path, "a.dat", "b.tmp")  # not opened: unfinished, or of a program
    found, skipped = look(tmp_path)
    assert found == ["avif", "bmp", "heic.12", "jpeg", "png.0", "ppm", "webp"]
    assert skipped == {
        **{"a.dat": "other", "b.tmp": "other", "empty": "other", "text": "other"},
        **{"video": "video", "webm": "video", "layers": "unsupported", "raw": "unsupported"},
    }


def test_bytes_that_are_recognised_are_those_that_are_decoded(data: Path) -> None:
    for path in sorted((data / "broken" / "must-load").iterdir()):
        if path.name != "junk_jpeg_header.jpg":  # known by its extension only
            assert kind_of_bytes(path.read_bytes()[:32]) == "picture", path.name


def test_a_real_folder(data: Path) -> None:
    found, skipped = look(data / "photo-folder")
    assert len(found) == 50
    assert skipped == {}
    assert found == sorted(
        path.relative_to(data / "photo-folder").as_posix()
        for path in (data / "photo-folder").rglob("*")
        if path.is_file()
    )
    found, _ = look(data / "broken")
    assert len(found) == 29


# The order, and the folders


def test_the_order_is_that_of_whole_paths(tmp_path: Path) -> None:
    names = ["a.jpg", "a/z.jpg", "a/b/c.jpg", "a b.jpg", "a-b/c.jpg", "ab.jpg", "A/a.jpg", "10.jpg"]
    names += ["2.jpg", "文/图.jpg", "文.jpg", "a/b.jpg", "a0/x.jpg"]
    found, _ = look(fill(tmp_path, *names))
    assert found == sorted(names)


def test_a_folder_called_like_a_picture_is_a_folder(tmp_path: Path) -> None:
    assert look(fill(tmp_path, "album.jpg/a.jpg"))[0] == ["album.jpg/a.jpg"]


def test_links_lead_out_of_the_collection_only(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", "a/1.jpg", "b/2.jpg")
    other = fill(tmp_path / "other", "3.jpg", "deep/4.jpg")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "itself").symlink_to(root / "a" / "itself")
    (root / "a" / "self").symlink_to(".")
    (root / "0").symlink_to(root / "b")
    (root / "c").symlink_to(other / "deep")
    (root / "d").symlink_to(other)
    (root / "e").symlink_to(tmp_path)
    (other / "back").symlink_to(root)
    (other / "round").symlink_to(other)
    (root / "1.jpg").symlink_to(other / "3.jpg")
    found, skipped = look(root)
    assert found == ["1.jpg", "a/1.jpg", "b/2.jpg", "c/4.jpg", "d/3.jpg"]
    links = ["0/", "a/self/", "a/up/", "d/back/", "d/deep/", "d/round/", "e/"]
    assert skipped == {**dict.fromkeys(links, "link"), "a/itself": "unreadable"}


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    fill(tmp_path / "real", "a/1.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert look(tmp_path / "link")[0] == ["a/1.jpg"]


def test_what_cannot_be_opened_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path, "a.jpg", "locked/b.jpg", "z/c.jpg", "secret")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")  # left to whoever reads it
    (root / "gone").symlink_to(root / "nowhere")
    real = os.scandir

    def scandir(path: Path | int) -> object:
        """The tests may run as root, who may read everything; pytest cleans up by descriptors."""
        if not isinstance(path, int) and Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found, skipped = look(root)
    assert found == ["a.jpg", "gone.jpg", "secret", "z/c.jpg"]
    assert skipped == {"locked/": "unreadable", "gone": "unreadable"}


def test_pipes_and_sockets_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    assert look(tmp_path) == ([], {"pipe.jpg": "other", "pipe": "other"})


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    for root in (tmp_path / "a.jpg", tmp_path / "none"):
        with pytest.raises(InputError, match="cannot be listed"):
            look(root)


def test_folders_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep = fill(tmp_path, "d/" * 200 + "a.jpg")
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 100)
        assert look(deep)[0] == ["d/" * 200 + "a.jpg"]
    finally:
        sys.setrecursionlimit(limit)


def test_memory_holds_one_folder_and_not_all(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
        for number in range(100):
            os.close(os.open(tmp_path / f"{folder}/IMG_{number:05}.jpg", os.O_CREAT))
    tracemalloc.start()
    try:
        assert sum(1 for _ in walk(tmp_path, Skipped().add)) == 2_000
        assert tracemalloc.get_traced_memory()[1] < 60_000  # 2,000 names take 140 kB
    finally:
        tracemalloc.stop()


# What is told


def test_skipped_counts_and_keeps_some_examples() -> None:
    skipped = Skipped()
    assert str(skipped) == "nothing passed over"
    for number in range(1000):
        skipped.add(f"{number}.mp4", "video")
    skipped.add("a.nef", "unsupported")
    assert skipped.total == 1001
    assert skipped.counts == Counter(video=1000, unsupported=1)
    assert skipped.examples[-1] == ("199.mp4", "video")
    assert len(skipped.examples) == MOST_EXAMPLES
    assert str(skipped) == "passed over 1,001: 1,000 videos, 1 picture in a format not read"
    assert json.loads(json.dumps(skipped.examples[:1])) == [["0.mp4", "video"]]


def test_every_kind_has_its_words_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = Skipped()
    for kind in KINDS:
        skipped.add("x", kind)
    assert str(skipped).count(",") == len(KINDS) - 1
    monkeypatch.setenv("WENTU_LANG", "zh")
    assert str(skipped).startswith("跳过 6 个：1 个视频、1 个格式不支持的图片、")
    assert str(Skipped()) == "没有跳过任何文件"


def test_the_decoder_reads_what_is_let_in_or_says_why_not(data: Path) -> None:
    refused = []
    for path in walk(data / "broken", Skipped().add):
        try:
            pictures.decode((data / "broken" / path).read_bytes())
        except PictureError:
            refused.append(path)
    assert len(refused) == 10
    assert all(path.startswith("must-be-refused/") for path in refused)


def test_a_collection_must_exist(tmp_path: Path) -> None:
    assert open_collection(str(tmp_path)).top == str(tmp_path)
    with pytest.raises(InputError, match=r"--pictures .*nowhere: no such folder"):
        open_collection(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="no such folder"):
        open_collection(str(tmp_path / "file"))
