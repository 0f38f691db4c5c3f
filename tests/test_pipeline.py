"""pipeline.yaml is what pipelines/train.py says, and its defaults are those of the Configs."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from wentu.orchestrate import parameters
from wentu.orchestrate.watch import FLOW
from wentu.settings import default_of
from wentu.stages import STAGES, inventory

ROOT = Path(__file__).parents[1]
TYPES = {bool: "BOOLEAN", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", str: "STRING"}


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    """The compiled pipeline that is committed."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "pipeline.yaml").read_text("utf-8"))
    return loaded


def defined(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = spec["root"]["inputDefinitions"]["parameters"]
    return found


def test_the_compiled_pipeline_is_fresh(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pipelines.train", str(tmp_path / "new.yaml")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    same = (tmp_path / "new.yaml").read_bytes() == (ROOT / "pipeline.yaml").read_bytes()
    assert same, "pipeline.yaml is stale: run `make compile`"


def test_the_pipeline_is_valid(spec: dict[str, Any]) -> None:
    """Parsed strictly; under deploymentSpec, which the schema leaves open, each executor too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only: not our code
        from google.protobuf import json_format
        from kfp.pipeline_spec import pipeline_spec_pb2 as schema
    parsed = json_format.ParseDict(spec, schema.PipelineSpec())
    assert parsed.pipeline_info.name == "wentu"
    executors = spec["deploymentSpec"]["executors"]
    for executor in executors.values():
        one = json_format.ParseDict(executor, schema.PipelineDeploymentConfig.ExecutorSpec())
        assert one.container.image
    names = {component.get("executorLabel") for component in spec["components"].values()}
    assert names - {None} == executors.keys()


def test_every_option_is_a_parameter_with_the_same_default_and_type(spec: dict[str, Any]) -> None:
    hints = {
        name: kind
        for stage in STAGES
        for name, kind in get_type_hints(parameters.config_class(stage)).items()
    }
    found = defined(spec)
    for name, each in parameters.options().items():
        assert name in found, f"{name} is no parameter of the pipeline"
        assert found[name]["defaultValue"] == default_of(each), name
        assert found[name]["parameterType"] == TYPES[hints[name]], name


def test_beside_the_options_the_parameters_say_where(spec: dict[str, Any]) -> None:
    rest = defined(spec).keys() - parameters.options().keys()
    assert rest == {*parameters.HELP, "code_version"}
    required = {name for name, each in defined(spec).items() if not each.get("isOptional")}
    assert required == {"pictures"}


def test_a_run_passes_exactly_the_parameters_there_are(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    values = parameters.complete({"pictures": str(tmp_path)}, None)
    assert values.keys() == defined(spec).keys()
    defaults = {name: each.get("defaultValue") for name, each in defined(spec).items()}
    for name in parameters.options():
        assert values[name] == defaults[name]


@pytest.mark.parametrize("stage", STAGES)
def test_a_component_takes_every_option_of_its_stage(spec: dict[str, Any], stage: str) -> None:
    name = "comp-" + stage.replace("_", "-")
    taken = spec["components"][name]["inputDefinitions"].get("parameters", {})
    hints = get_type_hints(parameters.config_class(stage))
    for each in fields(parameters.config_class(stage)):
        assert taken[each.name]["parameterType"] == TYPES[hints[each.name]], each.name


def test_each_option_reaches_the_stages_that_take_it(spec: dict[str, Any]) -> None:
    """In each branch: an option of a Config comes from the pipeline's parameter of that name."""
    options = parameters.options()
    tasks = [
        (name, task)
        for component in [{"dag": spec["root"]["dag"]}, *spec["components"].values()]
        for name, task in component.get("dag", {}).get("tasks", {}).items()
        if not name.startswith("condition")
    ]
    assert len(tasks) == 1 + 8 + 5
    for name, task in tasks:
        for parameter, value in task["inputs"].get("parameters", {}).items():
            if (name, parameter) in (("pairs", "train"), ("pairs-2", "train")):
                assert value["runtimeValue"]["constant"] is (name == "pairs")  # which branch it is
            elif parameter in options:
                source = value["componentInputParameter"].removeprefix("pipelinechannel--")
                assert source == parameter, name


def test_the_settings_of_a_training_are_those_that_a_plan_looks_at(spec: dict[str, Any]) -> None:
    task = spec["root"]["dag"]["tasks"]["inventory"]
    text = task["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"]
    names = re.findall(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(\w+)'\]\}\}", text)
    assert tuple(names) == inventory.SHAPES_TRAINING
    assert re.sub(r"\{\{.*?\}\}", "x", text) == " ".join("x" * len(names))


def test_each_answer_leads_to_its_stages(spec: dict[str, Any]) -> None:
    root = spec["root"]["dag"]["tasks"]
    branches = {
        name: set(component["dag"]["tasks"])
        for name, component in spec["components"].items()
        if "dag" in component and "inventory" not in component["dag"]["tasks"]
    }
    found = []
    for tasks in branches.values():
        names = {re.sub(r"-\d+$", "", task).replace("-", "_") for task in tasks}
        if not any(name.startswith("condition") for name in names):
            found.append(names | {"inventory"})
    assert "inventory" in root
    assert sorted(map(sorted, found)) == sorted([sorted(FLOW["train"]), sorted(FLOW["refresh"])])


def test_only_what_must_run_each_time_is_never_cached(spec: dict[str, Any]) -> None:
    for component in [{"dag": spec["root"]["dag"]}, *spec["components"].values()]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if not name.startswith("condition"):
                cached = task.get("cachingOptions", {}).get("enableCache", False)
                assert cached != name.startswith(("inventory", "promote")), name


def test_a_task_fetches_nothing_when_it_starts(spec: dict[str, Any]) -> None:
    for executor in spec["deploymentSpec"]["executors"].values():
        command = " ".join(executor["container"]["command"])
        assert "pip install" not in command


# --- presets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(parameters.presets()))
def test_a_preset_is_complete_and_says_what_to_expect(name: str, tmp_path: Path) -> None:
    about = parameters.presets()[name]["about"]
    assert about.keys() >= {"en", "zh", "source", "time", "memory", "expect"}
    known = parameters.options().keys() | parameters.HELP.keys()
    assert parameters.presets()[name].keys() - {"about"} <= known
    values = parameters.complete({"pictures": str(tmp_path)}, name)
    assert values | parameters.preset(name) == values


def test_what_is_given_goes_before_the_preset(tmp_path: Path) -> None:
    given = {"pictures": str(tmp_path), "epochs": 2, "batch_size": None}
    values = parameters.complete(given, "demo")
    assert (values["epochs"], values["batch_size"]) == (2, 64)
    assert values["learning_rate"] == 1e-3
