"""Traditional characters -> simplified, by OpenCC: what Chinese-CLIP was trained on.

    t2s     characters alone: 電腦 -> 电脑, 滑鼠 -> 滑鼠
    tw2sp   from Taiwan, its words too: 滑鼠 -> 鼠标, 軟體 -> 软件
    hk2s    from Hong Kong, with its forms of characters: 衞 -> 卫

t2s and hk2s leave simplified text alone. tw2sp takes it for Taiwan's and changes words that mean
something else there: 文件 -> 文档, 程序 -> 进程 (3 of the 398 names of our emoji, no caption of
Flickr8k-CN). 3 to 4 us a caption; 2 to 15 ms to open the dictionaries, once in a process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from wentu.errors import InputError

CONVERSIONS = ("none", "t2s", "tw2sp", "hk2s")

# OpenCC takes UTF-8, which holds no lone surrogate, and what ends at a NUL.
_PARTS = re.compile("[^\0\ud800-\udfff]+")


def convert(text: str, how: str) -> str:
    """``text`` with its characters (and words) converted; any text, from any thread.

    Args:
        how: one of ``CONVERSIONS``.

    Raises InputError on another ``how``, and where OpenCC is not installed.
    """
    if how == "none" or (text.isascii() and how in CONVERSIONS):
        return text
    run = _converter(how)
    return _PARTS.sub(lambda part: run(part[0]), text)


@cache
def _converter(how: str) -> Callable[[str], str]:
    """One converter in a process. It is never changed, so threads may share it."""
    if how not in CONVERSIONS:
        known = ", ".join(CONVERSIONS)
        raise InputError(
            f"There is no conversion {how!r}; known are {known}.",
            f"没有名为 {how!r} 的转换；可用的有：{known}。",
        )
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise InputError(
            "OpenCC, which converts Chinese characters, is missing: pip install opencc",
            "缺少转换繁简汉字的 OpenCC：请运行 pip install opencc",
        ) from error
    run: Callable[[str], str] = OpenCC(how).convert
    return run
