"""The compiled pipeline, filled in for a cluster: images, resources, retries, secrets, volumes.

What stages need of a container (image, environment, resources) has its place in the pipeline's
spec; what only Kubernetes knows goes into a second document, which KFP's server reads beside it
(KubernetesExecutorConfig, kfp-kubernetes 2.17). Two things it does not have: a request for
ephemeral storage, so `storage` is a scratch folder with a limit and the scheduler does not reserve
it; and a reader of `enabledSharedMemory` in every server's driver, so /dev/shm is an emptyDir.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from wentu.errors import InputError
from wentu.orchestrate.parameters import packaged
from wentu.orchestrate.profile import Needs, Profile
from wentu.stages import STAGES

SCRATCH = "/scratch"
"""Where `storage` is mounted; temporary files and copies out of s3:// go there."""
RUN_LABEL = "metadata.labels['pipeline/runid']"
"""KFP's server labels each pod of a run so: by it MLflow's runs of one pipeline run meet."""
BACKOFF = {"backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "3600s"}

Spec = dict[str, Any]


@cache
def compiled() -> Mapping[str, Any]:
    """The packaged pipeline, not to be changed; read by libyaml where there is one."""
    import yaml

    text = packaged("pipeline.yaml").read_text(encoding="utf-8")
    return dict(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def spelled(spec: Mapping[str, Any], platform: Mapping[str, Any]) -> str:
    """Both documents as KFP's server wants them; equal for equal ones."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all([spec, platform], Dumper=dumper, allow_unicode=True, sort_keys=True))


def fill(
    spec: Mapping[str, Any], profile: Profile, *, gpus: int = 0, nodes: int = 1, image: str = ""
) -> tuple[Spec, Spec]:
    """(spec, platform document) for a cluster; ``spec`` is left as it is.

    gpus: of finetune, in place of what the profile says. nodes: of finetune; with more than one
    its task only launches a TrainJob, whose pods get what the profile says, and is itself as small
    as any stage. image: of all stages.
    """
    filled = copy.deepcopy(dict(spec))
    platform: Spec = {}
    for label, executor in filled["deploymentSpec"]["executors"].items():
        container = executor.get("container")
        if container is None:
            continue
        stage = stage_of(container)
        needs = profile.of(stage)
        if stage == "finetune" and gpus:
            needs = replace(needs, gpu=gpus)
        env = dict(profile.env)
        if stage == "finetune" and nodes > 1:
            trained = image_of(container, needs, profile, image)
            env["WENTU_TRAINJOB"] = json.dumps(_pods(needs, profile, trained), sort_keys=True)
            usual = profile.of("")
            needs = replace(usual, timeout=needs.timeout, retries=needs.retries)
        _fill_container(container, needs, env, image_of(container, needs, profile, image))
        for task in _tasks_of(filled, label):
            if needs.retries:
                task["retryPolicy"] = {"maxRetryCount": needs.retries, **BACKOFF}
        platform[label] = _kubernetes(needs, profile)
    document = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": platform}}}}
    return filled, document


def stage_of(container: Mapping[str, Any]) -> str:
    """The stage that an executor belongs to, by the function that it runs."""
    words = container.get("args", [])
    at = words.index("--function_to_execute") if "--function_to_execute" in words else -1
    name = words[at + 1] if at >= 0 else ""
    fits = [stage for stage in STAGES if name == stage or name.startswith(f"{stage}_")]
    return max(fits, key=len, default=name)


def check(spec: Mapping[str, Any], platform: Mapping[str, Any]) -> None:
    """Raise an AssertionError unless every part is what its schema says.

    The schema leaves deploymentSpec open, so each executor is parsed by its own message.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only
        from google.protobuf import json_format
        from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes
        from kfp.pipeline_spec import pipeline_spec_pb2 as schema
    try:
        json_format.ParseDict(dict(spec), schema.PipelineSpec())
        json_format.ParseDict(dict(platform), schema.PlatformSpec())
        for executor in spec["deploymentSpec"]["executors"].values():
            json_format.ParseDict(executor, schema.PipelineDeploymentConfig.ExecutorSpec())
        found = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for config in found.values():
            json_format.ParseDict(config, kubernetes.KubernetesExecutorConfig())
    except json_format.ParseError as error:
        raise AssertionError(f"the filled pipeline is no pipeline: {error}") from error
    assert found.keys() <= spec["deploymentSpec"]["executors"].keys()


def check_parameters(spec: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse parameters that the pipeline does not have, or lacks; KFP would tell much later."""
    defined = spec["root"]["inputDefinitions"]["parameters"]
    required = {name for name, each in defined.items() if not each.get("isOptional")}
    for names, en, zh in (
        (values.keys() - defined.keys(), "has no parameter", "没有参数"),
        (required - values.keys(), "needs the parameter", "缺少参数"),
    ):
        if names:
            said = ", ".join(sorted(names))
            raise InputError(f"the pipeline {en} {said}.", f"流程{zh} {said}。")


# --- parts ------------------------------------------------------------------------------------


def image_of(container: Mapping[str, Any], needs: Needs, profile: Profile, image: str) -> str:
    """The image of a stage: the one of all, its own, by whether it has a GPU, or as compiled."""
    usual = profile.images.gpu if needs.gpu else profile.images.cpu
    return str(image or needs.image or usual or container["image"])


def _fill_container(container: Spec, needs: Needs, env: Mapping[str, str], image: str) -> None:
    container["image"] = image
    resources: Spec = {}
    for name, value in (("Cpu", needs.cpu), ("Memory", needs.memory)):
        if value:
            resources |= {f"resource{name}Request": value, f"resource{name}Limit": value}
    if needs.gpu:
        count = {"resourceType": needs.gpu_type, "resourceCount": str(needs.gpu)}
        resources["accelerator"] = count
    if resources:
        container["resources"] = {**container.get("resources", {}), **resources}
    if needs.storage:
        env = {"TMPDIR": SCRATCH, "WENTU_CACHE": f"{SCRATCH}/wentu", **env}
    if env:
        before = [each for each in container.get("env", []) if each["name"] not in env]
        container["env"] = before + [{"name": n, "value": v} for n, v in env.items()]


def _kubernetes(needs: Needs, profile: Profile) -> Spec:
    """What KFP's server adds to the pod."""
    found: Spec = {"fieldPathAsEnv": [{"name": "WENTU_RUN_ID", "fieldPath": RUN_LABEL}]}
    if profile.secrets:
        found["secretAsEnv"] = [
            _variables("secret", name, keys) for name, keys in profile.secrets.items()
        ]
    if profile.config:
        found["configMapAsEnv"] = [
            _variables("configMap", name, keys) for name, keys in profile.config.items()
        ]
    if profile.images.pull_secret:
        found["imagePullSecret"] = [_named("secret", profile.images.pull_secret)]
    if needs.node_selector:
        found["nodeSelector"] = {"labels": dict(needs.node_selector)}
    if needs.tolerations:
        found["tolerations"] = [
            {name: str(value) for name, value in each.items()} for each in _tolerations(needs)
        ]
    if needs.timeout:
        found["activeDeadlineSeconds"] = str(needs.timeout)
    mounts = []
    if needs.shm:
        mounts.append(_mount("shm", "/dev/shm", needs.shm) | {"medium": "Memory"})
    if needs.storage:
        mounts.append(_mount("scratch", SCRATCH, needs.storage))
    if mounts:
        found["emptyDirMounts"] = mounts
    return found


def _tolerations(needs: Needs) -> list[Spec]:
    """In Kubernetes' spelling, without what is empty."""
    return [
        {
            name: value
            for name, value in (
                ("key", each.key),
                ("operator", each.operator),
                ("value", each.value),
                ("effect", each.effect),
                ("tolerationSeconds", each.seconds),
            )
            if value not in ("", None)
        }
        for each in needs.tolerations
    ]


def _pods(needs: Needs, profile: Profile, image: str) -> Spec:
    """What the pods of a TrainJob are, for the task that launches it: WENTU_TRAINJOB."""
    found: Spec = {
        name: value
        for name in ("cpu", "memory", "gpu", "gpu_type", "shm", "storage", "timeout")
        if (value := getattr(needs, name))
    }
    if profile.images.pull_secret:
        found["pull_secret"] = profile.images.pull_secret
    found |= {"image": image, "secrets": profile.secrets, "config": profile.config}
    found |= {"env": profile.env, "node_selector": dict(needs.node_selector)}
    return found | {"tolerations": _tolerations(needs)}


def _named(what: str, name: str) -> Spec:
    """A name, spelled as the servers of today and those before 2.5 read it."""
    constant = {"runtimeValue": {"constant": name}}
    return {f"{what}Name": name, f"{what}NameParameter": constant}


def _variables(what: str, name: str, keys: Mapping[str, str]) -> Spec:
    pairs = [{f"{what}Key": key, "envVar": variable} for key, variable in keys.items()]
    # Optional: a store on Amazon's own S3 needs no endpoint, a pod with a role no keys.
    return {**_named(what, name), "keyToEnv": pairs, "optional": True}


def _mount(name: str, path: str, size: str) -> Spec:
    return {"volumeName": name, "mountPath": path, "sizeLimit": size}


def _tasks_of(spec: Spec, label: str) -> Iterator[Spec]:
    """The tasks that run an executor, wherever in the flow they are."""
    of = {n for n, each in spec["components"].items() if each.get("executorLabel") == label}
    dags = [each["dag"] for each in spec["components"].values() if "dag" in each]
    for dag in (spec["root"]["dag"], *dags):
        for task in dag["tasks"].values():
            if task["componentRef"]["name"] in of:
                yield task


_BRANCH = re.compile(r"== '(\w+)'")


def tasks_by_name(spec: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name of a task -> (its stage, the answer of inventory that leads to it; empty: each)."""
    executors = spec["deploymentSpec"]["executors"]
    found: dict[str, tuple[str, str]] = {}

    def visit(dag: Mapping[str, Any], branch: str) -> None:
        for name, task in dag["tasks"].items():
            component = spec["components"][task["componentRef"]["name"]]
            said = _BRANCH.findall(task.get("triggerPolicy", {}).get("condition", ""))
            if "dag" in component:
                visit(component["dag"], said[-1] if said else branch)
            else:
                container = executors[component["executorLabel"]].get("container", {})
                found[name] = (stage_of(container), branch)

    visit(spec["root"]["dag"], "")
    return found
