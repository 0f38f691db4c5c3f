"""Options of `wentu serve` for one's own folder, and for the telephone in the same network."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from wentu.commands.options import make_option
from wentu.errors import InputError
from wentu.language import pick

if TYPE_CHECKING:
    from wentu.library.status import Status


def options() -> list[click.Option]:
    """Of `wentu serve`."""
    return [
        make_option(
            "library",
            str,
            "",
            pick(
                "A folder of pictures: index it with a ready model, follow it, and search it. Its "
                "index lies in your data directory, or in --store.",
                "图片目录：用现成的模型建立索引、持续跟踪并提供搜索。索引存放在用户数据目录或 "
                "--store 中。",
            ),
        ),
        make_option(
            "model",
            str,
            "",
            pick(
                "For --library: a model bundle, or a store whose model is taken [WENTU_STORE's].",
                "用于 --library：模型包，或取其模型的仓库 [WENTU_STORE 的模型]。",
            ),
        ),
        make_option(
            "moved_from",
            str,
            "",
            pick(
                "For --library: where that folder was before it was moved or mounted elsewhere.",
                "用于 --library：该目录移动或改变挂载点之前的位置。",
            ),
        ),
        click.Option(
            ["--lan"],
            is_flag=True,
            help=pick(
                "Listen on this machine's address in the local network, and show a code to scan "
                "with a telephone; makes a token where WENTU_TOKEN is not set.",
                "在本机的局域网地址上监听，并显示供手机扫描的二维码；未设置 WENTU_TOKEN 时"
                "自动生成令牌。",
            ),
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Served:
    """What of the options the service needs."""

    store: str
    collection: str
    following: AbstractContextManager[Any]
    """To be entered while it serves, by one process."""
    status: Callable[[], Status | None] | None
    """How the library stands; None: there is none."""


def served(
    *,
    store: str,
    collection: str,
    library: str | None,
    model: str | None,
    moved_from: str | None,
    lan: bool,
) -> Served:
    """The library of a folder, opened; without one, what is served anyway."""
    if not library:
        for name, value in (("--model", model), ("--moved-from", moved_from)):
            if value:
                raise InputError(
                    f"{name} goes with --library DIR.", f"{name} 需与 --library 目录 一起使用。"
                )
        return Served(store=store, collection=collection, following=nullcontext(), status=None)
    from wentu.library.place import open_library
    from wentu.library.status import read_status
    from wentu.library.watching import Watch

    opened = open_library(library, place=store, model=model or "", moved_from=moved_from or "")
    return Served(
        store=str(opened.store.storage.home),
        collection=opened.root,
        following=Watch(opened),
        status=lambda: read_status(opened.store),
    )


# --- the local network ------------------------------------------------------------------------


def lan_address() -> str:
    """This machine's address in the local network; InputError where there is none."""
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:  # RFC 5737 and 3849: nobody's; nothing is sent, the system only picks its address
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))
                found = str(probe.getsockname()[0])
        except OSError:
            continue
        if not found.startswith("127.") and found not in ("0.0.0.0", "::", "::1"):
            return found
    raise InputError(
        "--lan: this machine has no address in a local network; connect it, or name one with "
        "--host.",
        "--lan：本机没有局域网地址；请先联网，或用 --host 指定。",
    )


def lan_host(lan: bool, host: str | None, no_token: bool) -> str | None:
    """The address to listen on; where it is the network's, there is a token afterwards."""
    if not lan:
        return host
    if not os.environ.get("WENTU_TOKEN", "").strip() and not no_token:
        os.environ["WENTU_TOKEN"] = secrets.token_urlsafe(18)
    return host or lan_address()


def invitation(url: str, token: str, *, known: bool = False) -> str:
    """The link that carries the token, and its QR code where a terminal shows it.

    Args:
        known: the user gave the token: it is not written where it might be kept, in a log.
    """
    link = f"{url}/#token={quote(token, safe='')}" if token else f"{url}/"
    if can_draw():
        return f"{qr_code(link)}\n{link}"
    return f"{url}/#token=$WENTU_TOKEN" if token and known else link


def qr_code(text: str) -> str:
    """Dark on light whatever the colours of the terminal; two rows of the code in each line."""
    import segno

    rows = [list(row) for row in segno.make(text, error="l", micro=False).matrix_iter(border=4)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        cells = ("█▀▄ "[2 * bool(a) + bool(b)] for a, b in zip(upper, lower, strict=True))
        lines.append(f"\x1b[97;40m{''.join(cells)}\x1b[0m")
    return "\n".join(lines)


def can_draw() -> bool:
    """Is there a terminal that shows such a code?"""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return sys.stdout.isatty() and encoding == "utf8"
