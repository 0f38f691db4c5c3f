"""Which releases stay, and taking away what they do not need."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np

from wentu.errors import InputError
from wentu.gc import machine
from wentu.gc.compact import Ids, alive, compacted
from wentu.language import pick
from wentu.listing import write_without
from wentu.store import Pointer, Release, Store

DIGESTS = "digests.sqlite"
"""In work/, of files by their paths: see machine.py."""
UNDER_WAY = 14 * 86400.0
"""Seconds for which a training that came to no verdict counts as one that goes on; twice what a
profile gives finetune by default, since it counts from its first attempt."""
KINDS = {
    "models": ("models", "模型"),
    "segments": ("segments", "分段"),
    "calibrations": ("calibrations", "校准数据"),
    "thumbnails": ("thumbnails", "缩略图"),
    "inventories": ("inventories", "清单"),
    "releases": ("releases", "版本"),
    "work": ("states of trainings", "训练状态"),
    "parts": ("inputs of trainings", "训练输入"),
    "trainings": ("trainings of several machines", "多机训练"),
    "runs": ("outputs of runs", "运行的中间结果"),
}


@dataclass(kw_only=True)
class Removed:
    """What of one kind was, or would be, removed."""

    count: int = 0
    size: int = 0
    """In bytes."""


@dataclass(kw_only=True)
class Plan:
    """What gc did, or would do."""

    release: str = ""
    """The current release afterwards."""
    rewritten: int = 0
    """Segments that held rows of deleted or replaced pictures."""
    dead: int = 0
    """Those rows."""
    waits: str = ""
    """Why what deleted pictures left stays for now; empty where it does not."""
    removed: dict[str, Removed] = field(default_factory=dict)

    def note(self, kind: str, size: int) -> None:
        """One more of a kind."""
        found = self.removed.setdefault(kind, Removed())
        found.count, found.size = found.count + 1, found.size + size


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The releases that stay."""

    current: Release
    earlier: dict[str, Release]
    """One for each earlier model, by the id that pointers name it by."""
    recent: dict[str, Release]
    """Served not long ago, by id: nothing of them is touched."""

    @property
    def all(self) -> list[Release]:
        """Every one."""
        return [self.current, *self.earlier.values(), *self.recent.values()]


def collect(store: Store, *, keep: int, grace: float, dry_run: bool = False) -> Plan:
    """Remove from a store what nothing kept points at, and what deleted pictures left.

    Args:
        keep: models that stay beside the current one, to roll back to.
        grace: seconds; what was written or served since stays.

    Raises InputError where a run works on the store, or where it has no release.
    """
    if keep < 0 or grace < 0:
        raise InputError(
            "--keep and --grace-hours: give 0 or more.", "--keep 与 --grace-hours 应为 0 或更大。"
        )
    with store.storage.lock("run", wait=False) as free:
        if not free:
            raise InputError(
                f"a run is working on {store.place}; run gc when it is done.",
                f"有运行正在使用 {store.place}；请在其结束后再执行 gc。",
            )
        with store.storage.lock("promote"):
            return _collect(store, keep, grace, dry_run)


def _collect(store: Store, keep: int, grace: float, dry_run: bool) -> Plan:
    current = store.current()
    if current is None:
        raise InputError(
            f"{store.place} has no release yet: there is nothing to remove.",
            f"{store.place} 还没有发布版本，无可清理。",
        )
    plan, busy = Plan(), training_goes_on(store)
    if busy:
        plan.waits = pick(
            "a training is under way, or was cut off: its comparison must not become stale",
            "有训练正在进行或被中断：不能让它的比较过期",
        )
    plan.dead, plan.rewritten = dead_rows(current[1])
    if plan.dead and not busy and not dry_run:
        release = compacted(store, current[1])
        if release.id != current[1].id:
            name = store.write_release(release)
            pointer = current[0]
            store.publish(name, after=pointer.number, reason="gc", pinned=pointer.pinned)
    kept = what_stays(store, keep, grace)
    served = alive(store, kept.current)
    if not dry_run:
        kept = without_deleted(store, kept, served)
        if not busy:
            forget(store, kept)
            machine.forget_digests(store, kept.current)
    plan.release = kept.current.id
    for kind, key, size in _unneeded(store, kept, served, grace, busy):
        plan.note(kind, size)
        if not dry_run:
            _remove(store, kind, key)
    if not busy:
        for size in machine.outputs_of_runs(store, grace, remove=not dry_run):
            plan.note("runs", size)
    return plan


def dead_rows(release: Release) -> tuple[int, int]:
    """(rows, segments) of a release that are written anew."""
    holding = [segment for segment in release.segments if segment.tombstones]
    return sum(len(segment.tombstones) for segment in holding), len(holding)


def training_goes_on(store: Store) -> bool:
    """Did the newest training come to no verdict, and is it young enough to come to one yet?"""
    last = store.last_attempt()
    if last is None or store.attempt_ended():
        return False
    began = datetime.fromisoformat(last.created).timestamp()
    return store.storage.now() - began < UNDER_WAY


# --- what stays -------------------------------------------------------------------------------


