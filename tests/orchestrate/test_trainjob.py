"""A training across machines: what is asked of Kubernetes, and what becomes of each answer.

The real client talks to a server of this machine; see kubernetes_api.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api import models

from tests.orchestrate.kubernetes_api import KubernetesApi
from wentu.errors import InputError, ServiceError, StageError, StoppedError, WentuError
from wentu.formats import read_json
from wentu.orchestrate import cluster, trainjob
from wentu.orchestrate.cluster import Cluster
from wentu.orchestrate.trainjob import Training, name_of
from wentu.orchestrate.trainspec import Owner, Pods
from wentu.progress import Reporter
from wentu.store import Store
from wentu.training import remote, saving
from wentu.training.config import Config
from wentu.training.job import Job

KEY = "0123456789abcdef0123456789abcdef"
NAME = "wentu-one-training"
PROFILE = {
    "image": "registry/wentu/gpu:1",
    "pull_secret": "registry",
    "cpu": "8",
    "memory": "64Gi",
    "gpu": 4,
    "shm": "16Gi",
    "storage": "200Gi",
    "timeout": 86400,
    "retries": 2,
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "secrets": {"wentu-s3": {"AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID"}},
    "config": {"wentu-config": {"endpoint": "AWS_ENDPOINT_URL_S3"}},
    "env": {"NCCL_DEBUG": "WARN"},
}


class Heard(Reporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def emit(self, event: str, **values: Any) -> None:
        self.said.append(values["text"])


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """A cluster within reach, and little patience."""
    monkeypatch.setattr(trainjob, "POLL", 0.02)
    monkeypatch.setattr(cluster, "PAUSES", (0.01,))
    monkeypatch.setattr(cluster, "PATIENCE", 2.0)
    monkeypatch.setenv("WENTU_TRAINJOB", json.dumps(PROFILE))
    for name in ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    with KubernetesApi() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "kubeconfig")))
        yield server


@pytest.fixture
def training(built: Any, tmp_path: Path, api: KubernetesApi) -> Training:
    """Two machines; nothing is trained unless the test does."""
    vault = Store(str(tmp_path / "store"))
    work = vault.storage.home / f"work/{KEY}"
    job = Job(lmdb=built.lmdb, model="tiny", work=work, config=Config(nodes=2))
    made = Training(Cluster.connect(), vault, KEY, job, Heard())
    made.name = NAME
    return made


def train(training: Training) -> None:
    """What the machines would leave in the store."""
    with training.vault.work(training.key) as work:
        saving.save_result(work, saving.Position(over="epochs"))


def said(training: Training) -> list[str]:
    assert isinstance(training.report, Heard)
    return training.report.said


def requests(api: KubernetesApi, method: str) -> int:
    return sum(each.startswith(f"{method} ") for each in api.asked)


def steps(api: KubernetesApi, *wanted: Any) -> None:
    """Call these one after the other, each time that a TrainJob is looked at."""
    left = list(wanted)
    api.on_get = lambda job: left.pop(0)() if left else None


def test_two_stores_that_train_the_same_have_a_trainjob_each() -> None:
    """Of one store it is the same however its place is written, for a task that starts again."""
    names = [name_of(Store(f"s3://{place}"), KEY) for place in ("a/store", "b/store", "a/store/")]
    assert names[0] == names[2] != names[1]
    assert all(re.fullmatch("wentu-[0-9a-f]{20}", name) for name in names)
    assert name_of(Store("s3://a/store"), KEY[::-1]) not in names


# --- what is asked for ------------------------------------------------------------------------


def test_every_field_is_one_of_the_api_and_says_what_the_profile_says(
    api: KubernetesApi, training: Training
) -> None:
    kept: list[dict[str, Any]] = []

    def complete(job: dict[str, Any]) -> None:
        kept.append(json.loads(json.dumps(job)))
        train(training)
        api.end(NAME, "Complete")

    api.on_create = complete
    training.run()
    (job,) = kept
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"]["name"] == NAME
    assert job["metadata"]["labels"]["wentu/training"] == KEY
    spec = job["spec"]
    assert spec["runtimeRef"]["name"] == "torch-distributed"
    assert spec["activeDeadlineSeconds"] == 86400
    trainer = spec["trainer"]
    assert trainer["image"] == "registry/wentu/gpu:1"
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["command"] == ["torchrun"]
    place = training.vault.place
    assert trainer["args"] == ["-m", "wentu.training.worker", "--store", place, KEY]
    limits = trainer["resourcesPerNode"]["limits"]
    assert limits == trainer["resourcesPerNode"]["requests"]
    assert limits == {
        "cpu": "8",
        "memory": "64Gi",
        "ephemeral-storage": "200Gi",
        "nvidia.com/gpu": "4",
    }
    env = {each["name"]: each for each in trainer["env"]}
    key = {"name": "wentu-s3", "key": "AWS_ACCESS_KEY_ID", "optional": True}
    assert env["AWS_ACCESS_KEY_ID"]["valueFrom"] == {"secretKeyRef": key}
    listed = {"name": "wentu-config", "key": "endpoint", "optional": True}
    assert env["AWS_ENDPOINT_URL_S3"]["valueFrom"] == {"configMapKeyRef": listed}
    assert env["NCCL_DEBUG"]["value"] == "WARN"
    (patch,) = spec["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert replicated["name"] == pod["containers"][0]["name"] == "node"
    volumes = {each["name"]: each["emptyDir"] for each in pod["volumes"]}
    assert volumes == {
        "shm": {"medium": "Memory", "sizeLimit": "16Gi"},
        "cache": {"sizeLimit": "200Gi"},
    }
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"shm": "/dev/shm", "cache": env["WENTU_CACHE"]["value"]}
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == PROFILE["tolerations"]
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_machines_find_data_and_weights_in_the_store(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that lie on the launching machine only, under its path or by a name."""
    start = built.checkpoint / "epoch_best.pt"
    vault = Store(str(tmp_path / "store"))
    config = Config(nodes=2, teacher=str(start), epochs=7)
    job = Job(lmdb=built.lmdb, model=str(start), work=tmp_path / "work", config=config)
    remote.hand_over(vault, KEY, job, "tracked")
    remote.hand_over(vault, KEY, job, "tracked")
    assert len(list(vault.storage.list("parts"))) == 2
    with remote.taken_over(vault.place, KEY, rank=1) as (there, tracked):
        assert tracked == ""
        assert there.config.epochs == 7
        for path in (there.model, there.config.teacher):
            assert Path(path).read_bytes() == start.read_bytes()
            assert Path(path).is_relative_to(vault.storage.home)
        assert (there.lmdb / "manifest.json").exists()
        assert there.start().state is not None
    with remote.taken_over(vault.place, KEY, rank=0) as (there, tracked):
        assert tracked == "tracked"
        assert there.work == vault.storage.home / f"work/{KEY}"
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "clip_cn_rn50.pt").write_bytes(b"weights by a name")
    monkeypatch.setenv("WENTU_WEIGHTS", str(weights))
    named = Job(lmdb=built.lmdb, model="RN50", work=tmp_path / "work", config=Config(nodes=2))
    remote.hand_over(vault, KEY, named, "")
    monkeypatch.setenv("WENTU_WEIGHTS", str(tmp_path / "nothing"))
    from wentu.clip import checkpoint

    with remote.taken_over(vault.place, KEY, rank=1) as (there, _):
        assert there.model == "RN50"
        found = checkpoint.find_weights("RN50")
        assert found is not None
        assert found.read_bytes() == b"weights by a name"


