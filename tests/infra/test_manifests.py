"""infra/k8s as kustomize 5 builds it: valid on two minor versions of Kubernetes, safe, and whole.

Each check of checks.py is shown to fail on manifests with one fault.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.infra import checks
from tests.infra.checks import Object
from wentu import __version__
from wentu.stages import STAGES

ROOT = Path(__file__).parents[2]
K8S = ROOT / "infra" / "k8s"
OVERLAYS = ("trial", "production")
VERSIONS = ("1.36", "1.37")
"""Minor versions of Kubernetes, the two newest whose schemas kubernetes-validate holds."""

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def kubectl() -> str:
    """The one of the development environment (a wheel); it holds kustomize 5."""
    return str(Path(sys.executable).with_name("kubectl"))


@cache
def built(folder: str) -> str:
    """What kustomize makes of a folder below infra/k8s."""
    words = [kubectl(), "kustomize", str(K8S / folder)]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@cache
def parsed(folder: str) -> str:
    """Its objects, as JSON: YAML takes 50 times as long to read."""
    return json.dumps([each for each in yaml.safe_load_all(built(folder)) if each])


def objects_of(folder: str) -> list[Object]:
    """Its objects; a new copy each time."""
    found: list[Object] = json.loads(parsed(folder))
    return found


def manifests(overlay: str) -> list[Object]:
    """The objects of an overlay."""
    return objects_of(f"overlays/{overlay}")


def with_kfp(objects: list[Object]) -> list[Object]:
    """And the namespace that KFP brings."""
    return [*objects, {"kind": "Namespace", "metadata": {"name": "kubeflow"}}]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The object of this kind and name, without the digest of its name."""
    same = [o for o in objects if o["kind"] == kind]
    return next(o for o in same if re.fullmatch(rf"{name}(-\w{{10}})?", o["metadata"]["name"]))


def tracked() -> dict[str, str]:
    """Every file below infra/ that git knows or would take: path -> text."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "infra"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    paths = [ROOT / name for name in names.split("\0") if name]
    return {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in paths if p.exists()}


# --- what kustomize builds --------------------------------------------------------------------


def test_kustomize_is_5() -> None:
    words = [kubectl(), "version", "--client"]
    said = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    assert re.search(r"Kustomize Version: v5\.", said), said


@each_overlay
def test_builds_each_object_once(overlay: str) -> None:
    found = [(o["kind"], checks.where(o), o["metadata"]["name"]) for o in manifests(overlay)]
    assert len(found) == len(set(found)) > 20


def test_the_trial_is_one_namespace() -> None:
    objects = manifests("trial")
    assert {checks.where(o) for o in objects if o["kind"] != "Namespace"} == {"wentu"}
    subjects = find(objects, "RoleBinding", "wentu-trainjobs")["subjects"]
    assert [(s["name"], s["namespace"]) for s in subjects] == [("pipeline-runner", "wentu")]
    assert find(objects, "StatefulSet", "mlflow-postgres")


def test_production_leaves_to_kfp_what_its_tasks_need_and_to_you_the_database() -> None:
    objects = manifests("production")
    there = {checks.name_of(o) for o in objects if checks.where(o) == "kubeflow"}
    named = {re.sub(r"-\w{10}$", "", name) for name in there}
    assert named == {
        "Role/wentu-trainjobs",
        "RoleBinding/wentu-trainjobs",
        "ConfigMap/wentu-config",
        "ConfigMap/kfp-launcher",
    }
    assert not any(o["kind"] == "StatefulSet" for o in objects)
    serve = find(objects, "Deployment", "wentu-serve")
    assert "replicas" not in serve["spec"], "the autoscaler's number would be set back"
    assert find(objects, "HorizontalPodAutoscaler", "wentu-serve")["spec"]["minReplicas"] >= 3
    assert find(objects, "PodDisruptionBudget", "wentu-serve")


# --- schemas ----------------------------------------------------------------------------------


def schema_faults(objects: list[Object], version: str) -> list[str]:
    """What the OpenAPI schema of a minor version refuses; unknown fields too."""
    import kubernetes_validate as schemas

    faults = []
    for each in objects:
        try:
            used = schemas.validate(each, version, strict=True)
            assert used.startswith(version), f"no schemas of {version}, but of {used}"
        except (schemas.ValidationError, schemas.SchemaNotFoundError) as error:
            faults.append(f"{checks.name_of(each)}: {error.message}")
    return faults


@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_valid_on(overlay: str, version: str) -> None:
    assert schema_faults(manifests(overlay), version) == []
    assert schema_faults(objects_of("pipeline"), version) == []


@pytest.mark.parametrize("name", ["secrets.example.yaml", "pipeline/network.example.yaml"])
def test_examples_are_valid(name: str) -> None:
    examples = list(yaml.safe_load_all((K8S / name).read_text("utf-8")))
    assert schema_faults(examples, VERSIONS[-1]) == []


def test_the_schemas_refuse_what_is_wrong() -> None:
    objects = manifests("trial")
    find(objects, "Deployment", "wentu-serve")["spec"]["template"]["spec"]["contaners"] = []
    find(objects, "Service", "mlflow")["spec"]["ports"][0]["port"] = "http"
    objects.append({"apiVersion": "v1", "kind": "Deployment", "metadata": {"name": "old"}})
    assert len(schema_faults(objects, VERSIONS[0])) == 3


# --- what must hold ---------------------------------------------------------------------------


@each_overlay
def test_no_container_is_root_or_without_limits(overlay: str) -> None:
    assert checks.container_faults(manifests(overlay)) == []


@each_overlay
def test_every_reference_resolves(overlay: str) -> None:
    assert checks.reference_faults(with_kfp(manifests(overlay))) == []


@each_overlay
def test_ports_probes_and_variables_are_those_of_the_code(overlay: str) -> None:
    assert checks.agreement_faults(manifests(overlay), variables()) == []


def variables() -> set[str]:
    """The variables of wentu's own that its settings tell of."""
    text = (ROOT / "wentu" / "settings.py").read_text("utf-8")
    return set(re.findall(r"\bWENTU_[A-Z_]+\b", text))


