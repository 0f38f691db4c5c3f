"""inventory: what is there, what changed since, and so what to do: train, refresh or skip.

The listing (path, size, digest of every picture; digests of the captions) is kept in the store
under its own digest, and that digest is what the stages after it are cached by. A file whose size
and time did not change is not read again. Listings are streamed: a million pictures are compared in
the memory of a few (see wentu/listing.py).
"""

from __future__ import annotations

import json
import marshal
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, starmap
from pathlib import Path
from typing import Any

from wentu.captions import NO_FILES, caption_files
from wentu.clip.encoder import find_bundle
from wentu.collection import Collection, Found, Skipped, open_collection
from wentu.digests import DigestCache, learn_marks, share_marks
from wentu.errors import InputError
from wentu.formats import batched, digest_of, file_sha256, write_json
from wentu.language import pick
from wentu.listing import Comparison, Listing, compare_lines, key_of, pictures_of
from wentu.progress import Reporter
from wentu.settings import StageConfig, option
from wentu.stage import Stage
from wentu.storage import same_place
from wentu.store import Attempt, Store

DEFAULT_MODEL = "ViT-B-16"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """When to train."""

    train: bool = option(
        True,
        "Train when there is reason to; --no-train only makes pictures searchable.",
        "需要时训练；--no-train 只让图片可检索。",
    )
    scratch: bool = option(
        False,
        "Start from random weights instead of pretrained ones.",
        "从随机权重开始，而不是预训练权重。",
    )
    min_new: int = option(
        -1,
        "Train again once this many pictures changed since the last training; "
        "-1: 5 % of the collection. Fewer changes only refresh the index.",
        "自上次训练以来变化的图片达到此数才重新训练；-1：总数的 5 %。变化更少时只刷新索引。",
    )

    max_deleted: float = option(
        0.5,
        "Stop when a larger share of the current release's pictures is gone: a drive that is not "
        "mounted, another folder. 1: never.",
        "当前版本的图片消失超过此比例时停止(例如磁盘未挂载、目录给错);1：不检查。",
    )

    def check(self) -> None:
        self.need(self.min_new >= -1, "min_new", "give -1 or more.", "应为 -1 或更大。")
        self.need_share("max_deleted")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to do, and everything that later stages are cached by."""

    decision: str
    """train, refresh or skip"""
    reason: str
    inventory: str
    """Digest of the listing."""
    model: str
    """What to start from (train) or to embed with (refresh): a name, a path, or store:<digest>."""
    model_digest: str
    """Digest of the weights behind ``model``."""
    pointer: int
    """Number of the store's pointer that all of this was compared with; 0: none."""
    attempt: str = ""
    """Number of the training that this starts; empty where none is."""


def inventory(
    *,
    pictures: str,
    captions: str,
    store: str,
    out: Path,
    model: str = "",
    settings: str = "",
    config: Config,
) -> Answer:
    """List the collection, compare, decide; writes ``answer.json`` and returns it.

    Args:
        pictures: the collection's folder.
        captions: captions files (one a line), or names, or none.
        settings: everything else that shapes a trained model (see ``training_settings``).
    """
    with (
        Stage("inventory", out, config, {}, track=False) as stage,
        tempfile.TemporaryDirectory() as folder,
    ):
        collection, vault = open_collection(pictures), Store(store)
        if same_place(pictures, store):
            raise InputError(
                f"--store {store} is the folder of the pictures; name one in it or beside it.",
                f"--store {store} 就是图片目录；请使用其中或旁边的另一个目录。",
            )
        vault.claim()
        skipped = Skipped()
        learn_marks(collection, vault)
        listed = Listing.write(
            Path(folder) / "listing",
            listing(collection, captions, vault, stage.progress, skipped),
        )
        vault.put_inventory(listed, skipped.examples)
        share_marks(collection, vault, listed)
        if skipped.total:
            stage.progress.tell(str(skipped))
        against = Against(vault, listed)
        refuse_vanished(collection.place, listed, vault, against, config)
        answer = decide(vault, listed, against, captions, model, settings, config)
        if answer.decision == "train":
            attempt = Attempt(
                inventory=listed.digest,
                settings=_shaped_by(settings, answer.model, answer.model_digest),
                pictures=listed.pictures,
            )
            answer = replace(answer, attempt=vault.record_attempt(attempt))
        write_json(out / "answer.json", vars(answer))
        stage.progress.emit("decision", **vars(answer))
        stage.counts |= {"pictures": listed.pictures}
        if skipped.total:
            stage.counts |= {"passed_over": skipped.total}
        stage.counts |= {"decision": answer.decision}
    return answer


