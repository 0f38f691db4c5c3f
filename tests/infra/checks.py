"""What must hold of infra/k8s: each check returns sentences, one for each fault; none is right.

They are functions over plain objects and texts, so that a test can show of each that it can fail.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import yaml

Object = dict[str, Any]
"""A Kubernetes object, as YAML gives it."""

OUR_IMAGES = ("wentu/",)
GIVEN = {  # name -> where the user is told to make it
    ("Secret", "wentu-s3"),
    ("Secret", "wentu-token"),
    ("Secret", "wentu-watch-token"),
    ("Secret", "wentu-webhook"),
    ("Secret", "wentu-mlflow"),
    ("ServiceAccount", "pipeline-runner"),  # KFP's
}
"""What the manifests refer to and do not hold: infra/k8s/secrets.example.yaml and KFP itself."""


def name_of(each: Object) -> str:
    """For messages: Kind/name."""
    return f"{each['kind']}/{each['metadata']['name']}"


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Every object that makes pods, with its pod template's spec."""
    for each in objects:
        template = each.get("spec", {}).get("template")
        if isinstance(template, dict) and "spec" in template:
            yield each, template["spec"]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Every container: its name for messages, itself, its pod's spec."""
    for owner, spec in pods(objects):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield f"{name_of(owner)}/{container['name']}", container, spec


# --- containers -------------------------------------------------------------------------------


def container_faults(objects: list[Object]) -> list[str]:
    """No root, no more rights than it started with, a floor and a ceiling, an unwritable root."""
    return [
        f"{name}: {fault}"
        for name, container, spec in containers(objects)
        for fault in [*rights_faults(container, spec), *resource_faults(container)]
    ] + [fault for owner, spec in pods(objects) for fault in pod_faults(owner, spec)]


def rights_faults(container: Object, spec: Object) -> Iterator[str]:
    """What Kubernetes' pod security standard "restricted" asks for, and a read-only root."""
    own = container.get("securityContext", {})
    both = {**spec.get("securityContext", {}), **own}
    if both.get("runAsNonRoot") is not True or not both.get("runAsUser"):
        yield "may run as root: runAsNonRoot and a runAsUser above 0 are wanted"
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root filesystem"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if both.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"


def resource_faults(container: Object) -> Iterator[str]:
    """Requests and limits of all three kinds, and no request above its limit."""
    given = container.get("resources", {})
    for kind in ("cpu", "memory", "ephemeral-storage"):
        asked, most = (given.get(side, {}).get(kind) for side in ("requests", "limits"))
        if asked is None or most is None:
            yield f"lacks a request or a limit of {kind}"
        elif amount(asked) > amount(most):
            yield f"asks for more {kind} than its limit"


