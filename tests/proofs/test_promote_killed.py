"""SIGKILL before and after every write of promote: the old release or the new one, never a mixture.

The process that promotes kills itself at its n-th write, for every n, in a folder and in a bucket.
Then the current release is whole, and the same promotion, called again, ends in the new one: no
lock is left that a person would have to remove.
"""

from __future__ import annotations

import json
import shutil
import signal
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import embed_and_promote, list_and_pair, outputs
from tests.killed import LIFE, Given, child
from wentu.stages.promote import Config, promote
from wentu.storage import lease
from wentu.store import Store

pytestmark = pytest.mark.heavy


def first_run(built: Any, store: str, out: Path) -> None:
    """The release that is there before."""
    Store(store).claim()
    promote(
        catalog=built.catalog,
        bundle=built.winner,
        index=built.index,
        store=store,
        inventory=built.answer.inventory,
        out=out,
        config=Config(),
    )


def second_run(built: Any, collection: Path, store: str, root: Path) -> Given:
    """What promote is given after a refresh with another model and fewer pictures."""
    root.mkdir()
    other = Path(shutil.copytree(built.winner, root / "other"))
    info = json.loads((other / "bundle.json").read_text("utf-8"))
    (other / "bundle.json").unlink()
    (other / "bundle.json").write_text(json.dumps(info | {"epoch": 99}), "utf-8")
    (collection / "pictures/0003.png").unlink()
    copy = str(root / "copy")
    shutil.copytree(built.store, copy, ignore=shutil.ignore_patterns("work"))
    said = str(collection)
    answer = list_and_pair(root, collection, said, copy, train=False, model=str(other))
    run = replace(built, **outputs(root, collection, said, copy) | {"winner": other}, answer=answer)
    embed_and_promote(run, pointer=1, train=False)
    return {
        "catalog": run.catalog,
        "bundle": other,
        "index": run.index,
        "store": store,
        "inventory": answer.inventory,
        "config": Config(),
        "pointer": 1,
        "out": root / "out",
        "use": answer.model,
        "use_digest": answer.model_digest,
    }


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_killed_before_and_after_every_write_it_is_the_old_release_or_the_new_one(
    built: Any,
    collection: Path,
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WENTU_TRACKING", "off")
    monkeypatch.setattr(lease, "LIFE", LIFE)
    store = str(tmp_path / "store")
    if kind == "bucket":
        store = f"s3://{request.getfixturevalue('bucket')}/{uuid.uuid4().hex[:8]}"
    given = second_run(built, collection, store, tmp_path / "run")
    first_run(built, store, tmp_path / "first")
    vault = Store(store)
    before = {each.key for each in vault.storage.walk("")}
    old = vault.current()
    assert child(0, given, tmp_path / "moments") == 0
    moments, new = int((tmp_path / "moments").read_text()), vault.current()
    assert old
    assert new
    assert moments > 20
    seen = set()
    for moment in range(1, moments + 1):
        reset(vault, before)
        assert vault.current() == old
        assert child(moment, given) == -signal.SIGKILL
        found = vault.current()
        assert found is not None
        assert found[1] in (old[1], new[1]), f"a mixture after {moment} of {moments}"
        vault.verify(found[1])
        seen.add(found[1].id)
        promote(**given)
        after = vault.current()
        assert after is not None
        assert (after[0].number, after[1]) == (2, new[1])
        vault.verify(after[1])
    assert seen == {old[1].id, new[1].id}


def reset(store: Store, keys: set[str]) -> None:
    """What was written since is not there; locks stay as they were left."""
    gone = {each.key for each in store.storage.walk("")} - keys
    gone = {key for key in gone if not key.startswith("locks/")}
    for folder in {"/".join(key.split("/")[:2]) for key in gone}:
        if folder.startswith(("models/", "segments/")):
            store.storage.remove(folder)
    store.storage.delete(gone)
