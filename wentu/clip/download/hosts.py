"""What Hugging Face and ModelScope say of a file: its address, size and digest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from wentu.clip.download.names import Place
from wentu.clip.download.web import LINKED, Lost, Missing, check, losses, number, send
from wentu.errors import InputError


@dataclass(frozen=True)
class Expected:
    """What a host says of a file."""

    size: int
    digest: str
    """64 hex digits: SHA-256. 40: git's id, of small files at Hugging Face. Empty: not stated."""


class HuggingFace:
    """https://huggingface.co or a mirror of it."""

    name = "Hugging Face"

    def __init__(self) -> None:
        self.endpoint = _endpoint("HF_ENDPOINT", "https://huggingface.co")
        token = os.environ.get("HF_TOKEN", "").strip()
        if not re.fullmatch(r"[!-~]*", token):  # http.client would print it in its error
            raise InputError(
                "HF_TOKEN holds characters that no token has.", "HF_TOKEN 中含有非法字符。"
            )
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def url(self, place: Place) -> str:
        """The address of the file, for us and for a browser."""
        return f"{self.endpoint}/{place.repository}/resolve/main/{quote(place.file)}"

    def ask(self, place: Place) -> Expected:
        """From the answer to HEAD; Missing where it does not have the file.

        A file in LFS is a redirect to another host; X-Linked-* on the redirect itself are its
        SHA-256 and size. Other files are answered, after redirects within the host, with git's id
        as ETag. An ETag without X-Repo-Commit is not the hub's, and means who knows what.
        """
        with send("HEAD", self.url(place), self.headers) as answer:
            headers = answer.headers
        size, etag = headers["X-Linked-Size"], headers[LINKED]
        if etag is None:
            check(answer, missing=True)
            size = headers["Content-Length"]
            etag = headers["ETag"] if "X-Repo-Commit" in headers else None
        length = number(size)
        if length is None:
            raise Lost("it does not state the size of the file", "没有说明文件的大小")
        return Expected(length, _digest(etag))


class ModelScope:
    """https://www.modelscope.cn."""

    name = "ModelScope"

    def __init__(self) -> None:
        self.endpoint = _endpoint("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn")
        self.headers: dict[str, str] = {}

    def url(self, place: Place) -> str:
        """The address of the file, for us and for a browser."""
        return f"{self.endpoint}/models/{place.repository}/resolve/master/{quote(place.file)}"

    def ask(self, place: Place) -> Expected:
        """From the list of the repository's files, which has the SHA-256 of every one."""
        files = f"{place.repository}/repo/files?Revision=master&Recursive=true"
        with send("GET", f"{self.endpoint}/api/v1/models/{files}", self.headers) as answer:
            check(answer, missing=True)
            with losses():
                listing = json.loads(answer.read())
        try:
            entry = next(each for each in listing["Data"]["Files"] if each["Path"] == place.file)
            return Expected(entry["Size"], entry["Sha256"])
        except (LookupError, TypeError, StopIteration):
            raise Missing(404) from None  # errors come as {"Code": 404, …} with status 200, too


Host = HuggingFace | ModelScope
SOURCES: dict[str, Callable[[], Host]] = {"hf": HuggingFace, "modelscope": ModelScope}


def _endpoint(variable: str, default: str) -> str:
    value = (os.environ.get(variable) or default).rstrip("/")
    if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-f:]+\])(:[0-9]+)?(/[^\s?#]*)?", value):
        raise InputError(  # not shown: it may hold a password
            f"{variable} is no address such as {default}.",
            f"{variable} 不是形如 {default} 的地址。",
        )
    return value


def _digest(etag: str | None) -> str:
    """The hex digits of an ETag that is a digest: quoted or not, weak (``W/``) or not."""
    found = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?', etag or "", re.I)
    return found[1].lower() if found else ""
