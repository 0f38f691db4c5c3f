"""The folder against the state: what is new, changed, renamed, gone; or that it is out of reach.

By looking, not by being told: network shares tell nothing, and what happened while nobody followed
is told by nobody. A file is known by size, time and inode, which costs no reading.

A drive that is unplugged leaves an empty folder, or none; a share that hangs fails in the middle.
None of these is a removal: what cannot be listed keeps what is known of it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from wentu.collection import Found, LocalCollection
from wentu.errors import InputError
from wentu.library.state import PICTURE, WAITING, State

YOUNG = 2.0
"""Seconds since a file was changed within which it may still be being written."""


class AwayError(InputError):
    """The folder is out of reach: what is known of it stays."""


@dataclass(kw_only=True)
class Scanned:
    """What a look at the folder found."""

    added: int = 0
    """Files that are to be read: new ones and changed ones."""
    renamed: int = 0
    removed: int = 0
    young: int = 0
    """Files that are left to the next look, since somebody may still write them."""
    unnamed: list[str] = field(default_factory=list)
    """Names that no catalog can hold."""

    @property
    def changed(self) -> bool:
        """Is anything not as it was?"""
        return bool(self.added or self.renamed or self.removed)


def scan(state: State, root: str) -> Scanned:
    """Bring the files of the state up to date; AwayError where the folder is out of reach."""
    before, found = _identity(root), Scanned()
    closed: list[tuple[str, str]] = []  # of what cannot be seen, (first path, the one behind)

    def skipped(path: str, kind: str) -> None:
        name = path.rstrip("/")
        if kind == "unreadable" and path.endswith("/"):
            closed.append((f"{name}/", f"{name}0"))  # "0" follows "/"
        elif _leads_nowhere(Path(root, name)):  # to a drive that is unplugged
            closed.extend([(name, f"{name}\0"), (f"{name}/", f"{name}0")])

    now = time.time()
    with state.transaction() as db:
        db.execute(
            "CREATE TEMP TABLE IF NOT EXISTS seen (path TEXT PRIMARY KEY, mark TEXT, "
            "changed INTEGER, size INTEGER) WITHOUT ROWID"
        )
        db.execute("DELETE FROM seen")
        try:
            for each in LocalCollection(root, Path(root)).walk(skipped):
                row = _row(each, now, found)
                if row:
                    db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?)", row)
        except InputError:
            raise _away(root) from None
        nothing = not state.one("SELECT count(*) FROM seen")
        if _identity(root) != before or (nothing and state.one("SELECT count(*) FROM paths")):
            raise _away(root)
        _compare(state, found, closed)
    return found


def _leads_nowhere(path: Path) -> bool:
    """Is it a link whose target is not there?"""
    try:
        return path.is_symlink() and not path.exists()
    except OSError:
        return True


def reachable(root: str) -> bool:
    """Can anything be seen there?"""
    try:
        with os.scandir(root) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _identity(root: str) -> tuple[int, int]:
    """Which folder this is: another one is mounted over it, or under it, when it changes."""
    try:
        stat = Path(root).stat()
    except OSError:
        raise _away(root) from None
    return stat.st_dev, stat.st_ino


def _away(root: str) -> AwayError:
    return AwayError(
        f"{root} is absent or holds no picture; what was indexed stays searchable, and it is "
        "followed again when it is back. (If you removed all on purpose: put one picture there.)",
        f"{root} 不存在或没有图片；已建立的索引仍可搜索，恢复后会继续跟踪。"
        "(若是有意清空：请放入一张图片。)",
    )


def _row(each: Found, now: float, found: Scanned) -> tuple[str, str | None, int, int] | None:
    """What a picture is known by; its mark is None where it is left to the next look."""
    try:
        each.path.encode()
    except UnicodeEncodeError:
        found.unnamed.append(each.path)
        return None
    if not each.mark:  # gone meanwhile, or a link that leads nowhere now
        return each.path, None, 0, 0
    changed = int(each.mark.split(":")[1])
    if abs(now - changed / 1e9) < YOUNG:
        found.young += 1
        return each.path, None, 0, 0
    return each.path, each.mark, changed, each.size


def _compare(state: State, found: Scanned, closed: list[tuple[str, str]]) -> None:
    """What was seen, against the files that are known."""
    db = state.db
    db.execute("CREATE TEMP TABLE IF NOT EXISTS closed (first TEXT, end TEXT)")
    db.execute("DELETE FROM closed")
    db.executemany("INSERT INTO closed VALUES (?, ?)", closed)
    gone = (
        "path NOT IN (SELECT path FROM seen) AND NOT EXISTS "
        "(SELECT 1 FROM closed c WHERE files.path >= c.first AND files.path < c.end)"
    )
    new = "s.mark IS NOT NULL AND s.path NOT IN (SELECT path FROM files)"
    # The very file under another name is that picture: a renamed folder is not read again.
    found.renamed = db.execute(
        "INSERT INTO files SELECT s.path, s.mark, s.changed, s.size, "
        f"{PICTURE}, (SELECT picture FROM files WHERE files.mark = s.mark AND state = {PICTURE} "
        f"AND {gone}) AS known FROM seen s WHERE {new} AND known IS NOT NULL"
    ).rowcount
    if found.renamed:
        db.execute(
            "INSERT OR REPLACE INTO paths SELECT path, picture FROM files f WHERE picture IS NOT "
            "NULL AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.path = f.path AND "
            "p.picture = f.picture)"
        )
    found.added = db.execute(
        f"INSERT INTO files SELECT path, mark, changed, size, {WAITING}, NULL FROM seen s "
        f"WHERE {new}"
    ).rowcount
    found.added += db.execute(
        f"UPDATE files SET mark = s.mark, changed = s.changed, size = s.size, state = {WAITING}, "
        "picture = NULL FROM seen s WHERE s.path = files.path AND s.mark IS NOT NULL "
        "AND s.mark <> files.mark"
    ).rowcount
    found.removed = db.execute(f"DELETE FROM files WHERE {gone}").rowcount - found.renamed