def test_without_a_description_the_pods_are_like_this_one(
    api: KubernetesApi, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WENTU_TRAINJOB")
    with pytest.raises(InputError, match="this is no pod that they could be like; use `wentu sub"):
        trainjob.described(training.cluster)
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    secret = {"secretKeyRef": {"name": "wentu-s3", "key": "k"}}
    main = {
        "name": "main",
        "image": "registry/wentu/cpu:1",
        "resources": {"limits": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}},
        "env": [
            {"name": "AWS_ACCESS_KEY_ID", "valueFrom": secret},
            {"name": "AWS_DEFAULT_REGION", "value": "x"},
            {"name": "PATH", "value": "/"},
            {"name": "WENTU_RUN_ID", "value": "mine"},
        ],
    }
    api.pods["me"] = {
        "metadata": {
            "name": "me",
            "labels": {"pipeline/runid": "run-1"},
            "ownerReferences": [{**workflow, "controller": True}],
        },
        "spec": {
            "containers": [{"name": "wait", "image": "argo"}, main],
            "imagePullSecrets": [{"name": "registry"}],
        },
        "status": {"phase": "Running"},
    }
    monkeypatch.setenv("KFP_POD_NAME", "me")
    pods, owner = trainjob.described(training.cluster)
    assert pods == Pods(
        image="registry/wentu/cpu:1",
        pull_secret="registry",
        cpu="2",
        memory="4Gi",
        gpu=1,
        secrets={"wentu-s3": {"k": "AWS_ACCESS_KEY_ID"}},
        env={"AWS_DEFAULT_REGION": "x"},
    )
    assert owner == Owner(run="run-1", references=(workflow,))
    api.on_create = lambda job: (train(training), api.end(NAME, "Failed"))[0]
    with pytest.raises(StageError):
        training.run()
    (reference,) = api.jobs[NAME]["metadata"]["ownerReferences"]
    assert reference == {**workflow, "controller": False, "blockOwnerDeletion": False}
    assert api.jobs[NAME]["metadata"]["labels"]["wentu/run"] == "run-1"