def amount(text: str) -> float:
    """A Kubernetes quantity as a number."""
    number, unit = re.fullmatch(r"([\d.]+)(m|[KMGT]i)?", str(text)).groups()  # type: ignore[union-attr]
    scale = {None: 1.0, "m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(number) * scale[unit]


def pod_faults(owner: Object, spec: Object) -> Iterator[str]:
    """Of the pod: an account of its own, no token, nothing of the host's, bounded scratch space."""
    if spec.get("serviceAccountName", "default") == "default":
        yield f"{name_of(owner)}: runs as the namespace's default account"
    if spec.get("automountServiceAccountToken") is not False:
        yield f"{name_of(owner)}: is given a token of the Kubernetes API"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{name_of(owner)}: {key}"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"{name_of(owner)}: volume {volume['name']} is a folder of the host"
        if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
            yield f"{name_of(owner)}: volume {volume['name']} has no sizeLimit"


# --- references -------------------------------------------------------------------------------


def reference_faults(objects: list[Object]) -> list[str]:
    """Everything that is named is there, in the same namespace, or is GIVEN."""
    there = {(each["kind"], where(each), each["metadata"]["name"]) for each in objects}
    return [
        f"{name_of(each)}: there is no {kind} {name} in {space}"
        for each in objects
        for kind, space, name in references(each)
        if (kind, name) not in GIVEN and (kind, space, name) not in there
    ] + selector_faults(objects)


def where(each: Object) -> str:
    """Its namespace."""
    return str(each["metadata"].get("namespace", ""))


def references(each: Object) -> Iterator[tuple[str, str, str]]:
    """(kind, namespace, name) of what an object names."""
    space, spec = where(each), each.get("spec", {})
    for _, pod in pods([each]):
        yield "ServiceAccount", space, pod["serviceAccountName"]
        for kind, name in pod_references(pod):
            yield kind, space, name
    if each["kind"] == "RoleBinding":
        yield each["roleRef"]["kind"], space, each["roleRef"]["name"]
        for subject in each["subjects"]:
            yield subject["kind"], subject["namespace"], subject["name"]
    if each["kind"] == "StatefulSet":
        yield "Service", space, spec["serviceName"]
    if each["kind"] == "HorizontalPodAutoscaler":
        yield spec["scaleTargetRef"]["kind"], space, spec["scaleTargetRef"]["name"]
    if space:
        yield "Namespace", "", space


def pod_references(pod: Object) -> Iterator[tuple[str, str]]:
    """(kind, name) of config maps, secrets and claims that a pod's spec names."""
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield kind, source[key]["name"]
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if key in source:
                    yield kind, source[key]["name"]
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def selector_faults(objects: list[Object]) -> list[str]:
    """What selects pods selects some of ours; ports and volumes are there."""
    faults = []
    labels = [(where(o), o["spec"]["template"]["metadata"]["labels"]) for o, _ in pods(objects)]
    for each in objects:
        for selector in selectors(each):
            if not any(where(each) == space and picks(selector, of) for space, of in labels):
                faults.append(f"{name_of(each)}: selects no pod of ours: {selector}")
        if each["kind"] == "Service" and "spec" in each:
            named = {p["name"] for _, c, _ in containers(objects) for p in c.get("ports", [])}
            faults += [
                f"{name_of(each)}: no container has a port named {port['targetPort']}"
                for port in each["spec"]["ports"]
                if port["targetPort"] not in named
            ]
    for name, container, spec in containers(objects):
        held = {volume["name"] for volume in spec.get("volumes", [])} | {
            claim["metadata"]["name"]
            for owner, own in pods(objects)
            if own is spec
            for claim in owner["spec"].get("volumeClaimTemplates", [])
        }
        faults += [
            f"{name}: there is no volume {mount['name']}"
            for mount in container.get("volumeMounts", [])
            if mount["name"] not in held
        ]
    return faults


def selectors(each: Object) -> Iterator[Object]:
    """The label selectors by which an object means pods of its own namespace."""
    spec = each.get("spec", {})
    if each["kind"] == "Service":
        yield {"matchLabels": spec["selector"]}
    if each["kind"] == "NetworkPolicy":
        yield spec["podSelector"]
        for peer in [*spec.get("ingress", []), *spec.get("egress", [])]:
            for side in [*peer.get("from", []), *peer.get("to", [])]:
                if "podSelector" in side and "namespaceSelector" not in side:
                    yield side["podSelector"]
    if each["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        yield spec["selector"]


def picks(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector picks a pod with these labels; In and equality only."""
    wanted = [(key, [value]) for key, value in selector.get("matchLabels", {}).items()]
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In", each
        wanted.append((each["key"], each["values"]))
    return all(labels.get(key) in values for key, values in wanted)


# --- agreement with the code ------------------------------------------------------------------

ENDPOINTS = {  # pod -> port, startup and liveness path, readiness path
    "wentu-serve": (8000, "/healthz", "/readyz"),
    "wentu-watch": (8080, "/healthz", "/healthz"),
    "mlflow": (5000, "/health", "/health"),
}
OF_OTHERS = re.compile(
    r"(AWS|MLFLOW|KF_PIPELINES|POSTGRES)_[A-Z0-9_]+|PG[A-Z]+|HOME|POD_NAMESPACE|WATCH_(PICTURES|CAPTIONS)"
)


def environment(container: Object, objects: list[Object]) -> dict[str, str]:
    """The names of a container's variables, with the values that the manifests themselves say."""
    maps = {o["metadata"]["name"]: o.get("data", {}) for o in objects if o["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= maps.get(source["configMapRef"]["name"], {})
    return found | {each["name"]: each.get("value", "") for each in container.get("env", [])}


def agreement_faults(objects: list[Object], known: set[str]) -> list[str]:
    """Ports, probes and variables are those of the programs; ``known``: wentu's own variables."""
    faults = []
    for name, container, _ in containers(objects):
        variables = environment(container, objects)
        faults += [
            f"{name}: nothing reads {variable}"
            for variable in variables
            if variable not in known and not OF_OTHERS.fullmatch(variable)
        ]
        words = " ".join([*container.get("command", []), *container.get("args", [])])
        faults += [
            f"{name}: $({variable}) is not set"
            for variable in re.findall(r"\$\((\w+)\)", words)
            if variable not in variables
        ]
        faults += endpoint_faults(name, container, words)
    return faults


def endpoint_faults(name: str, container: Object, words: str) -> Iterator[str]:
    """Where the program listens, what the probes ask."""
    owner = name.split("/")[1]
    if owner not in ENDPOINTS:
        return
    port, alive, ready = ENDPOINTS[owner]
    if [each["containerPort"] for each in container["ports"]] != [port]:
        yield f"{name}: its port is not {port}"
    if not re.search(rf"--port[ =]{port}\b", words) or not re.search(
        r"--host[ =]0\.0\.0\.0", words
    ):
        yield f"{name}: its command line does not listen on 0.0.0.0:{port}"
    paths = {"startupProbe": alive, "livenessProbe": alive, "readinessProbe": ready}
    for probe, path in paths.items():
        asked = container.get(probe, {}).get("httpGet")
        if asked != {"path": path, "port": container["ports"][0]["name"]}:
            yield f"{name}: {probe} does not ask {path}"


# --- secrets ----------------------------------------------------------------------------------

KNOWN_FORMS = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{30,}|\bgithub_pat_\w+|\bxox[abprs]-[\w-]{10,}"
    r"|\bglpat-[\w-]{20}|\bsk-[\w-]{20,}|\bhf_\w{30,}|\bAIza[\w-]{35}|\beyJ[\w-]{10,}\.eyJ[\w-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s:@$]+@"
)
WORD = re.compile(r"[A-Za-z0-9+/_-]{20,}=*")
MOST_BITS = 4.0
"""Per character. Of 32 or more random hexadecimal digits it is just below; of base64, 4.5."""


def secret_faults(files: dict[str, str]) -> list[str]:
    """``files``: path -> text. No Secret with a value, nothing that looks like a key."""
    faults = []
    for path, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            if KNOWN_FORMS.search(line):
                faults.append(f"{path}:{number}: has the form of a secret")
            faults += [f"{path}:{number}: looks random" for w in WORD.findall(line) if random(w)]
        if path.endswith((".yaml", ".yml")):
            faults += [
                f"{path}: Secret {each['metadata']['name']} has a value for {key}"
                for each in yaml.safe_load_all(text)
                if isinstance(each, dict) and each.get("kind") == "Secret"
                for key, value in {**each.get("data", {}), **each.get("stringData", {})}.items()
                if value
            ]
    return faults


def random(word: str) -> bool:
    """Whether a long word looks drawn by lot: hexadecimal, or many different characters with
    digits among letters of both cases."""
    if re.fullmatch(r"[0-9a-f]{32,}|[0-9A-F]{32,}", word):
        return len(set(word)) > 8
    kinds = sum(bool(re.search(kind, word)) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    counts = Counter(word)
    bits = -sum(n / len(word) * math.log2(n / len(word)) for n in counts.values())
    return kinds == 3 and bits > MOST_BITS
