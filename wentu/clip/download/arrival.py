"""Getting files: which place to ask, then one file's way from there to its path."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from wentu.clip.download.hosts import SOURCES, Expected, Host
from wentu.clip.download.names import Place, Wanted, wanted
from wentu.clip.download.web import BLOCK, Lost, Missing, check, insist, read, send
from wentu.errors import FormatError, InputError
from wentu.formats import file_sha256, write_atomic
from wentu.language import pick
from wentu.progress import Reporter


def get(name: str, source: str, folder: Path, report: Reporter) -> list[Path]:
    """Bring the files of ``name`` into ``folder``, verified; those that are there are left alone.

    ``name`` is a Chinese-CLIP model, ``openclip:MODEL@TAG`` or ``ORG/REPO:FILE``. Returns the main
    file, then what belongs beside it. FormatError: what arrived is not what the host announced.
    """
    if source not in SOURCES:
        raise InputError(
            f"--from {source!r} is none of: {', '.join(SOURCES)}.",
            f"--from {source!r} 无效，可选：{', '.join(SOURCES)}。",
        )
    # The weights last: a tokenizer that is nowhere is known before gigabytes are fetched.
    return [_bring(source, each, report) for each in reversed(wanted(name, folder))][::-1]


def _bring(source: str, file: Wanted, report: Reporter) -> Path:
    """Have one file, from the first place of ``source`` that holds it."""
    host = SOURCES[source]()
    refused = []
    for place in file[source]:
        try:
            expected = insist(partial(host.ask, place), report)
        except Missing as missing:
            refused.append(f"{host.url(place)} (HTTP {missing.status})")
            continue
        except Lost as lost:
            there = [each.path for each in file[source] if each.path.is_file()]
            if not there:
                raise _by_hand(host, place, file, lost) from None
            report.note(
                pick(
                    f"{there[0]} is there already; not compared with {host.name}: {lost}",
                    f"{there[0]} 已存在；未能与 {host.name} 核对：{lost}",
                )
            )
            return there[0]
        try:
            _Arrival(host, place, expected, report).fetch()
        except Lost as lost:
            raise _by_hand(host, place, file, lost) from None
        return place.path
    name = file[source][0].path.name
    raise InputError(
        f"{host.name} has no {name} for us: {', '.join(refused)}. Try another --from, or set "
        "HF_TOKEN if the repository needs a login.",
        f"{host.name} 没有可下载的 {name}：{', '.join(refused)}。可换一个 --from；"
        "若仓库需要登录，请设置 HF_TOKEN。",
    )


def _by_hand(host: Host, place: Place, file: Wanted, lost: Lost) -> InputError:
    """No connection: where to fetch the file with a browser, and where to put it."""
    urls = {host.url(place)} | {SOURCES[each]().url(file[each][0]) for each in SOURCES}
    folder, name = place.path.parent, place.path.name
    return InputError(
        f"{name} could not be fetched from {host.name}: {lost}. Try again, name a mirror of "
        "Hugging Face in HF_ENDPOINT or a proxy in HTTPS_PROXY, or fetch the file by hand from "
        f"{' or '.join(sorted(urls))} and put it into {folder} as {name}.",
        f"无法从 {host.name} 下载 {name}：{lost}。请重试，或用 HF_ENDPOINT 指定 Hugging Face 的"
        f"镜像、用 HTTPS_PROXY 指定代理，或从 {' 或 '.join(sorted(urls))} 手动下载，"
        f"以 {name} 为名放入 {folder}。",
    )


# --- one file ----------------------------------------------------------------------------------


class _Arrival:
    """One file on its way from a host to its path."""

    def __init__(self, host: Host, place: Place, expected: Expected, report: Reporter) -> None:
        self.host, self.place, self.expected, self.report = host, place, expected, report
        self.path, self.name = place.path, place.path.name
        self.part = self.path.with_name(f"{self.name}.part")
        self.note = self.path.with_name(f"{self.name}.part.json")
        """What the part belongs to."""

    def say(self, en: str, zh: str) -> None:
        self.report.note(pick(en, zh))

    def fetch(self) -> None:
        """Have the file, whole and verified."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.alone():
                if not self.is_there():
                    self.claim()
                    insist(self.receive, self.report, self.length)
                    self.accept()
        except OSError as error:
            size, why = f"{self.expected.size / 1e6:,.0f} MB", error.strerror or error
            raise InputError(
                f"{self.path} ({size}) cannot be written: {why}. Run again once it can; what has "
                "arrived is kept.",
                f"无法写入 {self.path}({size})：{why}。解决后请重新运行，已下载的部分保留。",
            ) from None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the file; the system frees it when this process dies.

        The lock's own file stays: if it were removed, two processes could hold two locks.
        """
        with self.path.with_name(f".{self.name}.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(
                    f"another process is fetching {self.name}: waiting for it",
                    f"另一进程正在下载 {self.name}，等待其完成",
                )
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def is_there(self) -> bool:
        """Is the file there already, and right?"""
        if not self.path.exists():
            return False
        sha256 = file_sha256(self.path)
        if self.fits(self.path, sha256):
            self.settle(sha256, pick(f"{self.path} is there already", f"{self.path} 已存在"))
            return True
        self.say(
            f"{self.path} is there, but not as {self.host.name} has it: it will be replaced",
            f"{self.path} 已存在，但与 {self.host.name} 上的不同，将被替换",
        )
        return False

    def length(self) -> int:
        """Bytes of the part."""
        return self.part.stat().st_size

    def claim(self) -> None:
        """Begin a part, or keep it if it is of the same version; see that the rest will fit."""
        about = json.dumps(asdict(self.expected)).encode()
        same = self.note.exists() and self.note.read_bytes() == about
        # Without a digest nothing tells versions apart.
        self.part.open("ab" if same and self.expected.digest else "wb").close()
        self.note.write_bytes(about)
        if self.expected.size - self.length() > shutil.disk_usage(self.path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def receive(self) -> None:
        """One request, for the file or the rest of it; Lost if something is missing after it."""
        have, size = self.length(), self.expected.size
        if have == size:
            return
        extent = {"Range": f"bytes={have}-"} if have else {}
        with send("GET", self.host.url(self.place), self.host.headers | extent) as answer:
            # Content-Range counts, not the status: ModelScope honours Range but answers 200, see
            # github.com/modelscope/modelscope_hub/issues/50.
            stated = re.match(r"bytes ([0-9]{1,18})-[0-9]", answer.headers["Content-Range"] or "")
            start = int(stated[1]) if stated else -1 if answer.status in (206, 416) else 0
            if start not in (0, have):
                self.part.write_bytes(b"")
                raise Lost("it does not go on where the file was left", "无法续传")
            check(answer)
            self.write(iter(partial(read, answer), b""), start)
        if self.length() < size:
            raise Lost("the connection dropped", "连接中断")

    def write(self, blocks: Iterator[bytes], start: int) -> None:
        """Write on from ``start``."""
        label, done, total = f"{self.name}, KB", start // 1000, self.expected.size // 1000
        with self.part.open("ab" if start else "wb") as file:
            for block in self.report.track(blocks, label, total, size=BLOCK // 1000, start=done):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    def fits(self, path: Path, sha256: str) -> bool:
        """Is a file what the host announced, as far as it did?"""
        size, digest = path.stat().st_size, self.expected.digest
        proofs = ["", sha256]
        if len(digest) == 40:  # git's id; caches that keep files without git state the plain SHA-1
            proofs = [_sha1(path, head) for head in (b"blob %d\0" % size, b"")]
        return size == self.expected.size and digest in proofs

    def accept(self) -> None:
        """Verify the finished part and give it its name; a wrong one is deleted."""
        sha256, size = file_sha256(self.part), self.length()
        if self.fits(self.part, sha256):
            self.part.replace(self.path)
            self.note.unlink()
            self.settle(sha256, pick(f"{self.path} is complete", f"{self.path} 已下载"))
            return
        self.part.unlink()
        self.note.unlink()
        host, told = self.host.name, f"{self.expected.size} bytes, {self.expected.digest or '-'}"
        raise FormatError(
            f"{self.name} arrived as {size} bytes, {sha256}: other content than {host} announced "
            f"({told}). It was deleted; run again, or use another source or mirror.",
            f"下载的 {self.name} ({size} bytes, {sha256}) 与 {host} 公布的 ({told}) 不符，已删除。"
            "请重新运行，或换一个来源或镜像。",
        )

    def settle(self, sha256: str, what: str) -> None:
        """Write ``<file>.sha256``, in the form that `sha256sum -c` reads, and say what was done."""
        host, beside = self.host.name, self.path.with_name(f"{self.name}.sha256")
        write_atomic(beside, f"{sha256}  {self.name}\n".encode())
        proof = pick(f"as {host} states it", f"与 {host} 公布的一致")
        if not self.expected.digest:
            proof = pick(f"{host} states no digest, only its size", f"{host} 只公布了大小")
        self.report.note(f"{what} ({proof}; SHA-256 {sha256})")


def _sha1(path: Path, head: bytes) -> str:
    with path.open("rb") as file:
        begun = partial(hashlib.sha1, head, usedforsecurity=False)
        return hashlib.file_digest(file, begun).hexdigest()
