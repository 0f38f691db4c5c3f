"""Where the store of a folder is, which model it has, and a folder that was moved.

The store names its folder and its model in ``library/about.json``; one that does not is somebody
else's. Its first release is empty: it serves at once, and says how far indexing is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from wentu.clip.bundle import BUNDLE, Bundle, bundle_digest
from wentu.errors import InputError, StaleError
from wentu.formats import CATALOG, FORMAT, STORE_MARK, bytes_digest, open_catalog, write_json
from wentu.formats import read_json as read_checked
from wentu.settings import data_folder, store_place
from wentu.storage import is_remote, local_path
from wentu.store import Release, Store

ABOUT = "library/about.json"
LOCK = "library"
"""Held by the process that follows the folder."""
PART = "part-"
"""How folders begin that are being filled; what is left of them is removed at the next start."""
SAMPLE = 20
"""Files that are looked at before a moved folder is believed to be the same; half of them must be
there with the same content: some may have been edited meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """A folder, and the store that it is found in."""

    root: str
    """Absolute."""
    model: str
    """Digest of the bundle that its pictures are embedded with."""
    store: Store

    @property
    def home(self) -> Path:
        """What only the library needs, in its store."""
        return self.store.storage.home / "library"

    def now(self) -> Library:
        """As it is written down at the moment."""
        return load(str(self.store.storage.home)) or self

    def save(self) -> None:
        """Write down whose store it is."""
        about = {"format": FORMAT, "root": self.root, "model": self.model}
        write_json(self.store.storage.home / ABOUT, about)


def absolute(folder: str) -> str:
    """A folder's whole name, also where it is out of reach; links are not followed."""
    return os.path.normpath(Path(folder).expanduser().absolute())


def default_place(root: str) -> str:
    """Where the store of a folder is if nobody says otherwise."""
    name = hashlib.blake2b(os.fsencode(root), digest_size=16).hexdigest()
    return str(data_folder() / "libraries" / name)


def load(place: str) -> Library | None:
    """The library in a store; None where there is none."""
    store = Store(place)
    path = store.storage.home / ABOUT
    if not path.exists():
        return None
    about = read_checked(path)
    if about.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {about.get('format')}; this wentu reads {FORMAT}. Update wentu.",
            f"{path} 的格式版本是 {about.get('format')}，本版 wentu 只读 {FORMAT}，请升级。",
        )
    return Library(root=about["root"], model=about["model"], store=store)


def open_library(folder: str, *, place: str = "", model: str = "", moved_from: str = "") -> Library:
    """The library of a folder, made where there is none yet; it has a release afterwards.

    Args:
        place: its store; empty: one of its own below the user's data directory.
        model: a bundle, or a store whose current model is taken; empty: the library's own, else
            that of the store that is meant when none is named.
        moved_from: where the folder was before.

    Raises InputError, a sentence for the user.
    """
    root = absolute(folder)
    place = place or default_place(root)
    if is_remote(place) or is_remote(folder):
        raise InputError(
            "--library follows a folder of this machine, and its --store lies on this machine.",
            "--library 只跟踪本机的目录，其 --store 也须在本机。",
        )
    refuse_nested(root, local_path(place))
    if moved_from:
        repoint(root, absolute(moved_from), place)
    known = load(place)
    if known and known.root != root:
        raise InputError(
            f"{place} is the library of {known.root}; if that folder is {root} now, say "
            f"--moved-from {known.root}, else choose another --store.",
            f"{place} 是 {known.root} 的图库；若该目录已移到 {root}，请加 "
            f"--moved-from {known.root}，否则请换一个 --store。",
        )
    if known is None:
        refuse_others(root, place)
    if known is None or model:
        store, source = Store(place), find_model(model)
        store.claim()
        known = Library(root=root, model=keep_model(store, source), store=store)
        known.save()
    first_release(known)
    return known


def refuse_nested(root: str, store: Path) -> None:
    """A store may lie in the folder (a walk passes it over), the folder not in the store."""
    home = store.absolute()
    if Path(root).is_relative_to(home):
        raise InputError(
            f"--library {root} lies in the store {home}; choose another --store.",
            f"--library {root} 位于仓库 {home} 之内；请换一个 --store。",
        )


def refuse_others(root: str, place: str) -> None:
    """InputError where there is nothing to index, or where the store is not a library's."""
    if not Path(root).is_dir():
        raise InputError(f"--library {root}: no such folder.", f"--library {root}：目录不存在。")
    if Store(place).pointer() is not None:
        raise InputError(
            f"{place} is no library's store: it holds releases of `wentu run`. Leave --store away, "
            f"or take its model: --model {place}.",
            f"{place} 不是图库的仓库，其中是 wentu run 的版本。请去掉 --store，"
            f"或只用它的模型：--model {place}。",
        )


# --- the model --------------------------------------------------------------------------------


def keep_model(store: Store, source: Path) -> str:
    """Copy a bundle into the store, so that it needs no other place; its digest."""
    digest = bundle_digest(source)
    if not store.storage.exists(f"models/{digest}/{BUNDLE}"):
        Bundle(source)  # refuses what is broken
        home = store.storage.home / "library"
        home.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=PART) as folder:
            copy = Path(folder) / "model"
            shutil.copytree(source, copy)  # no links: others may change theirs in place
            store.put_model(copy, digest)
    return digest