def what_stays(store: Store, keep: int, grace: float) -> Kept:
    """The current release, one of each of the last ``keep`` other models, and recent ones."""
    history = store.history()
    current = history[-1][1]
    earlier: dict[str, Release] = {}
    models = {current.model}
    for pointer, release in reversed(history):
        if release.model not in models and len(earlier) < keep:
            models.add(release.model)
            earlier[pointer.release] = release
    return Kept(current=current, earlier=earlier, recent=dict(_recent(store, history, grace)))


def _recent(
    store: Store, history: list[tuple[Pointer, Release]], grace: float
) -> Iterator[tuple[str, Release]]:
    if not grace:
        return
    since = datetime.fromtimestamp(store.storage.now()).astimezone() - timedelta(seconds=grace)
    for (pointer, release), (following, _) in pairwise(history):
        if datetime.fromisoformat(following.created) > since:
            yield pointer.release, release


def without_deleted(store: Store, kept: Kept, served: Ids) -> Kept:
    """Earlier releases that hold pictures which are no more are replaced by ones that do not."""
    earlier = {}
    for name, release in kept.earlier.items():
        if name in kept.recent:
            earlier[name] = release
            continue
        small = compacted(store, release, served)
        if small.id != release.id:
            store.put_compacted(name, small)
            store.storage.delete([f"releases/{name}.json"])
        earlier[name] = small
    return Kept(current=kept.current, earlier=earlier, recent=kept.recent)


def forget(store: Store, kept: Kept) -> None:
    """Of listings that are counted against, drop the rows of pictures that are no more."""
    untouched = {kept.current.inventory, *(each.inventory for each in kept.recent.values())}
    for digest in listings_of(store, kept) - untouched:
        here = store.inventory(kept.current.inventory)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lines"
            if write_without(path, store.inventory(digest), here):
                store.storage.write(f"inventories/{digest}.forgotten.jsonl.gz", path.read_bytes())
                gone = (f"inventories/{digest}{end}" for end in (".jsonl.gz", ".marks.jsonl.gz"))
                store.storage.delete(gone)


def listings_of(store: Store, kept: Kept) -> set[str]:
    """Digests of the inventories that are needed: those of releases, and of the last training."""
    last = store.last_attempt()
    return {each.inventory for each in kept.all} | ({last.inventory} if last else set())


# --- what goes --------------------------------------------------------------------------------


def _unneeded(
    store: Store, kept: Kept, served: Ids, grace: float, busy: bool
) -> Iterator[tuple[str, str, int]]:
    """(kind, key, bytes) of what no kept release points at, if it is not young."""
    before = store.storage.now() - grace
    for kind, needed in _folders(store, kept, busy).items():
        for key, size, changed in _sizes(store, kind):
            if key not in needed and (changed <= before or not grace):
                yield kind, key, size
    shown = np.union1d(served, _shown_lately(store, kept))
    listings = listings_of(store, kept)
    releases = {kept.current.id, *kept.recent, *kept.earlier}
    wanted: dict[str, Callable[[str], bool]] = {
        "thumbnails": lambda name: _is_in(name.partition(".")[0], shown),
        "inventories": lambda name: name.partition(".")[0] in listings,
        "releases": lambda name: name.partition(".")[0] in releases,
    }
    if busy:  # dead rows wait, and a picture that comes back takes its vector from there:
        del wanted["thumbnails"]  # nobody would draw its thumbnail again
    for kind, needs in wanted.items():
        for each in store.storage.walk(kind):
            young = grace and each.changed > before
            if not young and not needs(each.key.rpartition("/")[2]):
                yield kind, each.key, each.size


def _folders(store: Store, kept: Kept, busy: bool) -> dict[str, set[str]]:
    """Of the kinds that are folders, the keys of those that are needed."""
    found = {
        "models": {f"models/{each.model}" for each in kept.all},
        "segments": {f"segments/{s.digest}" for each in kept.all for s in each.segments},
        "calibrations": {
            f"calibrations/{each.calibration['known']}" for each in kept.all if each.calibration
        },
    }
    if not busy:  # a training that is taken up again finds its state by what it is given
        # What several machines train from; of a training that has its verdict nothing is needed.
        found |= {"parts": set(), "trainings": set()}
        found["work"] = {f"work/{DIGESTS}{end}" for end in ("", "-journal", "-wal", "-shm")}
    return found


def _shown_lately(store: Store, kept: Kept) -> Ids:
    parts = [alive(store, release) for release in kept.recent.values()]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _is_in(name: str, ids: Ids) -> bool:
    if not name.isdigit():
        return False
    at = int(np.searchsorted(ids, int(name)))
    return at < len(ids) and int(ids[at]) == int(name)


def _sizes(store: Store, kind: str) -> list[tuple[str, int, float]]:
    """(key, bytes, when its newest part came) of each folder directly below ``kind``."""
    found: dict[str, tuple[int, float]] = {}
    for each in store.storage.walk(kind):
        key = "/".join(each.key.split("/")[:2])
        size, changed = found.get(key, (0, 0.0))
        found[key] = size + each.size, max(changed, each.changed)
    return [(key, size, changed) for key, (size, changed) in sorted(found.items())]


def _remove(store: Store, kind: str, key: str) -> None:
    if kind in ("models", "segments", "calibrations", "parts", "trainings"):
        store.storage.remove(key)
    elif kind == "work":
        name = key.partition("/")[2]
        with store.storage.lock(f"work-{name}", wait=False) as free:
            if free:
                store.storage.remove(key)
    else:
        store.storage.delete([key])
