"""`wentu doctor`: what is well, what is not, and what to do about it."""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubeflow.conftest import Said
from tests.kubeflow.server import Kubeflow
from wentu.orchestrate import pods
from wentu.orchestrate.doctor import RIGHTS
from wentu.storage import s3

Wentu = Callable[..., Said]
ROLE = Path(__file__).parents[2] / "infra/k8s/pipeline/trainjobs.yaml"


@pytest.fixture(autouse=True)
def _new_client() -> Iterator[None]:
    s3.client.cache_clear()
    yield
    s3.client.cache_clear()


def checks(wentu: Wentu, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """(exit status, the checks by name)."""
    status, said = wentu("doctor", "--json", *words)
    return status, {each["name"]: each for each in json.loads(said)}


def test_where_all_is_well(
    wentu: Wentu,
    kubeflow: Kubeflow,
    kubeconfig: Path,
    small_collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", kubeflow.url)
    words = ("--host", kubeflow.url, "--store", str(tmp_path / "store"))
    status, found = checks(wentu, *words, "--pictures", str(small_collection))
    assert status == 0
    for name in ("Python", "store", "pictures", "MLflow", "Kubeflow Pipelines"):
        assert found[name]["state"] == "ok", found[name]
    assert found["rights to TrainJobs"]["state"] == "ok"
    assert found["Kubeflow Pipelines"]["found"] == f"{kubeflow.url}: 2.17.0"
    assert not (tmp_path / "store").exists()


def test_what_fails_is_said_with_what_to_do(
    wentu: Wentu, kubeflow: Kubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", kubeflow.url)
    kubeflow.refuse = {"GET /api/2.0/mlflow": 403, "GET /apis/v2beta1/healthz": 401}
    status, found = checks(wentu, "--host", kubeflow.url, "--pictures", str(tmp_path / "none"))
    assert status == 1
    host = kubeflow.url.removeprefix("http://")
    assert f"--allowed-hosts 127.0.0.1,{host}" in found["MLflow"]["advice"]
    assert "KF_PIPELINES_TOKEN" in found["Kubeflow Pipelines"]["advice"]
    assert "no such folder" in found["pictures"]["advice"]
    shown = wentu("doctor", "--host", kubeflow.url)[1]
    assert "✗" in shown
    assert "→" in shown


def test_nobody_there(wentu: Wentu, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", nobody)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    status, found = checks(wentu, "--host", nobody, "--store", "s3://shop/store")
    assert status == 1
    for name in ("store", "MLflow", "Kubeflow Pipelines"):
        assert found[name]["state"] == "fail"
        assert "refused" in found[name]["found"]
        assert found[name]["advice"]


def test_what_is_not_named_is_not_checked(wentu: Wentu, tmp_path: Path) -> None:
    status, found = checks(wentu, "--store", str(tmp_path))
    assert status == 0
    for name in ("pictures", "MLflow", "Kubeflow Pipelines", "rights to TrainJobs", "webhook"):
        assert found[name]["state"] == "-", found[name]
    assert found["rights to TrainJobs"]["found"] == "not checked: no kubeconfig"
    assert found["weights"]["state"] == "warn"


def test_rights_that_are_lacking_and_an_old_server(
    wentu: Wentu, kubeflow: Kubeflow, kubeconfig: Path
) -> None:
    kubeflow.may, kubeflow.tag = False, "2.0.5"
    status, found = checks(wentu, "--host", kubeflow.url)
    assert status == 0
    assert "wentu-trainjobs" in found["rights to TrainJobs"]["advice"]
    assert "create trainjobs, " in found["rights to TrainJobs"]["found"]
    assert "2.5 or newer" in found["Kubeflow Pipelines"]["advice"]


def test_rights_are_those_of_the_tasks_and_every_one_is_asked_for(
    wentu: Wentu, kubeflow: Kubeflow, kubeconfig: Path
) -> None:
    """Whoever looks may be an administrator; a task that may not read a log or delete is stuck."""
    rules = yaml.safe_load_all(ROLE.read_text("utf-8"))
    granted = next(each["rules"] for each in rules if each["kind"] == "Role")
    expected = {(r["apiGroups"][0], r["resources"][0]): tuple(r["verbs"]) for r in granted}
    assert expected == RIGHTS
    every = {f"{verb} {kind}" for (_, kind), verbs in RIGHTS.items() for verb in verbs}

    def look() -> tuple[str, str]:
        found = checks(wentu)[1]["rights to TrainJobs"]
        return found["state"], found["found"]

    kubeflow.denied = {f"pipeline-runner {each}" for each in every}
    assert look() == ("ok", "default-editor may do all of it in kubeflow")
    kubeflow.denied |= {"default-editor patch trainjobs", "default-editor get pods/log"}
    lacks = "default-editor may not, in kubeflow: patch trainjobs, get pods/log"
    assert look() == ("warn", lacks)
    kubeflow.refuse = {"POST /apis/authorization.k8s.io/v1/namespaces/": 403}
    assert look() == ("ok", "you may do all of it in kubeflow (not the tasks' account)")
    kubeflow.denied = {"delete trainjobs"}
    assert look()[1] == "you may not, in kubeflow: delete trainjobs (not the tasks' account)"


def test_a_secret_is_read_for_what_the_profile_names_of_it(
    kubeflow: Kubeflow, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other keys may be certificates in DER; and a server that does not answer is left."""
    secret = {"s3": {"id": "AWS_ACCESS_KEY_ID", "none": "NONE"}}
    key, binary = (base64.b64encode(each).decode() for each in (b"abc", b"\xff\xfe"))
    kubeflow.kept = {"secrets/s3": {"id": key, "store.der": binary}}
    assert pods.variables(secret, {}, "wentu") == ({"AWS_ACCESS_KEY_ID": "abc"}, "")
    kubeflow.kept = {"secrets/s3": {"id": binary}}
    assert pods.variables(secret, {}, "wentu") == (None, "Secret s3 is no text")
    monkeypatch.setattr(pods, "PATIENCE", (0.3, 0.3))
    kubeflow.silent = 1.5
    none: dict[str, dict[str, str]] = {}
    for secrets, maps in ((secret, none), (none, secret)):
        began = time.monotonic()
        found, why = pods.variables(secrets, maps, "wentu")
        assert (found, "timed out" in why) == (None, True), why
        assert time.monotonic() - began < 1.4


def test_the_webhook_is_called_when_asked_to(
    wentu: Wentu, kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_WEBHOOK", f"{kubeflow.url}/nowhere")
    _, found = checks(wentu)
    assert found["webhook"]["found"] == "not called; --notify does"
    assert kubeflow.log == []
    status, found = checks(wentu, "--notify")
    assert (status, found["webhook"]["state"]) == (1, "fail"), "this server has no such path"
    assert kubeflow.log == ["POST /nowhere"]
    secret = kubeflow.url.replace("://", "://me:p%40ss@") + "/nowhere"
    monkeypatch.setenv("WENTU_WEBHOOK", secret)
    _, found = checks(wentu, "--notify")
    assert found["webhook"]["found"] == "status 404"
    assert len(kubeflow.log) == 2


def test_the_password_of_an_address_is_not_shown(
    wentu: Wentu, kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", kubeflow.url.replace("://", "://me:p%40ss@"))
    _, found = checks(wentu)
    assert (found["MLflow"]["state"], found["MLflow"]["found"]) == ("ok", kubeflow.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:p%40ss@127.0.0.1:1")
    _, found = checks(wentu)
    assert found["MLflow"]["state"] == "fail"
    assert "p%40ss" not in json.dumps(found)


def test_the_store_is_tried_with_the_keys_of_the_tasks(
    bucket: str,
    wentu: Wentu,
    kubeflow: Kubeflow,
    kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the Secret and the ConfigMap that the profile names, whatever is set here."""

    def look() -> dict[str, Any]:
        found: dict[str, Any] = checks(wentu, "--store", f"s3://{bucket}/{uuid.uuid4().hex[:8]}")[1]
        return dict(found["store, as tasks"])

    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    right = {name: base64.b64encode(os.environ[name].encode()).decode() for name in names}
    wrong = right | {names[1]: base64.b64encode(b"wrong").decode()}
    endpoint = {"AWS_ENDPOINT_URL_S3": os.environ["AWS_ENDPOINT_URL_S3"]}
    endpoint["AWS_DEFAULT_REGION"] = "us-east-1"
    missing = look()
    assert (missing["state"], missing["found"]) == ("fail", "Secret wentu-s3 is not in kubeflow")
    kubeflow.kept = {"secrets/wentu-s3": right, "configmaps/wentu-config": endpoint}
    with monkeypatch.context() as here:
        here.setenv(names[1], "another")
        assert look()["state"] == "ok"
    kubeflow.kept["secrets/wentu-s3"] = wrong
    assert "SignatureDoesNotMatch" in look()["advice"]
    kubeflow.kept["configmaps/wentu-config"] = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    assert look()["state"] == "-", "an address of inside the cluster"
    kubeflow.refuse = {"GET /api/v1/namespaces": 403}
    assert look()["found"].startswith("not checked: Secret wentu-s3: 403")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_store_in_a_bucket_is_tried_with_its_keys(
    bucket: str, wentu: Wentu, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_LANG", language)
    name = {"en": "store", "zh": "仓库"}[language]
    place = f"s3://{bucket}/{uuid.uuid4().hex[:8]}"
    _, found = checks(wentu, "--store", place)
    assert found[name]["state"] == "ok"
    assert list(s3.Objects(place).list(deep=True)) == []
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3.client.cache_clear()
    status, found = checks(wentu, "--store", place)
    assert (status, found[name]["state"]) == (1, "fail")
    assert "SignatureDoesNotMatch" in found[name]["advice"]