def find_model(model: str) -> Path:
    """The folder of the bundle that ``--model`` means."""
    place = model or store_place()
    if not is_remote(place):
        folder = local_path(place)
        if (folder / BUNDLE).exists():
            return folder
        if not (folder / STORE_MARK).exists():
            raise no_model(model)
    current = Store(place).current()
    if current is None:
        raise no_model(model)
    return Store(place).model(current[1].model)


def no_model(model: str) -> InputError:
    """How to get one."""
    en = (
        "make one once, from pretrained weights and any pictures: `wentu run --pictures DIR "
        "--captions none --no-train --model ViT-B-16 --store STORE` (needs 'wentu[train,export,"
        "index,run]'), then give --model STORE."
    )
    zh = (
        "请先用预训练权重和任意图片生成一次：wentu run --pictures 目录 --captions none --no-train "
        "--model ViT-B-16 --store 仓库 (需要 'wentu[train,export,index,run]')，"
        "然后使用 --model 仓库。"
    )
    if model:
        return InputError(
            f"--model {model} is neither a model bundle nor a store with a release; {en}",
            f"--model {model} 既不是模型包，也不是已有版本的仓库；{zh}",
        )
    return InputError(
        f"a library needs a ready model, and {store_place()} has none; {en}",
        f"图库需要一个现成的模型，而 {store_place()} 中没有；{zh}",
    )


def empty_release(library: Library) -> Release:
    """A release of the library's model without pictures."""
    store, model = library.store, library.model
    return Release(
        model=model,
        segments=(),
        inventory="",
        pictures=0,
        dimension=Bundle(store.model(model)).dimension,
        parameters={"pictures": library.root},
        files=store.files_of(model, ()),
    )


def first_release(library: Library) -> None:
    """Publish a release without pictures where there is none at all."""
    store = library.store
    if store.pointer() is None:
        with suppress(StaleError):  # a second process was quicker
            release = store.write_release(empty_release(library))
            store.publish(release, after=0, reason="refresh")


# --- a folder that was moved ------------------------------------------------------------------


def repoint(root: str, old: str, place: str) -> None:
    """Make the library of ``old`` that of ``root``, in the store ``place``.

    Raises InputError where that is not the same collection, or where somebody follows it.
    """
    found = load(place)
    if found and found.root == root:  # said again: done already
        return
    if found is None and (there := load(default_place(old))) and there.root == old:
        found = there
    if found is None or found.root != old:
        raise InputError(
            f"--moved-from {old}: no library of that folder is known here.",
            f"--moved-from {old}：本机没有该目录的图库。",
        )
    if not Path(root).is_dir():
        raise InputError(f"--library {root}: no such folder.", f"--library {root}：目录不存在。")
    with found.store.storage.lock(LOCK, wait=False) as free:
        if not free:
            raise InputError(
                f"the library of {old} is being followed; end that `wentu serve` first.",
                f"{old} 的图库正在被跟踪；请先结束那个 wentu serve。",
            )
        same, looked = alike(found.store, root)
        if 2 * same < looked:
            raise InputError(
                f"{root} is not the collection that lay in {old}: of {looked} files, {same} are "
                "there unchanged. Without --moved-from it is indexed anew.",
                f"{root} 不是原来 {old} 的图库：抽查 {looked} 个文件，仅 {same} 个未变。"
                "去掉 --moved-from 则重新建立索引。",
            )
        if found.store.storage.home != (home := Store(place).storage.home):
            make_way(home)
            shutil.move(found.store.storage.home, home)
        Library(root=root, model=found.model, store=Store(place)).save()


def make_way(home: Path) -> None:
    """Have nothing where a store is moved to; what a start left that failed is taken away.

    Raises InputError where there is more.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    if not home.exists():
        return
    if {each.name for each in home.iterdir()} - {STORE_MARK}:
        raise InputError(
            f"{home} is not empty, and the library would go there; remove it, or choose another "
            "--store.",
            f"图库要移到 {home}，但那里不是空的；请删除它，或换一个 --store。",
        )
    shutil.rmtree(home)


def alike(store: Store, root: str) -> tuple[int, int]:
    """(files of a sample that lie below ``root`` with the same content, size of the sample)."""
    current = store.current()
    rows: list[tuple[str, bytes]] = []
    for segment in current[1].segments if current else ():
        with closing(open_catalog(store.segment(segment.digest) / CATALOG)) as db:
            query = (
                "SELECT min(f.path), p.digest, p.id FROM pictures p JOIN paths f ON "
                "f.picture = p.id GROUP BY p.id ORDER BY p.id LIMIT ?"
            )
            dead = set(segment.tombstones)
            found = db.execute(query, (SAMPLE + len(dead),)).fetchall()
        rows += [(p, bytes(d)) for p, d, i in found if i not in dead]
    rows = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
    return sum(_is(f"{root}/{path}", digest) for path, digest in rows), len(rows)


def _is(path: str, digest: bytes) -> bool:
    try:
        return bytes_digest(Path(path).read_bytes()) == digest
    except OSError:
        return False
