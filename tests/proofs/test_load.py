"""A minute of what ``python -m benchmarks load`` does for ten: nothing fails but what was in flight
on a worker that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import load

pytestmark = pytest.mark.heavy


def test_a_minute_of_load_swaps_and_kills(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SWAP", 5.0)
    monkeypatch.setattr(load, "KILL", 12.0)
    value = load.load(Path(built.store), built.collection, 60.0)
    print(load.table(value))
    assert value["failed otherwise"] == 0, value["why"]
    assert value["failed in flight on a killed worker"] <= load.CLIENTS * value["kills"]
    assert value["kills"] >= 3
    assert value["restarts"] >= value["kills"]
    assert set(value["published"]) == {"good", "model absent", "index cut", "vectors wrong"}
    assert value["releases refused"] >= 3
    assert value["releases that answered"] >= 2
    assert all(row["count"] > 20 for row in value["queries"].values())
    oldest = value["memory"]["oldest worker"]
    assert oldest["last"] < 1.25 * oldest["first"]  # of a minute; ten say more
