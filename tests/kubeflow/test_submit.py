"""`wentu submit` with the real kfp.Client: checked first, uploaded once, followed to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kubeflow.conftest import Said, parsed
from tests.kubeflow.server import Kubeflow, State, dag, task
from wentu import tracking
from wentu.orchestrate.status import ClusterView
from wentu.orchestrate.trainspec import Pods

Wentu = Callable[..., Said]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClusterView, "EVERY", 0.02)


def course(*states: State) -> Callable[[int], State]:
    """A run that stands so at the first looks, and as the last from then on."""
    return lambda look: states[min(look, len(states) - 1)]


REFRESH = [
    *task("inventory", "SUCCEEDED", at=0, lasts=5),
    *dag("condition-branches-1", "SUCCEEDED"),
    *dag("condition-2", "SKIPPED"),
    *dag("condition-3", "SUCCEEDED"),
    *task("pairs-2", "SUCCEEDED", executor="SKIPPED"),
    *task("export-onnx-2", "SUCCEEDED", executor="SKIPPED"),
    *task("features-2", "SUCCEEDED", at=10, lasts=50),
    *task("index-2", "SUCCEEDED"),
    *task("promote-2", "SUCCEEDED"),
]


def test_a_run_is_sent_with_its_parameters_and_what_the_cluster_gives(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...], tmp_path: Path
) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text("[stages.default]\nmemory = '3Gi'\n", encoding="utf-8")
    words = ["--host", kubeflow.url, "--profile", str(profile), "--gpus", "2", "--epochs", "7"]
    status, said = wentu("submit", *places, *words, "--run-name", "autumn")
    assert status == 0, said
    (run,) = kubeflow.runs.values()
    assert said.strip() == f"Submitted: {kubeflow.url}/#/runs/details/{run.run_id}"
    assert run.display_name == "autumn"
    given = run.runtime_config.parameters
    assert given["pictures"] == "s3://shop/pictures"
    assert given["finetune_options"] == '{"epochs": 7}'
    ((spec, platform),) = kubeflow.packages.values()
    trained = spec["deploymentSpec"]["executors"]["exec-finetune"]["container"]
    assert trained["resources"]["resourceMemoryLimit"] == "3Gi"
    assert trained["resources"]["accelerator"]["resourceCount"] == "2"
    config = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-finetune"]
    assert config["secretAsEnv"][0]["secretName"] == "wentu-s3"


def test_what_is_there_already_is_not_uploaded_again(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    for words in ((), ("--epochs", "3"), ("--gpus", "1")):
        assert wentu("submit", *places, "--host", kubeflow.url, *words)[0] == 0
    assert len(kubeflow.pipelines) == len(kubeflow.experiments) == 1
    assert len(kubeflow.versions) == 2, "other options are the same pipeline, other needs are not"
    assert len(kubeflow.runs) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--pictures", "photos"), "--pictures photos: the cluster cannot see a file of this mach"),
        (("--store", "store"), "--store store: the cluster cannot see"),
        (("--captions", "cn.json"), "--captions cn.json: the cluster cannot see"),
        (("--model", "model.pt"), "--model model.pt: the cluster cannot see"),
        (("--suite", "suite.json"), "--suite suite.json: the cluster cannot see"),
        (("--epochs", "-1"), "--epochs -1: give 0 or more"),
        (("--profile", "none.toml"), "none.toml"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    wentu: Wentu,
    kubeflow: Kubeflow,
    places: tuple[str, ...],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    if words[0] in places:
        at = places.index(words[0])
        places = places[:at] + places[at + 2 :]
    status, said = wentu("submit", *places, "--host", kubeflow.url, *words)
    assert status == 2
    assert sentence in said
    assert kubeflow.log == []


def test_a_cluster_has_to_be_named(wentu: Wentu, places: tuple[str, ...]) -> None:
    status, said = wentu("submit", *places)
    assert status == 2
    assert "--host URL, or KF_PIPELINES_ENDPOINT" in said
    assert "begin with http://" in wentu("submit", *places, "--host", "kubeflow")[1]


@pytest.mark.parametrize(
    ("refuse", "sentence"),
    [
        ({"GET /apis/v2beta1/": 401}, "refuses access (401: refused by the test); put a token"),
        ({"POST /apis/v2beta1/runs": 500}, "did not do it (500: refused by the test)"),
        ({"GET /apis/v2beta1/pipelines": 404}, "is this the address of Kubeflow Pipelines?"),
    ],
)
def test_what_the_server_refuses_is_one_sentence(
    wentu: Wentu,
    kubeflow: Kubeflow,
    places: tuple[str, ...],
    refuse: dict[str, int],
    sentence: str,
) -> None:
    kubeflow.refuse = refuse
    status, said = wentu("submit", *places, "--host", kubeflow.url)
    assert status == 7
    assert sentence in said


def test_a_server_that_is_not_there_is_one_sentence(wentu: Wentu, places: tuple[str, ...]) -> None:
    status, said = wentu("submit", *places, "--host", "http://127.0.0.1:9")
    assert status == 7
    assert "does not answer" in said
    assert "\n" not in said


# --- following --------------------------------------------------------------------------------


def test_wait_follows_a_run_to_its_end(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    kubeflow.course = course(
        ("PENDING", []),
        ("RUNNING", task("inventory", "RUNNING")),
        ("RUNNING", [*REFRESH[:12], *task("features-2", "RUNNING")]),
        ("SUCCEEDED", REFRESH),
    )
    status, said = wentu("submit", *places, "--host", kubeflow.url, "--wait")
    assert status == 0, said
    lines = said.splitlines()
    assert lines[-1] == "Done in 90 s (refresh)."
    assert "pairs: cached" in lines
    assert "features: running" in lines


def test_wait_says_why_a_run_failed(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...], kubeconfig: Path
) -> None:
    """KFP's server tells no reason: the pod is asked, and its log."""
    nodes = [*task("inventory", "SUCCEEDED"), *task("pairs", "FAILED")]
    kubeflow.course = course(("RUNNING", nodes[:3]), ("FAILED", nodes))
    pod = nodes[-1]["task_id"]
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    state = {"name": "main", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
    state["state"] = {"terminated": ended}
    kubeflow.pods[pod] = {"metadata": {"name": pod}, "status": {"containerStatuses": [state]}}
    kubeflow.logs[pod] = "reading\nwentu.errors.InputError: s3://shop/pictures: no pictures.\n\n"
    status, said = wentu("submit", *places, "--host", kubeflow.url, "--wait")
    assert status == 6
    assert said.startswith("pairs: OOMKilled (exit 137); reading; wentu.errors.InputError: s3:")
    assert "/#/runs/details/" in said


def test_a_reason_that_kfp_tells_needs_no_kubeconfig(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    nodes = [*task("inventory", "SUCCEEDED"), *task("pairs", "FAILED")]
    nodes[-1]["error"] = "the pod was evicted"
    kubeflow.course = course(("FAILED", nodes))
    status, said = wentu("submit", *places, "--host", kubeflow.url, "--wait")
    assert status == 6
    assert said.startswith("pairs: the pod was evicted\nRun: ")


def test_a_failed_driver_is_a_failed_stage(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    driver = task("finetune", "FAILED")[:1]
    driver[0] |= {"state": "FAILED", "error": "failed to resolve input parameter"}
    kubeflow.course = course(("FAILED", [*task("inventory", "SUCCEEDED"), *driver]))
    status, said = wentu("submit", *places, "--host", kubeflow.url, "--wait")
    assert status == 6
    assert said.startswith("finetune: failed to resolve input parameter")


def test_a_server_that_is_away_for_a_while_is_asked_again(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    def standing(look: int) -> State:
        kubeflow.refuse = {"GET /apis/v2beta1/runs/": 503} if look == 1 else {}
        if look == 1:
            import threading

            threading.Timer(0.3, kubeflow.refuse.clear).start()
        return ("SUCCEEDED", REFRESH) if look > 2 else ("RUNNING", [])

    kubeflow.course = standing
    assert wentu("submit", *places, "--host", kubeflow.url, "--wait")[0] == 0


def test_a_server_that_stays_away_is_not_waited_for_for_ever(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def standing(look: int) -> State:
        kubeflow.refuse = {"GET /apis/v2beta1/runs/": 503}
        return "RUNNING", []

    kubeflow.course = standing
    monkeypatch.setattr("wentu.orchestrate.status.PATIENCE", 0.2)
    status, said = wentu("submit", *places, "--host", kubeflow.url, "--wait")
    assert status == 7
    assert "503" in said


def test_json_is_the_run_and_nothing_else(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    kubeflow.course = course(("SUCCEEDED", task("inventory", "SUCCEEDED")))
    sent: Any = parsed(wentu("submit", *places, "--host", kubeflow.url, "--json"))
    assert sent["run_id"] in kubeflow.runs
    found = parsed(wentu("submit", *places, "--host", kubeflow.url, "--json", "--wait"))
    assert found["decision"] == "skip"
    assert [each["name"] for each in found["stages"]] == ["inventory"]


def test_a_training_on_several_nodes_is_launched_by_its_task(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    words = ("--host", kubeflow.url, "--nodes", "2", "--gpus", "8")
    assert wentu("submit", *places, *words)[0] == 0
    (run,) = kubeflow.runs.values()
    assert json.loads(run.runtime_config.parameters["finetune_options"]) == {"nodes": 2}
    ((spec, _),) = kubeflow.packages.values()
    container = spec["deploymentSpec"]["executors"]["exec-finetune"]["container"]
    assert "accelerator" not in container.get("resources", {})
    (told,) = (each["value"] for each in container["env"] if each["name"] == "WENTU_TRAINJOB")
    assert Pods.parse(told).gpu == 8


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # of MLflow's database, in this process
def test_a_run_that_was_waited_for_is_ended_in_mlflow(
    wentu: Wentu,
    kubeflow: Kubeflow,
    places: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its stages found each other there by the id that KFP gave the run."""
    tracking.use_store(tmp_path / "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")

    def standing(look: int) -> State:
        (run_id,) = kubeflow.runs
        if look == 0:
            tracking.MlflowTracker.begin("inventory", run_id).close("FINISHED")
        return ("RUNNING", []) if look == 0 else ("SUCCEEDED", REFRESH)

    kubeflow.course = standing
    assert wentu("submit", *places, "--host", kubeflow.url, "--wait")[0] == 0
    client = tracking._client()
    (run_id,) = kubeflow.runs
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`wentu.run` = '{run_id}'")
    assert run.info.status == "FINISHED"
    assert run.data.params["pictures"] == "s3://shop/pictures"


def test_mlflow_that_is_away_does_not_make_a_run_fail(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    kubeflow.course = course(("SUCCEEDED", REFRESH))
    assert wentu("submit", *places, "--host", kubeflow.url, "--wait")[0] == 0


# --- notices ----------------------------------------------------------------------------------


def ended(kubeflow: Kubeflow, terminated: dict[str, Any], log: str = "") -> None:
    """A run whose stage pairs failed so; Kubernetes is asked, for KFP tells nothing."""
    nodes = [*task("inventory", "SUCCEEDED"), *task("pairs", "FAILED")]
    kubeflow.course = course(("RUNNING", nodes[:3]), ("FAILED", nodes))
    pod = nodes[-1]["task_id"]
    state = {"name": "main", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
    state["state"] = {"terminated": terminated}
    kubeflow.pods[pod] = {"metadata": {"name": pod}, "status": {"containerStatuses": [state]}}
    kubeflow.logs[pod] = log


@pytest.fixture
def wait_for(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[dict[str, Any]]]:
    """The notices that came while a run was waited for that fails."""
    monkeypatch.setenv("WENTU_WEBHOOK", f"{kubeflow.url}/hook")

    def wait() -> list[dict[str, Any]]:
        assert wentu("submit", *places, "--host", kubeflow.url, "--wait")[0] == 6
        return kubeflow.notices

    return wait


Wait = Callable[[], list[dict[str, Any]]]


def test_of_a_pod_that_was_killed_whoever_waits_tells(
    kubeflow: Kubeflow, kubeconfig: Path, wait_for: Wait
) -> None:
    ended(kubeflow, {"exitCode": 137, "reason": "OOMKilled"})
    (notice,) = wait_for()
    (run_id,) = kubeflow.runs
    assert (notice["event"], notice["stage"], notice["run"]) == ("failure", "pairs", run_id)
    assert notice["sentence"] == "OOMKilled (exit 137)"
    assert notice["link"] == f"{kubeflow.url}/#/runs/details/{run_id}"
    assert "WENTU_RUN_ID" not in os.environ


def test_what_a_stage_said_itself_is_not_said_twice(
    kubeflow: Kubeflow, kubeconfig: Path, wait_for: Wait
) -> None:
    log = "StageError: the TrainJob wentu-1 failed (node-1 OOMKilled)"
    ended(kubeflow, {"exitCode": 1, "reason": "Error"}, log)
    assert wait_for() == []


def test_a_process_that_the_launcher_lost_said_nothing(
    kubeflow: Kubeflow, kubeconfig: Path, wait_for: Wait
) -> None:
    log = "F1127 main.go:49] failed to execute component: signal: killed"
    ended(kubeflow, {"exitCode": 1, "reason": "Error"}, log)
    assert len(wait_for()) == 1


def test_a_failure_that_nobody_knows_the_reason_of_is_told(
    kubeflow: Kubeflow, wait_for: Wait
) -> None:
    """A pod that waits for an image or a node until its time is up, and no kubeconfig here."""
    ended(kubeflow, {"exitCode": 137, "reason": "OOMKilled"})
    assert [each["sentence"] for each in wait_for()] == ["no reason is known"]


def test_a_run_that_was_stopped_is_no_failure(
    wentu: Wentu, kubeflow: Kubeflow, wait_for: Wait
) -> None:
    kubeflow.course = course(("CANCELED", task("inventory", "SUCCEEDED")))
    assert wait_for() == []


@pytest.mark.parametrize(("told", "status"), [(0, "RUNNING"), (1, "FAILED")])
@pytest.mark.filterwarnings("ignore")  # of MLflow's database, in this process
def test_mlflow_knows_which_stage_could_speak(
    kubeflow: Kubeflow,
    wait_for: Wait,
    told: int,
    status: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WENTU_TRACKING", "on")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "SETTLE", 0.0)
    tracking.use_store(tmp_path / "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    nodes = [*task("inventory", "SUCCEEDED"), *task("pairs", "FAILED")]

    def standing(look: int) -> State:
        (run_id,) = kubeflow.runs
        if look == 0:
            tracker = tracking.MlflowTracker.begin("pairs", run_id)
            if status == "FAILED":
                tracker.close(status)
        return ("RUNNING", []) if look == 0 else ("FAILED", nodes)

    kubeflow.course = standing
    assert len(wait_for()) == 1 - told


# --- once -------------------------------------------------------------------------------------


def test_a_run_of_that_name_is_not_sent_again(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    kubeflow.course = course(("SUCCEEDED", REFRESH))
    words = ("submit", *places, "--host", kubeflow.url, "--wait", "--once", "--run-name")
    for name in ("one", "one", "two"):
        status, said = wentu(*words, name)
        assert status == 0, said
    assert [run.display_name for run in kubeflow.runs.values()] == ["one", "two"]


def test_a_receiver_that_is_started_again_waits_for_its_run(
    kubeflow: Kubeflow, places: tuple[str, ...], tmp_path: Path
) -> None:
    looks: list[int] = []
    kubeflow.course = lambda look: (looks.append(look), ("RUNNING", []))[1]
    words = [sys.executable, "-m", "wentu", "watch", "--submit", "--port", "0", "--state"]
    words += [str(tmp_path / "state"), "--quiet-seconds", "0.1", "--", *places]
    words += ["--host", kubeflow.url]
    running = tmp_path / "state/running.json"

    def receive(work: Callable[[str], object]) -> None:
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            line = process.stdout.readline()
            try:
                work(line.split("listening on ")[1].split(" ")[0])
            finally:
                process.terminate()

    def begin(url: str) -> None:
        picture = {"bucket": {"name": "shop"}, "object": {"key": "pictures/a.jpg"}}
        event = {"Records": [{"eventName": "ObjectCreated:Put", "s3": picture}]}
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(event).encode())).close()
        until(lambda: kubeflow.runs)

    def end(_: str) -> None:
        looks.clear()
        until(lambda: looks)
        kubeflow.course = lambda _: ("SUCCEEDED", REFRESH)
        until(lambda: not running.exists())

    receive(begin)
    (run,) = kubeflow.runs.values()
    assert json.loads(running.read_text())["name"] == run.display_name
    receive(end)
    assert len(kubeflow.runs) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--min-knew", "400"), "No such option '--min-knew'"),
        (("--epochs", "many"), "'many' is not a valid int"),
        (("--epochs", "-1"), "--epochs -1: give 0 or more"),
        (("--preset", "none"), "'none' is not one of"),
        (("--profile", "none.toml"), "none.toml: no such file"),
        (("--store", "here"), "--store here: the cluster cannot see"),
    ],
)
def test_a_receiver_refuses_what_submit_would_refuse_before_anything_listens(
    wentu: Wentu,
    places: tuple[str, ...],
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wentu.commands.watch.serve", lambda server, *_: server.server_close())
    watch = ("watch", "--submit", "--port", "0", "--state", str(tmp_path / "state"), "--", *places)
    status, said = wentu(*watch, *words)
    assert (status, sentence in said) == (2, True), said
    right = ("--run-name", "autumn", "--host", "http://127.0.0.1:9", "--gpus", "2", "--epochs", "3")
    status, said = wentu(*watch, *right)
    assert (status, "listening on" in said) == (0, True), said


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
