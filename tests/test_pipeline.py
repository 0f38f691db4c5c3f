"""pipeline.yaml is what pipelines/train.py says, and takes the stages' options as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from wentu.errors import InputError
from wentu.formats import read_json
from wentu.orchestrate import parameters
from wentu.orchestrate.live import FLOW
from wentu.settings import default_of
from wentu.stages import STAGES, config_class, features
from wentu.store import Store

ROOT = Path(__file__).parents[1]


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


def test_the_parameters_say_where_and_each_stages_options(spec: dict[str, Any]) -> None:
    optional = {stage for stage in STAGES if fields(config_class(stage))}
    found = defined(spec)
    assert found.keys() == {*parameters.HELP, "code_version"} | {f"{s}_options" for s in optional}
    required = {name for name, each in found.items() if not each.get("isOptional")}
    assert required == {"pictures"}
    for stage in optional:
        assert found[f"{stage}_options"]["defaultValue"] == config_class(stage)().text() == "{}"


def test_a_run_passes_exactly_the_parameters_there_are(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    given = {"pictures": str(tmp_path), "epochs": 7, "split": "closed"}
    packed = parameters.packed(parameters.complete(given, None))
    assert packed.keys() == defined(spec).keys()
    defaults = {name: each.get("defaultValue") for name, each in defined(spec).items()}
    differ = {name for name in packed if packed[name] != defaults[name]}
    assert differ - {"pictures", "store", "code_version"} == {"pairs_options", "finetune_options"}
    assert packed["finetune_options"] == '{"epochs": 7}'


@pytest.mark.parametrize("stage", STAGES)
def test_options_are_the_same_after_their_journey(stage: str) -> None:
    kind = config_class(stage)
    hints = get_type_hints(kind)
    for each in fields(kind):
        default = default_of(each)
        choices = each.metadata["choices"]
        others = {bool: not default, int: 170, float: 0.75, str: "一 'two' \"three\" \\"}
        value = choices[-1] if choices else others[hints[each.name]]
        config = kind(**{each.name: value})
        assert kind.parse(config.text()) == config
        assert (config.text(shaping=True) == "{}") == (
            value == default or not each.metadata["shapes"]
        )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs=3", "not a JSON object such as"),
        ("[3]", "not a JSON object such as"),
        ('{"epoch": 3}', "epoch = 3 is none of theirs, or of another type; known: epochs, "),
        ('{"epochs": "3"}', 'epochs = "3" is none of theirs, or of another type'),
        ('{"epochs": 3.5}', "epochs = 3.5 is none of theirs, or of another type"),
        ('{"epochs": -1}', "--epochs -1: give 0 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        config_class("finetune").parse(text)
    assert config_class("finetune").parse('{"weight_decay": 1}').weight_decay == 1.0  # type: ignore[attr-defined]


def test_each_stage_is_given_its_own_options(spec: dict[str, Any]) -> None:
    """In each branch; and the settings of a training reach inventory."""
    tasks = [
        (name, task)
        for component in [{"dag": spec["root"]["dag"]}, *spec["components"].values()]
        for name, task in component.get("dag", {}).get("tasks", {}).items()
        if not name.startswith("condition")
    ]
    tasks = [(name, task) for name, task in tasks if not name.startswith("for-loop")]
    assert len(tasks) == 1 + 8 + 5
    for name, task in tasks:
        given = task["inputs"].get("parameters", {})
        if name.startswith("pairs"):  # which branch it is
            assert given["train"]["runtimeValue"]["constant"] is (name == "pairs")
        stage = re.sub(r"-\d+$", "", name).replace("-", "_")
        taken = {
            parameter: value["componentInputParameter"].removeprefix("pipelinechannel--")
            for parameter, value in given.items()
            if parameter.endswith("options")
        }
        expected = {"options": f"{stage}_options"} if fields(config_class(stage)) else {}
        if stage == "inventory":
            more = ("pairs", "finetune", "features")
            expected |= {f"{each}_options": f"{each}_options" for each in more}
        assert taken == expected, name


def test_each_answer_leads_to_its_stages(spec: dict[str, Any]) -> None:
    root = spec["root"]["dag"]["tasks"]
    branches = {
        name: set(component["dag"]["tasks"])
        for name, component in spec["components"].items()
        if name.startswith("comp-condition")
    }
    found = []
    for tasks in branches.values():
        for name in [each for each in tasks if each.startswith("for-loop")]:
            tasks = tasks - {name} | spec["components"][f"comp-{name}"]["dag"]["tasks"].keys()
        names = {re.sub(r"-\d+$", "", task).replace("-", "_") for task in tasks}
        if not any(name.startswith("condition") for name in names):
            found.append(names | {"inventory"})
    assert "inventory" in root
    assert sorted(map(sorted, found)) == sorted([sorted(FLOW["train"]), sorted(FLOW["refresh"])])


def test_only_what_must_run_each_time_is_never_cached(spec: dict[str, Any]) -> None:
    for component in [{"dag": spec["root"]["dag"]}, *spec["components"].values()]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if not name.startswith(("condition", "for-loop")):
                cached = task.get("cachingOptions", {}).get("enableCache", False)
                assert cached != name.startswith(("inventory", "promote")), name


def test_a_task_fetches_nothing_when_it_starts(spec: dict[str, Any]) -> None:
    for executor in spec["deploymentSpec"]["executors"].values():
        command = " ".join(executor["container"]["command"])
        assert "pip install" not in command


# --- shards -----------------------------------------------------------------------------------


def test_shards_run_here_side_by_side_and_give_what_one_gives(built: Any, tmp_path: Path) -> None:
    """The compiled pipeline, as `wentu run` runs it; compared with the stage alone."""
    words = ["run", "--pictures", str(built.collection), "--store", str(tmp_path / "store")]
    words += ["--captions", "none", "--no-train", "--model", str(built.winner)]
    words += ["--embed-batch-size", "5", "--shards", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "wentu", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"WENTU_TRACKING": "off"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "features: 24 pictures, 24 embedded, 0 reused" in done.stdout
    (run,) = (tmp_path / "store" / "runs").iterdir()
    logs = {path.name for path in (run / "logs").iterdir()}
    assert logs >= {"features-1.log", "features-2.log", "index.log"}
    told = {view["name"]: view for view in read_json(run / "run.json")["stages"]}
    assert told["features"]["counts"] == {"pictures": 24, "embedded": 24, "reused": 0}
    assert told["features"]["status"] == told["promote"]["status"] == "done"
    features.features(
        catalog=built.catalog,
        bundle=built.winner,
        pictures=str(built.collection),
        store=str(tmp_path / "other"),
        out=tmp_path / "alone",
        config=features.Config(embed_batch_size=5),
    )
    store = Store(str(tmp_path / "store"))
    current = store.current()
    assert current is not None
    (segment,) = current[1].segments
    for name in ("ids.npy", "vectors.npy"):
        ours = (store.segment(segment.digest) / name).read_bytes()
        assert ours == (tmp_path / "alone" / name).read_bytes()


def test_the_components_of_shards_keep_their_names(spec: dict[str, Any]) -> None:
    """`wentu submit` finds what a stage runs in by its name: exec-<stage>, exec-<stage>-2."""
    known = {f"exec-{stage.replace('_', '-')}" for stage in STAGES}
    names = {re.sub(r"-2$", "", name) for name in spec["deploymentSpec"]["executors"]}
    assert names == known


# --- presets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(parameters.presets()))
def test_a_preset_is_complete_and_says_what_to_expect(name: str, tmp_path: Path) -> None:
    about = parameters.presets()[name]["about"]
    assert about.keys() >= {"en", "zh", "source", "time", "memory", "expect"}
    assert all({*about[key]} == {"en", "zh"} for key in ("source", "time", "memory", "expect"))
    known = parameters.options().keys() | parameters.HELP.keys()
    assert parameters.presets()[name].keys() - {"about"} <= known
    values = parameters.complete({"pictures": str(tmp_path)}, name)
    assert values | parameters.preset(name) == values


def test_what_a_training_needs_is_looked_for_before_it_starts_and_only_then(tmp_path: Path) -> None:
    """A rollback hands on the options of an earlier run, whose suite may be gone."""
    given: dict[str, Any] = {"pictures": str(tmp_path), "model": "tiny"}
    for name in ("suite", "teacher"):
        wrong = given | {name: str(tmp_path / "gone")}
        with pytest.raises(InputError, match="gone"):
            parameters.complete(wrong, None)
        values = parameters.complete(wrong | {"train": False}, None)
        assert values[name] == str(tmp_path / "gone")


def test_what_is_given_goes_before_the_preset(tmp_path: Path) -> None:
    given = {"pictures": str(tmp_path), "epochs": 2, "batch_size": None}
    values = parameters.complete(given, "demo")
    assert (values["epochs"], values["batch_size"]) == (2, 64)
    assert values["learning_rate"] == 1e-3
