"""`wentu status`: one shape, whether a run is of this machine or of a cluster."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubeflow.conftest import Said, parsed
from tests.kubeflow.server import Kubeflow, dag, task
from wentu.formats import write_json
from wentu.orchestrate.live import FLOW

Wentu = Callable[..., Said]
PAIRS = {"name": "pairs", "status": "done", "seconds": 4.0, "counts": {"pictures": 24}}


def write_run(store: Path, run_id: str, *, status: str, decision: str, events: Any = ()) -> Path:
    """A run's folder as `wentu run` leaves it."""
    folder = store / "runs" / run_id
    (folder / "events").mkdir(parents=True)
    write_json(
        folder / "run.json",
        {
            "format": 1,
            "run_id": run_id,
            "status": status,
            "started": "2026-11-26T02:00:00Z",
            "seconds": 12.5,
            "parameters": {"pictures": "photos"},
            "decision": decision,
            "reason": "3 new pictures",
            "release": "0123456789abcdef",
            "stages": [],
        },
    )
    for stage, *lines in events:
        path = folder / "events" / f"{stage}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "alive").touch()
    return folder


START = {"event": "start", "time": 1.0, "pid": 1}
DECIDED = {"event": "decision", "decision": "refresh", "reason": "3 new pictures"}
DONE = {"event": "done", "seconds": 4.0, "counts": {"pictures": 24}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A store with a refresh that succeeded, one that failed, and one that runs."""
    folder = tmp_path / "store"
    inventory = ("inventory", START, DECIDED, DONE)
    write_run(
        folder,
        "20261126-020000-aaaa",
        status="succeeded",
        decision="refresh",
        events=[inventory, ("pairs", START, DONE), ("promote", START, DONE)],
    )
    failed = {"event": "error", "text": "no room", "seconds": 1.0, "exit_code": 3}
    write_run(
        folder,
        "20261126-030000-bbbb",
        status="failed",
        decision="refresh",
        events=[inventory, ("pairs", START, failed)],
    )
    running = write_run(
        folder,
        "20261126-040000-cccc",
        status="running",
        decision="",
        events=[inventory, ("pairs", START, {"event": "note", "text": "decoding"})],
    )
    with (running / "alive").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def states(run: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["status"] for each in run["stages"]}


# --- of this machine --------------------------------------------------------------------------


def test_a_finished_run_shows_what_came_from_the_cache(wentu: Wentu, store: Path) -> None:
    found = parsed(wentu("status", "aaaa", "--store", str(store), "--json"))
    assert (found["where"], found["status"], found["decision"]) == ("local", "succeeded", "refresh")
    expected = dict.fromkeys(FLOW["refresh"], "cached")
    assert states(found) == expected | dict.fromkeys(("inventory", "pairs", "promote"), "done")
    assert found["stages"][1] | {"note": "", "error": ""} == {**PAIRS, "note": "", "error": ""}


def test_a_failed_run_says_why(wentu: Wentu, store: Path) -> None:
    found = parsed(wentu("status", "20261126-03", "--store", str(store), "--json"))
    assert found["error"] == "no room"
    assert states(found)["pairs"] == "failed"
    assert states(found)["features"] == "waiting"
    shown = wentu("status", "bbbb", "--store", str(store))[1]
    assert "✗" in shown
    assert "no room" in shown


def test_a_run_that_runs_is_followed_by_its_events(wentu: Wentu, store: Path) -> None:
    found = parsed(wentu("status", "cccc", "--store", str(store), "--json"))
    assert (found["status"], found["decision"]) == ("running", "refresh")
    assert states(found)["pairs"] == "running"
    assert found["stages"][1]["note"] == "decoding"
    assert found["stages"][1]["seconds"] > 0


def test_all_runs_are_listed_oldest_first(wentu: Wentu, store: Path) -> None:
    listed = parsed(wentu("status", "--store", str(store), "--json"))
    assert [each["status"] for each in listed] == ["succeeded", "failed", "running"]
    shown = wentu("status", "--store", str(store), "--count", "1")[1]
    assert "20261126-040000-cccc" in shown
    assert "aaaa" not in shown


def test_a_run_that_nobody_knows(wentu: Wentu, store: Path) -> None:
    status, said = wentu("status", "zzzz", "--store", str(store))
    assert status == 2
    assert "zzzz names 0 runs here; known: 20261126-020000-aaaa" in said
    assert "names 3 runs here" in wentu("status", "2026", "--store", str(store))[1]


# --- of a cluster -----------------------------------------------------------------------------


@pytest.fixture
def run_id(wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]) -> str:
    """A run on the cluster."""
    return str(parsed(wentu("submit", *places, "--host", kubeflow.url, "--json"))["run_id"])


def ask(wentu: Wentu, kubeflow: Kubeflow, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = parsed(wentu("status", run_id, "--host", kubeflow.url, "--json"))
    return found


def test_the_shape_is_the_same(wentu: Wentu, kubeflow: Kubeflow, run_id: str, store: Path) -> None:
    kubeflow.course = lambda look: ("SUCCEEDED", task("inventory", "SUCCEEDED", lasts=5))
    there = ask(wentu, kubeflow, run_id)
    here = parsed(wentu("status", "aaaa", "--store", str(store), "--json"))
    assert list(there) == list(here)
    assert list(there["stages"][0]) == list(here["stages"][0])
    kinds = {name: type(value) for name, value in here.items()}
    assert {name: type(value) for name, value in there.items()} == kinds
    assert there["url"].endswith(run_id)
    assert there["parameters"]["pictures"] == "s3://shop/pictures"
    assert there["seconds"] == 90.0


def test_a_training_with_cached_stages(wentu: Wentu, kubeflow: Kubeflow, run_id: str) -> None:
    nodes = [
        *task("inventory", "SUCCEEDED", at=0, lasts=5),
        *dag("condition-2", "RUNNING"),
        *task("pairs", "SUCCEEDED", executor="SKIPPED"),
        *task("pack-lmdb", "SUCCEEDED", at=10, lasts=20),
        *task("finetune", "RUNNING", at=30),
    ]
    kubeflow.course = lambda look: ("RUNNING", nodes)
    found = ask(wentu, kubeflow, run_id)
    assert (found["status"], found["decision"]) == ("running", "train")
    expected = dict.fromkeys(FLOW["train"], "waiting") | {"inventory": "done", "pairs": "cached"}
    assert states(found) == expected | {"pack_lmdb": "done", "finetune": "running"}
    assert found["stages"][2]["seconds"] == 20.0
    shown = wentu("status", run_id, "--host", kubeflow.url)[1]
    assert "↺" in shown
    assert "▶  finetune" in shown


def test_nothing_new_is_a_skip(wentu: Wentu, kubeflow: Kubeflow, run_id: str) -> None:
    nodes = [*task("inventory", "SUCCEEDED"), *dag("condition-2", "SKIPPED")]
    kubeflow.course = lambda look: ("SUCCEEDED", nodes)
    found = ask(wentu, kubeflow, run_id)
    assert (found["decision"], states(found)) == ("skip", {"inventory": "done"})


def test_a_pod_that_cannot_start_is_told_while_it_waits(
    wentu: Wentu, kubeflow: Kubeflow, run_id: str, kubeconfig: Path
) -> None:
    nodes = [*task("inventory", "SUCCEEDED"), *task("finetune", "RUNNING", executor="PENDING")]
    kubeflow.course = lambda look: ("RUNNING", nodes)
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes: insufficient nvidia.com/gpu",
    }
    kubeflow.pods[nodes[-1]["task_id"]] = {"status": {"conditions": [condition]}}
    found = ask(wentu, kubeflow, run_id)
    note = next(each["note"] for each in found["stages"] if each["name"] == "finetune")
    assert note == "Unschedulable: 0/3 nodes: insufficient nvidia.com/gpu"


def test_shards_are_one_stage(wentu: Wentu, kubeflow: Kubeflow, run_id: str) -> None:
    """A stage that ran as several tasks is as far as the slowest and as bad as the worst."""
    shards = [task("features", "SUCCEEDED"), task("features", "RUNNING")]
    for number, nodes in enumerate(shards):
        for node in nodes:
            node["task_id"] += f"-{number}"
            for child in node.get("child_tasks", []):
                child["pod_name"] += f"-{number}"
    nodes = [*task("inventory", "SUCCEEDED"), *shards[0], *shards[1]]
    kubeflow.course = lambda look: ("RUNNING", nodes)
    assert states(ask(wentu, kubeflow, run_id))["features"] == "running"
    shards[1][1]["state"] = shards[1][2]["state"] = "FAILED"
    shards[1][2]["error"] = "evicted"
    found = ask(wentu, kubeflow, run_id)
    assert states(found)["features"] == "failed"
    assert found["error"] == "evicted"


def test_attempts_of_a_retry_belong_to_their_stage(
    wentu: Wentu, kubeflow: Kubeflow, run_id: str
) -> None:
    """Argo hangs the attempts below the executor: executor(0), executor(1)."""
    nodes = task("pairs", "FAILED")
    nodes[2]["child_tasks"] = [{"pod_name": "w-11"}, {"pod_name": "w-22"}]
    for number, text in (("11", "OOMKilled"), ("22", "no space left")):
        name = f"executor({number[0]})"
        nodes.append(
            {"task_id": f"w-impl-{number}", "display_name": name, "state": "FAILED", "error": text}
        )
    kubeflow.course = lambda look: ("FAILED", [*task("inventory", "SUCCEEDED"), *nodes])
    found = ask(wentu, kubeflow, run_id)
    assert found["error"] == "no space left"


def test_runs_of_both_are_listed_together(
    wentu: Wentu, kubeflow: Kubeflow, run_id: str, store: Path
) -> None:
    words = ("status", "--store", str(store), "--host", kubeflow.url)
    listed = parsed(wentu(*words, "--json"))
    assert [each["where"] for each in listed] == ["local", "local", "local", "cluster"]
    assert len({tuple(each) for each in listed}) == 1
    assert "cluster" in wentu(*words)[1]


def test_a_run_that_the_cluster_does_not_know(wentu: Wentu, kubeflow: Kubeflow) -> None:
    status, said = wentu("status", "run-9999", "--host", kubeflow.url)
    assert status == 7
    assert "run run-9999 not found" in said