def listing(
    collection: Collection, captions: str, store: Store, report: Reporter, skipped: Skipped
) -> Iterator[list[Any]]:
    """Rows ["picture", path, size, digest] by path, then ["captions", name, size, digest]."""
    with (
        closing(DigestCache.of(store)) as known,
        spooled(collection.walk(skipped.add)) as (count, found),
    ):
        if not count:
            told = f" ({skipped})" if skipped.total else ""
            raise InputError(
                f"{collection.place} holds no picture{told}.",
                f"{collection.place} 中没有图片{told}。",
            )
        digests = known.digests(collection, found)
        yield from report.track(digests, pick("reading", "读取"), count)
    if captions not in NO_FILES:
        for file in caption_files(captions):
            yield ["captions", file.name, file.stat().st_size, file_sha256(file)]
    else:
        yield ["captions", captions, 0, ""]


@contextmanager
def spooled(found: Iterable[Found]) -> Iterator[tuple[int, Iterator[Found]]]:
    """How many there are, and they: kept in a file, for memory would grow with their number."""
    with tempfile.TemporaryFile() as file:
        count = parts = 0
        for part in batched(found, 1000):  # one by one, the calls would take most of the time
            count, parts = count + len(part), parts + 1
            marshal.dump([tuple(each) for each in part], file)
        file.seek(0)
        rows = chain.from_iterable(marshal.load(file) for _ in range(parts))
        yield count, starmap(Found, rows)


class Against:
    """The listings that a store remembers, each compared with the one of now at most once."""

    def __init__(self, store: Store, listed: Listing) -> None:
        self._store, self._listed = store, listed
        self._found: dict[str, Comparison] = {}

    def __call__(self, inventory: str) -> Comparison:
        """Compare with the one of that digest."""
        if inventory not in self._found:
            before = self._store.inventory_lines(inventory)
            self._found[inventory] = compare_lines(self._listed.lines(), before)
        return self._found[inventory]


def refuse_vanished(
    root: str, listed: Listing, store: Store, against: Against, config: Config
) -> None:
    """Stop where most of what the current release serves is gone: seldom is that meant."""
    current = store.current()
    if current is None or current[1].inventory == listed.digest:
        return
    found = against(current[1].inventory)
    total, missing = found.total, Counter(found.missing)
    if missing.total() > config.max_deleted * total:
        for row in pictures_of(listed):  # what was renamed or moved is still here, by its bytes
            missing.pop(key_of(row[3]), None)
    gone = missing.total()
    if gone > config.max_deleted * total:
        raise InputError(
            f"{gone:,} of the {total:,} pictures of the current release are not in {root}: is it "
            "the right folder, and is its drive mounted? If they are meant to go: "
            "--max-deleted 1. Another collection wants another --store.",
            f"当前版本的 {total:,} 张图片中有 {gone:,} 张不在 {root} 中：目录对吗、磁盘挂载了吗？"
            "确实要移除请用 --max-deleted 1；另一个图文集请使用另一个 --store。",
        )


