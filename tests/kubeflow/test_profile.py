"""A profile is read strictly, and what it fills in is what kfp itself would have compiled.

No ``from __future__ import annotations``: kfp reads the signature of a component.
"""

import copy
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from wentu import __version__
from wentu.errors import InputError
from wentu.orchestrate.filling import check, check_parameters, fill, stage_of, tasks_by_name
from wentu.orchestrate.live import FLOW
from wentu.orchestrate.profile import BUILT_IN, Needs, Profile, Toleration, parse, read_profile
from wentu.stages import STAGES

WHOLE = """
[images]
cpu = "registry.example/wentu/cpu:7"
gpu = "registry.example/wentu/gpu:7"
pull_secret = "registry"
[stages.default]
cpu = 2
memory = "4Gi"
retries = 1
[stages.finetune]
cpu = "8"
memory = "32Gi"
gpu = 2
gpu_type = "amd.com/gpu"
shm = "8Gi"
storage = "50Gi"
timeout = 3600
retries = 3
node_selector = {disk = "ssd"}
tolerations = [{key = "gpu", operator = "Exists", effect = "NoSchedule", seconds = 5}]
[stages.pairs]
image = "registry.example/mine:1"
[secrets.wentu-s3]
AWS_ACCESS_KEY_ID = "AWS_ACCESS_KEY_ID"
[config.wentu-config]
url = "MLFLOW_TRACKING_URI"
[env]
WENTU_LANG = "zh"
"""


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    path = tmp_path / "profile.toml"
    path.write_text(WHOLE, encoding="utf-8")
    return read_profile(path)


def of_stage(spec: dict[str, Any], name: str) -> dict[str, Any]:
    """The first executor of a stage."""
    executors = spec["deploymentSpec"]["executors"].values()
    return next(e["container"] for e in executors if stage_of(e["container"]) == name)


# --- reading ----------------------------------------------------------------------------------


def test_a_stage_is_given_its_own_then_the_files_default_then_the_built_in(
    profile: Profile,
) -> None:
    needs = profile.of("finetune")
    assert (needs.cpu, needs.memory, needs.gpu, needs.timeout) == ("8", "32Gi", 2, 3600)
    assert needs.tolerations == (
        Toleration(key="gpu", operator="Exists", effect="NoSchedule", seconds=5),
    )
    usual = profile.of("index")
    assert (usual.cpu, usual.memory, usual.retries, usual.timeout) == ("2", "4Gi", 1, 86400)


def test_the_files_default_goes_before_what_is_built_in_for_a_stage(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text("[stages.default]\ntimeout = 60\n", encoding="utf-8")
    needs = read_profile(path).of("finetune")
    assert (needs.timeout, needs.shm) == (60, "2Gi")


def test_without_a_file_the_secrets_are_those_that_infra_installs() -> None:
    profile = read_profile(None)
    assert set(profile.secrets) == {"wentu-s3", "wentu-webhook"}
    assert set(profile.config) == {"wentu-config"}
    assert profile.of("finetune").timeout == 7 * 86400


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[stages.finetune]\nmemmory = '1Gi'", r"\[stages.finetune\] memmory is not known; known:"),
        ("[stages.train]\ncpu = 1", r"\[stages\] train is not known; known: default, inventory, "),
        ("[resources]\n", "resources is not known; known: images, stages, secrets, config, env"),
        ("[stages.default]\nmemory = 'much'", r"memory = 'much': give a size such as \"8Gi\""),
        ("[stages.default]\ncpu = 'two'", r'cpu: give 4 or "500m"'),
        ("[stages.default]\ngpu = '2'", "gpu = '2': give a whole number"),
        ("[stages.default]\ngpu = true", "gpu = True: give a whole number"),
        ("[stages.default]\nretries = -1", "retries: give 0 or more"),
        ("[stages.default]\nnode_selector = 'x'", "node_selector: give a table"),
        (
            "[stages.default]\ntolerations = [{keys = 'x'}]",
            "tolerations keys is not known; known: key",
        ),
        ("[images]\ncpu = 3", "cpu = 3: give a text in quotes"),
        ("[secrets]\nwentu = 'x'", r"\[secrets.wentu\]: give key = \"ENV_NAME\""),
        ("[secrets.a]\nkey = 'not a name'", "key: give the name of an environment variable"),
        ("[env]\nAWS_SECRET_ACCESS_KEY = 'x'", r"looks like a secret.*\[secrets.NAME\]"),
        (
            "[env]\nA = 'x'\n[config.c]\nk = 'A'",
            r"A is set by \[config.c\] and by \[env\]; keep one",
        ),
        ("[stages", "no TOML"),
        ("stages = 3", r"\[stages\]: give a table"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse(text, "profile.toml")


# --- filling ----------------------------------------------------------------------------------


def test_the_filled_pipeline_validates_strictly_and_the_compiled_one_is_left_alone(
    spec: dict[str, Any], profile: Profile
) -> None:
    before = copy.deepcopy(spec)
    for each in (profile, read_profile(None)):
        check(*fill(spec, each, gpus=4))
    assert spec == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec, platform: spec["deploymentSpec"]["executors"]["exec-pairs"][
            "container"
        ].update(resources={"memory": "1Gi"}),
        lambda spec, platform: spec["root"].update(tasks={}),
        lambda spec, platform: next(
            iter(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values())
        ).update(shm="1Gi"),
        lambda spec, platform: platform["platforms"]["kubernetes"]["deploymentSpec"][
            "executors"
        ].update({"exec-nothing": {}}),
    ],
)
def test_the_check_can_fail(
    spec: dict[str, Any], profile: Profile, spoil: Callable[[Any, Any], None]
) -> None:
    filled, platform = fill(spec, profile)
    spoil(filled, platform)
    with pytest.raises(AssertionError):
        check(filled, platform)