@pytest.mark.parametrize("text", ["nothing", "[]", '{"cpu": "8"}', '{"image": "a", "cpus": "8"}'])
def test_a_description_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="WENTU_TRAINJOB: no description of pods"):
        Pods.parse(text)


def test_a_folder_is_no_store_for_several_machines(built: Any, tmp_path: Path) -> None:
    job = Job(lmdb=built.lmdb, model="tiny", work=tmp_path, config=Config(nodes=2))
    with pytest.raises(InputError, match="--nodes 2: machines meet in the store, which must be s3"):
        trainjob.launch(Store(str(tmp_path)), KEY, job, None)  # type: ignore[arg-type]


# --- what becomes of it -----------------------------------------------------------------------


def test_it_is_launched_followed_and_removed(api: KubernetesApi, training: Training) -> None:
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    waits["message"] = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."

    def run_all() -> None:
        for index in (0, 1):
            api.add_pod(NAME, index)

    steps(
        api,
        lambda: None,  # before it is created there is none to look at
        lambda: api.add_pod(NAME, 0, "Pending", conditions=[waits]),
        run_all,
        lambda: (train(training), api.end(NAME, "Complete")),
    )
    training.run("child")
    assert api.jobs == {}
    handed = f"trainings/{KEY}/job.json"
    assert read_json(training.vault.storage.home / handed)["tracked"] == "child"
    text = "\n".join(said(training))
    assert "0 of 2 machines run (Unschedulable: 0/3 nodes are available: 3 Insufficient" in text
    assert "2 of 2 machines run" in text
    assert text.count("2 of 2 machines run") == 1


def test_a_task_that_was_restarted_finds_its_trainjob(
    api: KubernetesApi, training: Training
) -> None:
    api.jobs[NAME] = {"metadata": {"name": NAME}, "spec": {"suspend": True}}
    api.add_pod(NAME, 0)
    steps(api, lambda: None, lambda: (train(training), api.end(NAME, "Complete")))
    training.run()
    assert requests(api, "POST") == 0
    assert requests(api, "PATCH") == 1  # it was suspended: it goes on
    assert api.jobs == {}
    assert not (training.vault.storage.home / "parts").exists()


def test_what_was_trained_already_is_not_trained_again(
    api: KubernetesApi, training: Training
) -> None:
    train(training)
    training.run()
    assert requests(api, "POST") == 0


def test_of_two_tasks_at_once_one_creates_it(api: KubernetesApi, training: Training) -> None:
    """Between the look and the creation another one was faster: 409."""
    create = training.cluster.create

    def slow(body: dict[str, Any]) -> bool:
        api.jobs[NAME] = {"metadata": {"name": NAME}, "spec": {"suspend": False}}
        assert not create(body)
        return False

    training.cluster.create = slow  # type: ignore[method-assign]
    steps(api, lambda: None, lambda: (train(training), api.end(NAME, "Complete")))
    training.run()
    assert api.jobs == {}