def decide(
    store: Store,
    listed: Listing,
    against: Against,
    captions: str,
    model: str,
    settings: str,
    config: Config,
) -> Answer:
    """Train, refresh or skip; see docs/when-to-train.md for the rules in words."""
    from wentu.clip import checkpoint

    current = store.current()
    number = current[0].number if current else 0

    def answer(decision: str, reason: str, use: str, use_digest: str) -> Answer:
        return Answer(
            decision=decision,
            reason=reason,
            inventory=listed.digest,
            model=use,
            model_digest=use_digest,
            pointer=number,
        )

    trainable = config.train and captions != "none"
    pinned = bool(current and current[0].pinned)
    if trainable and not pinned:
        start, start_digest = _start(model, config.scratch)
        shaped_by = _shaped_by(settings, start, start_digest)
        reason = _why_train(store, listed, against, shaped_by, config)
        if reason:
            checkpoint.start(start)  # a wrong file is told now, not once all pictures are packed
            return answer("train", reason, start, start_digest)
    # Where training is not due, the model that it would start from says nothing: the one that is
    # current goes on serving. Where nothing can be trained, the named one is meant to embed.
    use, use_digest = _serving(store, "" if trainable else model)
    if current is None:
        return answer("refresh", pick("first index", "首次建立索引"), use, use_digest)
    release = current[1]
    held = pick("; pinned by a rollback: no training", ";已被回滚锁定：不训练") if pinned else ""
    same = use_digest in (release.model, release.parameters.get("served_from"))
    if same and release.inventory == listed.digest:
        reason = pick("nothing changed since the current release", "自当前版本以来没有变化")
        return answer("skip", reason + held, use, use_digest)
    reason = str(against(release.inventory).changes)
    if not same:
        reason += pick(", another model", "，换用其他模型")
    return answer("refresh", reason + held, use, use_digest)


def _start(model: str, scratch: bool) -> tuple[str, str]:
    """What a training starts from, and the digest of its weights."""
    from wentu.clip.checkpoint import weights_digest
    from wentu.clip.model import SCRATCH

    name = model or DEFAULT_MODEL
    if scratch and not name.startswith(SCRATCH):
        name = SCRATCH + name
    return name, weights_digest(name)


def _shaped_by(settings: str, start: str, start_digest: str) -> str:
    """Digest of all that shapes a trained model but the collection."""
    return digest_of([settings, start_digest or start])


def _why_train(
    store: Store, listed: Listing, against: Against, settings: str, config: Config
) -> str:
    """The reason to train now, or nothing."""
    last = store.last_attempt()
    if last is None:
        return pick("first training", "首次训练")
    if last.settings != settings:
        return pick("the settings of the training changed", "训练设置有变化")
    if last.inventory == listed.digest:
        unfinished = not store.attempt_ended()
        return pick("the last training did not finish", "上次训练没有完成") if unfinished else ""
    if store.current() is None:  # there is nothing yet that a refresh could serve with
        return pick("no training finished so far", "此前没有训练完成")
    changes = against(last.inventory).changes
    least = config.min_new if config.min_new >= 0 else max(1, round(0.05 * last.pictures))
    if changes.pictures >= least:
        return pick(f"{changes} since the last training", f"自上次训练：{changes}")
    if changes.captions and not changes.pictures:
        return pick("the captions changed since the last training", "自上次训练描述有变化")
    return ""


def _serving(store: Store, model: str) -> tuple[str, str]:
    """What a refresh embeds with: the named model, else the current release's."""
    from wentu.clip.bundle import bundle_digest
    from wentu.clip.checkpoint import weights_digest

    if not model:
        current = store.current()
        if current is None:
            raise InputError(
                "there is no release yet whose model could be used: give --captions to train one, "
                "or name a --model.",
                "还没有可用模型的版本：请给出 --captions 以训练，或用 --model 指定模型。",
            )
        return f"store:{current[1].model}", current[1].model
    bundle = find_bundle(model)
    if bundle:
        return model, bundle_digest(bundle)
    digest = weights_digest(model)
    if not digest:
        raise InputError(
            f"--no-train --model {model}: it has no weights to use; name a checkpoint, a bundle "
            "or a store.",
            f"--no-train --model {model}：它没有可用的权重；请指定检查点、模型包或仓库。",
        )
    return model, digest


def read_answer(out: Path) -> Answer:
    """The answer in an inventory's output."""
    return Answer(**json.loads((out / "answer.json").read_text(encoding="utf-8")))
