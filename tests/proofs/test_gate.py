"""A candidate that is not better is kept back; `promote --anyway` releases it, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proofs.conftest import Run, last_run, must, wentu
from wentu.store import Store

pytestmark = pytest.mark.heavy


def test_what_was_kept_back_can_be_promoted_anyway(first_run: Run, tmp_path: Path) -> None:
    mine = first_run.copy(tmp_path)
    place, store = mine.store, Store(str(mine.store))
    first = store.current()
    assert first is not None
    must(*mine.words, "--seed", "1")
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
    assert "Nothing new" in must(*mine.words, "--seed", "1")
    again = wentu("promote", "--anyway", run, "--store", str(place))
    assert again.returncode == 2
    assert "was released already" in again.stderr
    must("rollback", "--store", str(place))
    back = store.current()
    assert back is not None
    assert back[1].model == first[1].model
    note = str(back[1].parameters.get("note"))
    assert "anyway" not in note, "why the other one was released is not told of this"
