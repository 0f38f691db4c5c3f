"""How every stage runs: the manifest last, half-written output cleared, others' files kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from wentu.errors import InputError
from wentu.formats import read_manifest
from wentu.settings import StageConfig, code_version, option
from wentu.stage import Stage, clear


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    size: int = option(3, "Size.", "大小。")
    kind: str = option("a", "Kind.", "种类。", choices=("a", "b"))


def test_the_manifest_is_written_last_and_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Stage("example", out, Config(size=5), {"input": "abc"}) as stage:
        stage.counts["pictures"] = 7
        (out / "file").write_text("content")
        assert not (out / "manifest.json").exists()
    manifest = read_manifest(out, "example")
    assert manifest.config == {"size": 5, "kind": "a"}
    assert manifest.inputs == {"input": "abc"}
    assert manifest.counts == {"pictures": 7}
    assert manifest.code_version == code_version()
    assert manifest.seconds >= 0


def test_what_fails_is_not_finished_and_is_cleared_by_a_retry(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail() -> None:
        with Stage("example", out, Config(), {}):
            (out / "half").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not (out / "manifest.json").exists()
    with Stage("example", out, Config(), {}):
        assert not (out / "half").exists()
    assert (out / "manifest.json").exists()


def test_a_finished_output_is_replaced(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with Stage("example", tmp_path / "out", Config(), {}):
            (tmp_path / "out" / name).touch()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "two",
        ".wentu",
        "manifest.json",
    }


def test_files_of_others_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("precious")
    with pytest.raises(InputError, match="holds files that are not ours; name a new or empty"):
        clear(tmp_path)
    assert (tmp_path / "holiday.jpg").read_text() == "precious"
    with pytest.raises(InputError, match=r"holiday\.jpg is a file; name a folder"):
        clear(tmp_path / "holiday.jpg")


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    clear(tmp_path / "out")
    clear(tmp_path / "new" / "deep")
    assert (tmp_path / "new" / "deep").is_dir()


def test_an_unknown_choice_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--kind 'c' is none of: a, b"):
        Config(kind="c")
    monkeypatch.setenv("WENTU_LANG", "zh")
    with pytest.raises(InputError, match="--kind 'c' 无效"):
        Config(kind="c")


def test_the_version_of_the_code_is_that_of_its_sources() -> None:
    version = code_version()
    assert version == code_version()
    number, _, digest = version.partition("+")
    assert number.count(".") == 2
    assert len(digest) == 12


# --- under a run ------------------------------------------------------------------------------

UNDER_A_RUN = """
import sys, time
from pathlib import Path
from wentu.settings import StageConfig
from wentu.stage import Stage
from wentu.errors import InputError
with Stage("example", Path(sys.argv[1]), StageConfig(), {}) as stage:
    print("to the log")
    if sys.argv[2] == "fail":
        raise InputError("a mistake of the user's.")
    if sys.argv[2] == "wait":
        sys.stderr.write("waiting"); sys.stderr.flush(); time.sleep(60)
"""


def start(tmp_path: Path, how: str) -> subprocess.Popen[bytes]:
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "alive").touch()
    return subprocess.Popen(
        [sys.executable, "-c", UNDER_A_RUN, str(tmp_path / "out"), how],
        env=os.environ | {"WENTU_RUN_DIR": str(tmp_path / "run")},
    )


def test_under_a_run_a_stage_logs_and_tells_its_events(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "alive").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)  # as the run holds it for as long as it lives
        assert start(tmp_path, "work").wait(30) == 0
        assert start(tmp_path, "fail").wait(30) == 1
    log = (tmp_path / "run/logs/example.log").read_text()
    assert "to the log" in log
    lines = (tmp_path / "run/events/example.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["start", "done", "start", "error"]
    assert (events[3]["text"], events[3]["exit_code"]) == ("a mistake of the user's.", 2)


def test_a_stage_dies_with_its_run(tmp_path: Path) -> None:
    """The run is a process that holds the lock and is killed, so nobody tells the stage."""
    code = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'wb'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    (tmp_path / "run").mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run" / "alive")], stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"held\n"
    stage = start(tmp_path, "wait")
    log = tmp_path / "run/logs/example.log"
    while not (log.exists() and "waiting" in log.read_text()):
        assert stage.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert stage.wait(30) == 137
    assert not (tmp_path / "out" / "manifest.json").exists()