def test_no_secret_is_in_the_tree() -> None:
    files = tracked()
    assert "infra/k8s/secrets.example.yaml" in files
    assert "infra/k8s/secrets.yaml" not in files, "it holds your keys: git has to ignore it"
    assert checks.secret_faults(files) == []
    for overlay in OVERLAYS:
        assert checks.secret_faults({f"{overlay}.yaml": built(f"overlays/{overlay}")}) == []


@each_overlay
def test_images_are_of_this_version(overlay: str) -> None:
    images = {c["image"] for _, c, _ in checks.containers(manifests(overlay))}
    assert all(":" in image and not image.endswith(":latest") for image in images), images
    ours = {image for image in images if image.startswith(checks.OUR_IMAGES)}
    assert ours == {f"wentu/serve:{__version__}", f"wentu/cpu:{__version__}"}


@each_overlay
def test_every_pod_of_ours_is_shut_but_for_what_is_allowed(overlay: str) -> None:
    objects = manifests(overlay)
    deny = find(objects, "NetworkPolicy", "wentu-deny")["spec"]
    assert set(deny) == {"podSelector", "policyTypes"}
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    for owner, _ in checks.pods(objects):
        assert checks.picks(deny["podSelector"], owner["spec"]["template"]["metadata"]["labels"])


def test_production_lets_in_only_who_is_named() -> None:
    for each in manifests("production"):
        for rule in each.get("spec", {}).get("ingress", []):
            peers = [p for p in rule["from"] if p.get("namespaceSelector") == {}]
            assert not peers, checks.name_of(each)


@each_overlay
def test_who_may_search_may_not_start_runs(overlay: str) -> None:
    named = {
        checks.name_of(owner): ref["name"]
        for owner, pod in checks.pods(manifests(overlay))
        for variable in pod["containers"][0]["env"]
        if (ref := variable.get("valueFrom", {}).get("secretKeyRef"))
        and variable["name"] == "WENTU_TOKEN"
    }
    assert named == {
        "Deployment/wentu-serve": "wentu-token",
        "Deployment/wentu-watch": "wentu-watch-token",
    }