def test_it_is_what_kfp_itself_compiles(profile: Profile, tmp_path: Path) -> None:
    """The same settings through kfp's own setters, in a pipeline of one task."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kfp import compiler, dsl, kubernetes

    def finetune(store: str) -> str:
        return store

    component = dsl.component(finetune, base_image="x", install_kfp_package=False)

    @dsl.pipeline(name="one")
    def one(store: str) -> None:
        component(store=store)

    @dsl.pipeline(name="one")
    def theirs(store: str) -> None:
        task = component(store=store).set_cpu_limit("8").set_cpu_request("8")
        task.set_memory_limit("32Gi").set_memory_request("32Gi")
        task.set_accelerator_type("amd.com/gpu").set_accelerator_limit(2)
        task.set_retry(3, "60s", 2.0, "3600s")
        for name, value in (
            ("TMPDIR", "/scratch"),
            ("WENTU_CACHE", "/scratch/wentu"),
            ("WENTU_LANG", "zh"),
        ):
            task.set_env_variable(name, value)
        kubernetes.use_secret_as_env(
            task, "wentu-s3", {"AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID"}, True
        )
        kubernetes.use_config_map_as_env(task, "wentu-config", {"url": "MLFLOW_TRACKING_URI"}, True)
        kubernetes.set_image_pull_secrets(task, ["registry"])
        kubernetes.add_node_selector(task, "disk", "ssd")
        kubernetes.add_toleration(task, "gpu", "Exists", None, "NoSchedule", 5)
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", "8Gi")
        kubernetes.empty_dir_mount(task, "scratch", "/scratch", size_limit="50Gi")
        kubernetes.set_timeout(task, 3600)
        kubernetes.use_field_path_as_env(task, "WENTU_RUN_ID", "metadata.labels['pipeline/runid']")

    def compiled(pipeline: Any) -> list[dict[str, Any]]:
        path = tmp_path / "one.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return list(yaml.safe_load_all(path.read_text("utf-8")))

    filled, platform = fill(compiled(one)[0], profile)
    spec, expected = compiled(theirs)
    container = of_stage(spec, "finetune")
    for old in ("cpuLimit", "cpuRequest", "memoryLimit", "memoryRequest"):
        del container["resources"][old]  # kfp writes the old spelling too
    for old in ("type", "count"):
        del container["resources"]["accelerator"][old]
    container["image"] = "registry.example/wentu/gpu:7"
    assert filled == spec
    assert platform == expected


def test_images_are_by_what_a_stage_needs(spec: dict[str, Any], profile: Profile) -> None:
    filled, _ = fill(spec, profile)
    images = {name: of_stage(filled, name)["image"] for name in STAGES}
    assert images.pop("finetune") == "registry.example/wentu/gpu:7"
    assert images.pop("pairs") == "registry.example/mine:1"
    assert set(images.values()) == {"registry.example/wentu/cpu:7"}
    filled, _ = fill(spec, profile, image="one:1")
    assert {of_stage(filled, name)["image"] for name in STAGES} == {"one:1"}


def test_gpus_are_those_of_finetune(spec: dict[str, Any]) -> None:
    filled, _ = fill(spec, read_profile(None), gpus=8)
    trained, embedded = of_stage(filled, "finetune"), of_stage(filled, "features")
    assert trained["resources"]["accelerator"] == {
        "resourceType": "nvidia.com/gpu",
        "resourceCount": "8",
    }
    assert trained["image"] == f"wentu/gpu:{__version__}"
    assert "resources" not in embedded
    assert embedded["image"] == of_stage(spec, "features")["image"]


def test_on_several_nodes_the_task_only_launches_and_says_what_the_pods_are(
    spec: dict[str, Any], profile: Profile
) -> None:
    filled, platform = fill(spec, profile, nodes=4, gpus=8)
    check(filled, platform)
    launching = of_stage(filled, "finetune")
    assert launching["image"] == "registry.example/wentu/cpu:7"
    assert launching["resources"] == of_stage(filled, "index")["resources"]
    (told,) = (each["value"] for each in launching["env"] if each["name"] == "WENTU_TRAINJOB")
    assert json.loads(told) == {
        "image": "registry.example/wentu/gpu:7",
        "pull_secret": "registry",
        "cpu": "8",
        "memory": "32Gi",
        "gpu": 8,
        "gpu_type": "amd.com/gpu",
        "shm": "8Gi",
        "storage": "50Gi",
        "timeout": 3600,
        "node_selector": {"disk": "ssd"},
        "tolerations": [
            {"key": "gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}
        ],
        "secrets": {"wentu-s3": {"AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID"}},
        "config": {"wentu-config": {"url": "MLFLOW_TRACKING_URI"}},
        "env": {"WENTU_LANG": "zh"},
    }
    config = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-finetune"]
    assert "emptyDirMounts" not in config
    assert config["activeDeadlineSeconds"] == "3600"


def test_caching_stays_as_compiled_and_each_task_may_be_tried_again(
    spec: dict[str, Any], profile: Profile
) -> None:
    def tasks(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
        dags = [value["root"], *(c for c in value["components"].values() if "dag" in c)]
        return {name: task for each in dags for name, task in each["dag"]["tasks"].items()}

    filled, _ = fill(spec, profile)
    before, after = tasks(spec), tasks(filled)
    stages = tasks_by_name(spec)
    for name, task in after.items():
        assert task.get("cachingOptions") == before[name].get("cachingOptions")
        wanted = {"finetune": 3}.get(stages[name][0], 1) if name in stages else None
        assert task.get("retryPolicy", {}).get("maxRetryCount") == wanted


def test_each_task_is_known_with_the_answer_that_leads_to_it(spec: dict[str, Any]) -> None:
    found = tasks_by_name(spec)
    assert found["inventory"] == ("inventory", "")
    for answer in ("train", "refresh"):
        stages = {stage for stage, branch in found.values() if branch == answer}
        assert stages == set(FLOW[answer]) - {"inventory"}


def test_parameters_that_the_pipeline_lacks_are_refused(spec: dict[str, Any]) -> None:
    check_parameters(spec, {"pictures": "s3://a"})
    with pytest.raises(InputError, match="has no parameter epochs"):
        check_parameters(spec, {"pictures": "s3://a", "epochs": "3"})
    with pytest.raises(InputError, match="needs the parameter pictures"):
        check_parameters(spec, {})


@pytest.mark.parametrize("page", ["docs/submit.md", "docs/zh-CN/submit.md"])
def test_the_page_shows_the_built_in_profile(page: str) -> None:
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    (shown,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert parse(shown, page) == parse(BUILT_IN, "built-in")
    named = set(re.findall(r"`(\w+)`", "\n".join(x for x in text.splitlines() if x[:1] == "|")))
    assert {each.name for each in fields(Needs)} <= named
