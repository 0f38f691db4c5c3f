"""A running pipeline as it is shown: the shards of a stage are one line, their figures summed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from wentu.orchestrate.live import RunView, StageView, doing
from wentu.progress import EventFile


class Told:
    """Events of the processes of a run, and what is made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.text = folder, io.StringIO()
        self.run = RunView(folder, Console(file=self.text, width=200))

    def tell(self, stem: str, *events: tuple[str, dict[str, Any]]) -> None:
        """As a process of the stage would; then look."""
        file = EventFile(self.folder / "events" / f"{stem}.jsonl")
        for event, values in events:
            file.emit(event, **values)
        file._file.close()
        self.run.read()

    @property
    def features(self) -> StageView:
        return self.run.stages["features"]


def start(shard: str) -> tuple[str, dict[str, Any]]:
    return "start", {"pid": 1, "shard": shard}


def at(done: int, total: int, rate: float = 10.0) -> tuple[str, dict[str, Any]]:
    return "progress", {"label": "embedding", "done": done, "total": total, "rate": rate}


def done(**counts: int) -> tuple[str, dict[str, Any]]:
    return "done", {"counts": counts, "seconds": 2.0}


def test_shards_are_one_line_with_their_sums(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.tell("features-1", start("1/3"), at(10, 40))
    told.tell("features-2", start("2/3"), at(30, 40))
    assert told.features.status == "running"
    assert "embedding 40/120" in doing(told.features)  # the third is about as long
    assert told.features.progress["rate"] == 20.0
    told.tell("features-1", done(pictures=40, embedded=40))
    assert told.features.status == "running"
    told.tell("features-2", done(pictures=40, embedded=39))
    assert told.features.status == "running"  # the third has not begun
    told.tell("features-3", start("3/3"), at(41, 41), done(pictures=41, embedded=41))
    assert told.features.status == "done"
    assert told.features.counts == {"pictures": 121, "embedded": 120}
    assert told.text.getvalue().count("features: 121 pictures, 120 embedded") == 1
    assert "features: 40" not in told.text.getvalue()


def test_shards_that_were_cached_are_not_waited_for(tmp_path: Path) -> None:
    """After a failure only the one that failed runs again."""
    told = Told(tmp_path)
    told.tell("features-2", start("2/3"), done(pictures=5))
    assert told.features.status == "running"
    told.tell("index", start(""))
    assert told.features.status == "done"
    told.run.finish(succeeded=True)
    assert told.features.status == "done"


def test_a_shard_that_fails_names_its_own_log(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.tell("features-1", start("1/2"))
    told.tell("features-2", start("2/2"))
    told.tell("features-2", ("error", {"text": "gone", "exit_code": 2, "seconds": 1.0}))
    told.tell("features-1", done(pictures=5))
    view = told.run.failed()
    assert view is told.features
    assert (view.status, view.error, view.exit_code, view.log) == (
        "failed",
        "gone",
        2,
        "features-2",
    )
    told.run.finish(succeeded=False)
    assert view.status == "failed"


def test_a_stage_that_is_alone_is_told_as_before(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.tell("features", start(""), at(1, 4), done(pictures=4))
    assert (told.features.status, told.features.counts) == ("done", {"pictures": 4})
    assert told.features.log == ""