@each_overlay
def test_the_receiver_reaches_mlflow(overlay: str) -> None:
    objects = manifests(overlay)
    pods = {
        name: find(objects, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        for name in ("mlflow", "wentu-watch")
    }

    def lets(policy: str, way: str, side: str, peer: str) -> bool:
        return any(
            {"protocol": "TCP", "port": 5000} in rule["ports"]
            for rule in find(objects, "NetworkPolicy", policy)["spec"][way]
            for each in rule.get(side, [])
            if each.get("namespaceSelector", {}) == {}
            and checks.picks(each.get("podSelector", {}), pods[peer])
        )

    assert lets("wentu-watch", "egress", "to", "mlflow")
    assert lets("mlflow", "ingress", "from", "wentu-watch")


@each_overlay
def test_mlflow_answers_to_the_name_that_tasks_call(overlay: str) -> None:
    objects = manifests(overlay)
    uri = urlsplit(find(objects, "ConfigMap", "wentu-config")["data"]["MLFLOW_TRACKING_URI"])
    server = find(objects, "Deployment", "mlflow")
    words = server["spec"]["template"]["spec"]["containers"][0]["args"]
    hosts = next(w for w in words if w.startswith("--allowed-hosts=")).partition("=")[2]
    allowed = hosts.replace("$(POD_NAMESPACE)", checks.where(server)).split(",")
    assert {uri.netloc, uri.hostname} <= set(allowed)
    assert uri.port == find(objects, "Service", "mlflow")["spec"]["ports"][0]["port"]


@each_overlay
def test_the_profile_names_what_the_manifests_hold(overlay: str) -> None:
    objects = manifests(overlay)
    profile = tomllib.loads(find(objects, "ConfigMap", "wentu-profile")["data"]["profile.toml"])
    template = list(yaml.safe_load_all((K8S / "secrets.example.yaml").read_text("utf-8")))
    for name, keys in profile["secrets"].items():
        assert set(keys) <= set(find(template, "Secret", name)["stringData"])
    for name, keys in profile["config"].items():
        assert set(keys) <= set(find(objects, "ConfigMap", name)["data"])
        assert find(objects, "ConfigMap", name)["metadata"]["name"] == name, "tasks call it so"
    assert set(profile["stages"]) <= {"default", *STAGES}
    assert all(image.endswith(f":{__version__}") for image in profile["images"].values())


def test_the_template_has_every_secret_that_is_asked_for() -> None:
    template = yaml.safe_load_all((K8S / "secrets.example.yaml").read_text("utf-8"))
    held = {(s["metadata"]["name"], key) for s in template for key in s["stringData"]}
    asked = {
        (ref["name"], ref["key"])
        for overlay in OVERLAYS
        for _, container, _ in checks.containers(manifests(overlay))
        for variable in container["env"]
        if (ref := variable.get("valueFrom", {}).get("secretKeyRef"))
    }
    assert asked == held


LAUNCHER = {  # backend/src/v2/config/s3.go in kubeflow/pipelines: S3ProviderDefault
    "endpoint": str,
    "region": str,
    "disableSSL": bool,
    "forcePathStyle": bool,
    "maxRetries": int,
    "credentials": dict,
}


def test_the_launcher_s_configuration_has_the_form_that_kfp_reads() -> None:
    data = find(objects_of("pipeline"), "ConfigMap", "kfp-launcher")["data"]
    assert set(data) == {"defaultPipelineRoot", "providers"}
    assert data["defaultPipelineRoot"].startswith("s3://")
    default = yaml.safe_load(data["providers"])["s3"]["default"]
    assert all(isinstance(value, LAUNCHER[key]) for key, value in default.items())
    assert "//" not in default["endpoint"], "it has no scheme"
    reference = default["credentials"]["secretRef"]
    keys = {reference["accessKeyKey"], reference["secretKeyKey"]}
    template = list(yaml.safe_load_all((K8S / "secrets.example.yaml").read_text("utf-8")))
    assert keys == set(find(template, "Secret", reference["secretName"])["stringData"])


def test_the_role_for_trainjobs_is_no_wider_than_needed() -> None:
    rules = find(objects_of("pipeline"), "Role", "wentu-trainjobs")["rules"]
    granted = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    jobs = {
        ("trainer.kubeflow.org", "trainjobs", verb)
        for verb in ("create", "get", "list", "watch", "patch", "delete")
    }
    pods = {("", "pods", "get"), ("", "pods", "list"), ("", "pods/log", "get")}
    assert granted == jobs | pods


def test_make_builds_both_overlays() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = makefile.partition("\nmanifests:")[2].partition("\n\n")[0]
    assert all(overlay in recipe for overlay in OVERLAYS)
    assert {path.name for path in (K8S / "overlays").iterdir()} == set(OVERLAYS)


# --- the checks can fail ----------------------------------------------------------------------

Change = Callable[[Object, Object], Any]
"""What a test does wrong to a pod's spec and its first container."""

WRONG: list[tuple[str, Change]] = [
    ("root", lambda pod, _: pod["securityContext"].update(runAsUser=0)),
    ("root", lambda pod, _: pod["securityContext"].pop("runAsNonRoot")),
    ("root", lambda _, c: c["securityContext"].update(runAsUser=0)),
    ("privileged", lambda _, c: c["securityContext"].update(privileged=True)),
    ("gain", lambda _, c: c["securityContext"].pop("allowPrivilegeEscalation")),
    ("write", lambda _, c: c["securityContext"].pop("readOnlyRootFilesystem")),
    ("capabilities", lambda _, c: c["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    ("seccomp", lambda pod, _: pod["securityContext"].pop("seccompProfile")),
    ("limit of memory", lambda _, c: c["resources"]["limits"].pop("memory")),
    ("limit of cpu", lambda _, c: c["resources"].pop("requests")),
    ("more memory", lambda _, c: c["resources"]["requests"].update(memory="900Gi")),
    ("token", lambda pod, _: pod.pop("automountServiceAccountToken")),
    ("default account", lambda pod, _: pod.update(serviceAccountName="default")),
    ("hostNetwork", lambda pod, _: pod.update(hostNetwork=True)),
    ("sizeLimit", lambda pod, _: pod["volumes"][0].update(emptyDir={})),
    ("host", lambda pod, _: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    ("root", lambda pod, c: pod.update(initContainers=[{"name": "x", "image": c["image"]}])),
]


def broken(change: Change) -> list[Object]:
    """The trial's manifests with one fault in the search service."""
    objects = manifests("trial")
    pod = find(objects, "Deployment", "wentu-serve")["spec"]["template"]["spec"]
    change(pod, pod["containers"][0])
    return objects


@pytest.mark.parametrize(("says", "change"), WRONG)
def test_a_container_with_a_fault_is_found(says: str, change: Change) -> None:
    faults = checks.container_faults(broken(change))
    assert any(says in fault for fault in faults), faults


GONE = [
    ("ConfigMap", "wentu-config"),
    ("ConfigMap", "wentu-profile"),
    ("ServiceAccount", "wentu-serve"),
    ("Role", "wentu-trainjobs"),
    ("Deployment", "wentu-serve"),
    ("Service", "mlflow-postgres"),
    ("Namespace", "wentu"),
]


@pytest.mark.parametrize(("kind", "name"), GONE)
def test_a_reference_to_nothing_is_found(kind: str, name: str) -> None:
    objects = manifests("trial")
    objects.remove(find(objects, kind, name))
    assert checks.reference_faults(objects) != []


@pytest.mark.parametrize(
    "change",
    [
        lambda pod, c: c["env"][0]["valueFrom"]["secretKeyRef"].update(name="wentu-s4"),
        lambda pod, c: c["volumeMounts"].append({"name": "nothing", "mountPath": "/x"}),
        lambda pod, c: c["ports"][0].update(name="web"),
        lambda pod, c: pod["volumes"].append({"name": "x", "secret": {"secretName": "x"}}),
    ],
)
def test_a_wrong_reference_in_a_pod_is_found(change: Change) -> None:
    objects = broken(change)
    for each in objects:  # nobody else has a port of that name
        if each["kind"] == "Deployment" and each["metadata"]["name"] != "wentu-serve":
            each["spec"]["template"]["spec"]["containers"][0]["ports"][0]["name"] = "other"
    assert any("wentu-serve" in fault for fault in checks.reference_faults(objects))


@pytest.mark.parametrize(
    ("says", "change"),
    [
        ("WENTU_STOER", lambda _, c: c["env"].append({"name": "WENTU_STOER", "value": "x"})),
        ("S3_KEY", lambda _, c: c["env"].append({"name": "S3_KEY", "value": "x"})),
        ("not 8000", lambda _, c: c["ports"][0].update(containerPort=80)),
        ("0.0.0.0", lambda _, c: c.update(args=["--host", "127.0.0.1", "--port", "8000"])),
        ("0.0.0.0", lambda _, c: c.update(args=["--host", "0.0.0.0", "--port", "9000"])),
        ("/readyz", lambda _, c: c["readinessProbe"]["httpGet"].update(path="/healthz")),
        ("startupProbe", lambda _, c: c.pop("startupProbe")),
        ("$(NOT_THERE)", lambda _, c: c["args"].append("--store=$(NOT_THERE)")),
    ],
)
def test_a_disagreement_with_the_code_is_found(says: str, change: Change) -> None:
    faults = checks.agreement_faults(broken(change), variables())
    assert any(says in fault for fault in faults), faults


@pytest.mark.parametrize(
    "text",
    [
        "kind: Secret\nmetadata: {name: x}\nstringData: {KEY: short}",
        "kind: Secret\nmetadata: {name: x}\ndata: {KEY: c2hvcnQ=}",
        "key: " + "AKIA" + "ABCDEFGHIJKLMNOP",
        "token: " + "ghp" + "_" + "a" * 36,
        "uri: postgresql://mlflow:" + "hunter2" + "@db/mlflow",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "value: " + hashlib.sha256(b"as a key would look").hexdigest(),
        "value: " + "wJalrXUtnFEMI" + "K7MDENGbPxRfiCYzzKEY4u9Q",
    ],
)
def test_a_secret_is_found(text: str) -> None:
    assert checks.secret_faults({"x.yaml": text}) != []


def test_a_template_and_a_reference_are_no_secrets() -> None:
    template = "kind: Secret\nmetadata: {name: x}\nstringData: {KEY: ''}"
    ordinary = "uri: postgresql://$(USER):$(PGPASSWORD)@db/mlflow\nname: wentu-profile-262md2fktf"
    assert checks.secret_faults({"x.yaml": template, "y.yaml": ordinary}) == []