def test_a_failure_says_the_last_lines_of_the_machine_that_failed(
    api: KubernetesApi, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    over = {"exitCode": 137, "reason": "OOMKilled"}
    container = {"name": "node", "restartCount": 0, "ready": False, "image": "", "imageID": ""}
    lines = "".join(f"line {number}\n" for number in range(500)) + "the last word\n"

    def fail(job: dict[str, Any]) -> None:
        api.add_pod(NAME, 0, log="the other one waits\n")
        status = [{**container, "state": {"terminated": over}}]
        api.add_pod(NAME, 1, "Failed", log=lines, containerStatuses=status)
        api.end(NAME, "Failed", "FailedJobs", "jobset failed")

    api.on_create = fail
    with pytest.raises(StageError) as error:
        training.run()
    text = str(error.value)
    assert f"the TrainJob {NAME} failed (FailedJobs: jobset failed, {NAME}-node-0-1-x1x" in text
    assert "OOMKilled (137))" in text
    assert text.endswith("  the last word")
    assert "line 471" in text
    assert "line 469" not in text
    logged = capsys.readouterr().err
    assert "line 301" in logged
    assert "the other one waits" in logged
    assert NAME in api.jobs  # its pods' logs can still be read
    # Another attempt takes its place.
    api.on_create = lambda job: (train(training), api.end(NAME, "Complete"))[0]
    training.run()
    assert api.jobs == {}
    assert any("failed before; it starts again from its last state" in s for s in said(training))


def test_of_a_container_that_was_started_again_the_log_before_is_shown(
    api: KubernetesApi, training: Training
) -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    last = {"terminated": {"exitCode": 1, "reason": "Error"}}
    container = {"name": "node", "restartCount": 3, "ready": False, "image": "", "imageID": ""}

    def fail(job: dict[str, Any]) -> None:
        status = [{**container, "state": waiting, "lastState": last}]
        name = api.add_pod(NAME, 0, containerStatuses=status)
        api.logs[f"{name} before"] = "what went wrong\n"
        api.end(NAME, "Failed", "DeadlineExceeded")

    api.on_create = fail
    with pytest.raises(StageError, match=r"(?s)DeadlineExceeded.*Error \(1\).*what went wrong"):
        training.run()


def test_a_mistake_that_would_come_again_ends_it_at_once(
    api: KubernetesApi, training: Training
) -> None:
    def mistake(job: dict[str, Any]) -> None:
        api.add_pod(NAME, 0, log="trace\n")
        place = training.vault.place
        remote.tell_failure(place, KEY, StageError("out of memory: may go better next time"))
        remote.tell_failure(place, KEY, InputError("--teacher x: no weights"))

    api.on_create = mistake
    with pytest.raises(WentuError, match=r"^--teacher x: no weights$") as error:
        training.run()
    assert error.value.exit_code == InputError.exit_code
    assert api.jobs == {}


def test_a_trainjob_that_somebody_removed_is_told(api: KubernetesApi, training: Training) -> None:
    api.on_create = lambda job: api.add_pod(NAME, 0) and None
    steps(api, lambda: None, lambda: api.jobs.clear())
    with pytest.raises(StageError, match="was removed by somebody else; run again to go on"):
        training.run()


def test_complete_without_a_result_is_no_success(api: KubernetesApi, training: Training) -> None:
    api.on_create = lambda job: api.end(NAME, "Complete")
    with pytest.raises(StageError, match="is complete, but its result is not in"):
        training.run()
    assert api.jobs == {}, "the next attempt would find it complete, and fail alike"
    api.on_create = lambda job: (train(training), api.end(NAME, "Complete"))[0]
    training.run()
    assert requests(api, "POST") == 2


def test_a_connection_that_is_lost_for_a_while_is_no_matter(
    api: KubernetesApi, training: Training
) -> None:
    def lose() -> None:
        api.faults += ["cut", 503, "cut", 429, 500, "cut", "cut"]

    steps(api, lambda: None, lose, lambda: (train(training), api.end(NAME, "Complete")))
    training.run()
    assert api.jobs == {}
    assert api.faults == []


def test_a_connection_that_stays_lost_is_told(api: KubernetesApi, training: Training) -> None:
    api.on_create = lambda job: api.faults.extend(["cut"] * 10_000)
    with pytest.raises(ServiceError, match=r"has not answered for .*the training itself goes on"):
        training.run()


def test_a_right_that_is_lacking_is_named(api: KubernetesApi, training: Training) -> None:
    api.faults = [403]
    with pytest.raises(ServiceError, match=r"ordered by the test\. Bind the Role wentu-trainjobs"):
        training.run()


def test_what_the_api_refuses_is_said_in_its_words(api: KubernetesApi, training: Training) -> None:
    create = training.cluster.create
    training.cluster.create = lambda body: create({**body, "x": 1})  # type: ignore[method-assign]
    with pytest.raises(ServiceError, match=r"Kubernetes refuses it \(422\): unknown fields"):
        training.run()


def test_what_waits_for_its_image_does_not_wait_for_ever(
    api: KubernetesApi, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainjob, "STUCK", 0.1)
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    container = {"name": "node", "restartCount": 0, "ready": False, "image": "", "imageID": ""}
    status = [{**container, "state": state}]
    api.on_create = lambda job: api.add_pod(NAME, 0, "Pending", containerStatuses=status) and None
    with pytest.raises(StageError, match="cannot start: ImagePullBackOff: no such image"):
        training.run()
    assert api.jobs == {}


def test_a_task_that_is_asked_to_end_gives_the_machines_back(
    api: KubernetesApi, training: Training
) -> None:
    def later() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()

    api.on_create = lambda job: later()
    with pytest.raises(StoppedError, match="is suspended, its state saved"):
        training.run()
    assert api.jobs[NAME]["spec"]["suspend"] is True
    steps(api, lambda: None, lambda: (train(training), api.end(NAME, "Complete")))
    training.run()
    assert api.jobs == {}
