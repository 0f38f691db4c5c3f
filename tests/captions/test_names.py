"""Names as captions: what is a name, which numbers in front of it are none of it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wentu.captions import NameCaptions, of_names
from wentu.captions.names import cleaned, says_something
from wentu.errors import InputError


def named(*paths: str, folders: bool = False) -> list[str | None]:
    """The caption of each path of a collection."""
    names = of_names(lambda: paths, folders=folders)
    return [names.caption(path) for path in paths]


# --- what is a name ------------------------------------------------------------------------------

NOTHING = """
IMG_1516|IMG_20240101_123456|IMG_20240101_123456_HDR|IMG-20240101-WA0001|DSC08612|_DSC1234|DSC_0001
DSCN0001|DSCF1234|P1010023|PXL_20240101_123456789.PORTRAIT-01.COVER|MVIMG_20240101_123456|_MG_1234
VID_20240101_123456|GOPR0123|DJI_0001|IMG_1516 (2)|IMG_1516 - 副本|FB_IMG_1700000000000
微信图片_20240101120000|微信图片_2024.01.01|WeChat Image_20240101|mmexport1699000000000
QQ图片20240101|wx_camera_1699000000000|QQ截图20240101|企业微信截图_17000000000000|钉钉截图20240101
截图|截图 2024-01-01|截屏2024-01-01 上午10.00.00|屏幕截图 2024-01-01 101010|屏幕截图(12)
Screenshot_20240101-101010_WeChat|Screenshot_2024-01-01-10-00-00-00_com.tencent.mm|screenshot
Screen Shot 2024-01-01 at 10.00.00 AM|Screenshot 2024-01-01 101010
image|image(1)|image (12)|Image_01|图片1|图片 (2)|图像 (2)|unnamed|download|download (1)|untitled
未命名|未命名-1|photo_2024-01-01_10-00-00|640|640 (1)
d41d8cd98f00b204e9800998ecf8427e|550e8400-e29b-41d4-a716-446655440000|2090545563_a4e66ec76b
2090545563_a4e66ec76b_z|v2-5f3a9c8e7d6b5a4f3e2d1c0b9a8f7e6d_720w|006y8mN6gy1h5kq2j3j30u00u0wg
123|0001|2024-01-01|20240101|2024年1月1日|20240101_123456|1699000000123|2024-01-01 10.20.30
a|aaa|xxxx|哈哈哈|___|(1)||😀|...|-
"""
SOMETHING = """
雪地里两只黑狗|妈妈|月|写|叉|3只小猪|2024年会|O 型血|iPhone15|春节20240101|北京2022冬奥会|图片框
red_car|kiwi-example|night|portrait|train|camera|copycat|facade|deadbeef|Boeing747|IMG_猫
截图工具|屏幕|café|Ёлка|ねこ|고양이|v1.2 发布
"""


@pytest.mark.parametrize("name", "|".join(NOTHING.strip("\n").splitlines()).split("|"))
def test_what_cameras_and_chats_write_is_no_caption(name: str) -> None:
    assert not says_something(cleaned(name))


@pytest.mark.parametrize("name", "|".join(SOMETHING.strip().splitlines()).split("|"))
def test_what_people_write_is_a_caption(name: str) -> None:
    assert says_something(cleaned(name))


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("猫 (1)", "猫"),
        ("猫（2）", "猫"),
        ("猫副本", "猫"),
        ("猫 - 副本", "猫"),
        ("猫 - 副本 (2)", "猫"),
        ("猫 副本 3", "猫"),
        ("Cat - Copy", "Cat"),
        ("cat copy 2", "cat"),
        ("cat_copy2", "cat"),
        ("photocopy", "photocopy"),
        ("red_car+blue_sky", "red car blue sky"),
        ("猫_狗", "猫_狗"),
        ("石凉粉(冰粉)成品1", "石凉粉(冰粉)成品1"),
        (" e\u0301te\u0301 ", "été"),
        ("猫\ud83d", "猫?"),
    ],
)
def test_what_copying_adds_is_taken_away(name: str, caption: str) -> None:
    assert cleaned(name) == caption


# --- numbers in front ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "captions"),
    [
        (["0001妙蛙种子", "0002妙蛙草", "0003妙蛙花"], ["妙蛙种子", "妙蛙草", "妙蛙花"]),
        (["0003-版权", "0006-大小王", "1092-白羊座"], ["版权", "大小王", "白羊座"]),
        (["0001年糕", "0002人参", "0003天鹅"], ["年糕", "人参", "天鹅"]),
        (["01_x光", "02_cat", "03_狗"], ["x光", "cat", "狗"]),
        (["1. 猫", "2. 狗", "10. 鸟"], ["猫", "狗", "鸟"]),
        (["(1) 猫", "(2) 狗"], ["猫", "狗"]),
        (["（1）猫", "（2）狗"], ["猫", "狗"]),
        (["1、猫", "2、狗", "3、鸟"], ["猫", "狗", "鸟"]),
        (["1020起士", "1023小孩", "1026包頭巾的女子"], ["起士", "小孩", "包頭巾的女子"]),
        (["1158月", "1159寫", "1160叉"], ["月", "寫", "叉"]),
        (["0001妙蛙种子"], ["妙蛙种子"]),
        # numbers that are part of what is said
        (["3只小猪"], ["3只小猪"]),
        (["1只小猪", "2只小狗", "3只小猫"], ["1只小猪", "2只小狗", "3只小猫"]),
        (["2024年会"], ["2024年会"]),
        (["2022年会", "2023年会", "2024年会"], ["2022年会", "2023年会", "2024年会"]),
        (["2022 春节", "2023 春节", "2024 春节"], ["2022 春节", "2023 春节", "2024 春节"]),
        (["3D打印", "4K电视", "5G手机"], ["3D打印", "4K电视", "5G手机"]),
        (["3只小猪", "猫", "狗", "鸟"], ["3只小猪", "猫", "狗", "鸟"]),
        (["5红花", "5黄花", "5白花"], ["5红花", "5黄花", "5白花"]),
        (["12苹果", "500香蕉", "99999梨"], ["12苹果", "500香蕉", "99999梨"]),
        (["3.5寸软盘", "1.5升水", "2.5米布"], ["3.5寸软盘", "1.5升水", "2.5米布"]),
        (["00后女孩"], ["00后女孩"]),
        (["01楼大厅", "02楼食堂", "03楼书店"], ["01楼大厅", "02楼食堂", "03楼书店"]),
    ],
)
def test_numbers_go_where_they_are_a_numbering(names: list[str], captions: list[str]) -> None:
    assert named(*(f"a/{name}.png" for name in names)) == captions


def test_a_few_other_names_do_not_hide_a_numbering() -> None:
    names = [f"{number:03}-图{'甲乙丙丁'[number % 4]}.png" for number in range(40)]
    assert named(*names, "封面.png", "IMG_0001.jpg", "20240101.jpg")[-4:] == [
        "图丁",
        "封面",
        None,
        None,
    ]


def test_each_folder_is_judged_on_its_own() -> None:
    assert named("a/1猫.png", "a/2狗.png", "a/3鸟.png", "b/3头猪.png", "b/牛.png", "b/羊.png") == [
        "猫",
        "狗",
        "鸟",
        "3头猪",
        "牛",
        "羊",
    ]


def test_a_folder_of_few_goes_by_the_collection() -> None:
    assert named("a/0001猫.png", "b/0002狗.png", "c/1003鸟.png") == ["猫", "狗", "鸟"]
    assert named("a/1-猫.png", "a/2-狗.png", "a/3-鸟.png", "b/1-牛.png")[-1] == "牛"


# --- folders -------------------------------------------------------------------------------------


def test_the_name_of_the_folder_is_the_caption() -> None:
    paths = [
        "菜/01-柠檬水/IMG_1.jpg",
        "菜/01-柠檬水/IMG_2.jpg",
        "菜/02-冰粉/x.jpg",
        "菜/03-茶/1.jpg",
    ]
    assert named(*paths, folders=True) == ["柠檬水", "柠檬水", "冰粉", "茶"]


@pytest.mark.parametrize(
    "folder",
    # the first is the collection itself
    [
        *(
            "",
            "DCIM",
            "100APPLE",
            "101CANON",
            "新建文件夹",
            "新建文件夹 (2)",
            "Camera",
            "2024-01-01",
        ),
        *("2024年5月", "images", "New Folder", "train", "WeChat", "a"),
    ],
)
def test_folders_that_say_nothing(folder: str) -> None:
    path = f"{folder}/x.jpg".lstrip("/")
    assert named("猫/1.jpg", path, folders=True) == ["猫", None]


# --- refusals ------------------------------------------------------------------------------------


def refusal(paths: Iterable[str], *, folders: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        of_names(lambda: paths, folders=folders)
    return str(caught.value)


def test_names_of_cameras_are_refused_with_the_option_that_does() -> None:
    told = refusal([f"{kind}/IMG_{n:04}.jpg" for kind in ("猫", "狗") for n in range(10)])
    assert told.startswith("--captions names: only 0 of 20 file names are captions")
    assert told.count("IMG_") == 3
    assert "would do for 20: use --captions folder" in told
    assert "--captions none --no-train" in told
    flat = refusal([f"IMG_{n:04}.jpg" for n in range(20)])
    assert "Give a file of captions" in flat
    assert "--captions folder" not in flat


def test_folders_that_say_nothing_are_refused_with_the_option_that_does() -> None:
    told = refusal(["DCIM/猫.jpg", "DCIM/狗.jpg", "茶/1.jpg"], folders=True)
    assert "only 1 of 3 pictures lie in a folder whose name is a caption" in told
    assert "would do for 2: use --captions names" in told


def test_names_that_only_repeat_their_folder_give_way_to_it() -> None:
    paths = ["柠檬水/柠檬水.jpg", "冰粉/冰粉成品1.jpg", "冰粉/冰粉成品2.jpg", "茶/IMG_1.jpg"]
    assert "3 names only repeat their folder's, which would do for 4" in refusal(paths)
    assert named(*paths[:3]) == ["柠檬水", "冰粉成品1", "冰粉成品2"]  # nothing would be gained
    own = ["饮品/柠檬水.jpg", "饮品/冰粉.jpg", "饮品/绿茶.jpg", "饮品/IMG_1.jpg"]
    assert named(*own) == ["柠檬水", "冰粉", "绿茶", None]
    some = ["猫/猫.jpg", "猫/睡着的小白.jpg", "猫/打架.jpg", "狗/IMG_1.jpg", "狗/IMG_2.jpg"]
    assert named(*some) == ["猫", "睡着的小白", "打架", None, None]


def test_half_is_enough_and_nothing_is_no_mistake() -> None:
    assert named("猫.jpg", "IMG_1.jpg") == ["猫", None]
    assert of_names(lambda: ()).samples == []


def test_refusals_exist_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_LANG", "zh")
    assert "目录名可用于 1 张：请用 --captions folder。" in refusal(["猫/IMG_1.jpg"])
    assert "所在的目录名可作为描述" in refusal(["x/1.jpg", "1/2.jpg"], folders=True)
    assert "只是重复目录名" in refusal(["猫/猫.jpg", "狗/IMG_1.jpg"])


# --- counts, samples, memory ---------------------------------------------------------------------


def test_samples_are_from_all_over_and_always_the_same() -> None:
    paths = [f"{n // 100}/{'猫狗鸟鱼'[n % 4]}甲{n}.jpg" for n in range(1000)]
    names = of_names(lambda: [*paths, "1.jpg"])
    assert (names.captioned, names.without, len(names.samples)) == (1000, 1, 10)
    assert names.samples == of_names(lambda: ["1.jpg", *reversed(paths)]).samples
    assert names.samples == sorted(names.samples)
    assert all(names.caption(path) == text for path, text in names.samples)
    assert len({path.partition("/")[0] for path, _ in names.samples}) > 3


def peak(count: int) -> int:
    """Most bytes that Python held while the names of so many pictures in 7 folders were read."""
    tracemalloc.start()
    of_names(lambda: (f"{n % 7}/{n:06}-相当长的名字，说的是图片 {n}.jpg" for n in range(count)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_grows_with_the_folders_only() -> None:
    peak(100)  # what is loaded once
    assert peak(1100) - peak(100) < 20 * 1000


@given(st.lists(st.text(st.characters(codec=None), min_size=1), min_size=1, max_size=8))
def test_any_names_are_captions_none_or_a_sentence(paths: list[str]) -> None:
    for folders in (False, True):
        try:
            names = of_names(lambda: paths, folders=folders)
        except InputError:
            continue
        assert names.captioned + names.without == len(paths)
        texts = [names.caption(path) for path in paths]
        assert all(text is None or text.strip().encode() for text in texts)


# --- real names ----------------------------------------------------------------------------------


@pytest.fixture
def names_of(data: Path) -> Callable[..., NameCaptions]:
    def names_of(folder: str, *, folders: bool = False) -> NameCaptions:
        root = data / folder
        paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        return of_names(lambda: paths, folders=folders)

    return names_of


@pytest.mark.parametrize(
    ("folder", "path", "caption", "total"),
    [
        ("emoji-named", "0003-版权.png", "版权", 398),
        ("emoji-named-hant", "1029橘心.png", "橘心", 48),
    ],
)
def test_real_names_of_emoji(
    names_of: Callable[..., NameCaptions], folder: str, path: str, caption: str, total: int
) -> None:
    names = names_of(folder)
    assert (names.captioned, names.without) == (total, 0)
    assert names.caption(path) == caption
    assert not any(text[0].isdigit() for _, text in names.samples)


def test_a_real_folder_of_photos_goes_by_its_folders(
    names_of: Callable[..., NameCaptions],
) -> None:
    names = names_of("photo-folder", folders=True)
    assert (names.captioned, names.without) == (49, 1)
    assert names.caption("dessert/戚风蛋糕/DSC08606.jpg") == "戚风蛋糕"
    with pytest.raises(InputError, match="use --captions folder"):
        names_of("photo-folder")


def test_real_names_of_flickr_are_refused(names_of: Callable[..., NameCaptions]) -> None:
    for folders in (False, True):
        with pytest.raises(InputError, match="Give a file of captions"):
            names_of("flickr8k-cn/flickr8k-images", folders=folders)
