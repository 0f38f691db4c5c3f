"""How every stage runs: the manifest last, half-written output cleared, others' files kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wentu.errors import InputError
from wentu.formats import folder_sha256, read_manifest
from wentu.progress import Reporter
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


def fill(out: Path, name: str, content: str, *, stage: str = "example") -> None:
    with Stage(stage, out, Config(), {}):
        (out / name).write_text(content)


def fail(out: Path, error: BaseException, *, stage: str = "example") -> None:
    with Stage(stage, out, Config(), {}):
        (out / "half").write_text("half")
        raise error


@pytest.mark.parametrize("error", [InputError("wrong"), KeyError("x"), KeyboardInterrupt()])
def test_a_finished_output_is_there_again_after_a_failure(
    tmp_path: Path, error: BaseException
) -> None:
    out = tmp_path / "out"
    fill(out, "one", "1")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for _ in range(2):
        with pytest.raises(type(error)):
            fail(out, error)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert list(tmp_path.iterdir()) == [out]
    fill(out, "two", "2")
    assert not (out / "one").exists()
    assert list(tmp_path.iterdir()) == [out]


class Told(Reporter):
    """Keeps what a run would show."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def emit(self, event: str, **values: Any) -> None:
        self.texts += [values["text"]] if event == "error" else []


def test_a_full_disk_is_said_with_what_to_do_and_the_finished_output_is_there_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/full refuses every byte as a full disk does."""
    out, told = tmp_path / "out", Told()
    with Stage("example", out, Config(), {}):
        (out / "file").write_text("one")
    finished = folder_sha256(out)

    def fill() -> None:
        with Stage("example", out, Config(), {}) as stage:
            stage.progress = told
            (out / "file").symlink_to("/dev/full")
            (out / "file").write_text("two")

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert told.texts == [
        "the disk is full. Make room and run the same command again: what was finished is still "
        "there."
    ]
    assert "Traceback" not in capsys.readouterr().err
    assert folder_sha256(out) == finished
    assert read_manifest(out, "example")


def test_what_an_attempt_that_was_killed_had_set_aside_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "one", "1")
    with Stage("example", out, Config(), {}):
        (out / "half").write_text("half")
        left = {
            path.name: Path(shutil.copytree(path, tmp_path / f"{path.name}.copy"))
            for path in list(tmp_path.iterdir())
        }
    shutil.rmtree(out)
    for name, copy in left.items():  # as it would be after a power cut
        copy.rename(tmp_path / name)
    assert (out / "half").exists()
    with pytest.raises(InputError):
        fail(out, InputError("wrong"))
    assert (out / "one").read_text() == "1"
    assert read_manifest(out, "example")
    assert list(tmp_path.iterdir()) == [out]


def test_a_tracker_that_fails_leaves_the_finished_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "one", "1")
    monkeypatch.setenv("WENTU_RUN_ID", "run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(Exception, match="nonsense"):
        fill(tmp_path / "out", "two", "2")
    assert (tmp_path / "out" / "one").read_text() == "1"
    assert read_manifest(tmp_path / "out", "example")


@pytest.mark.parametrize("finished", [True, False])
def test_the_output_of_another_stage_is_never_removed(tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "out"
    if finished:
        fill(out, "one", "1", stage="other")
        sentence = "out was written by the stage other; name a new or empty folder"
    else:
        with pytest.raises(InputError):
            fail(out, InputError("wrong"), stage="other")
        sentence = "out holds files that this stage did not write; name a new or empty folder"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match=sentence):
        fill(out, "two", "2")
    with pytest.raises(InputError, match=sentence):
        clear(out, "example")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


def test_the_output_of_another_version_of_the_stage_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one", "1")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    fill(tmp_path / "out", "two", "2")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"two", ".wentu", "manifest.json"}


def test_files_of_others_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("precious")
    with pytest.raises(
        InputError, match="holds files that this stage did not write; name a new or empty"
    ):
        clear(tmp_path, "example")
    assert (tmp_path / "holiday.jpg").read_text() == "precious"
    with pytest.raises(InputError, match=r"holiday\.jpg is a file; name a folder"):
        clear(tmp_path / "holiday.jpg", "example")


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    clear(tmp_path / "out", "example")
    clear(tmp_path / "new" / "deep", "example")
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
