"""A candidate that is not better is kept back; `promote --anyway` releases it, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proofs.conftest import OPTIONS, draw_collection, last_run, must, wentu
from wentu.store import Store

pytestmark = pytest.mark.heavy


def test_what_was_kept_back_can_be_promoted_anyway(tmp_path: Path) -> None:
    place = tmp_path / "store"
    pictures = draw_collection(tmp_path / "pictures")
    where = ["--pictures", str(pictures), "--captions", str(pictures), "--store", str(place)]
    must("run", *where, *OPTIONS)
    store = Store(str(place))
    first = store.current()
    assert first is not None
    must("run", *where, *OPTIONS, "--seed", "1")
    kept = store.current()
    assert kept is not None
    assert kept[1].model == first[1].model, "equal models: the champion stays"
    run = last_run(place)["run_id"]
    must("promote", "--anyway", run, "--store", str(place))
    now = store.current()
    assert now is not None
    assert now[1].model != first[1].model
    assert str(now[1].parameters["note"]).startswith(f"promoted anyway, from {run}: mean recall")
    assert now[1].pictures == first[1].pictures
    assert "Nothing new" in must("run", *where, *OPTIONS, "--seed", "1")
    again = wentu("promote", "--anyway", run, "--store", str(place))
    assert again.returncode == 2
    assert "was released already" in again.stderr
    must("rollback", "--store", str(place))
    back = store.current()
    assert back is not None
    assert back[1].model == first[1].model
    assert "note" not in back[1].parameters, "why the other one was released is not told of this"
