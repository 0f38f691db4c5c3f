"""What is in the images, and that a change of our sources leaves their dependencies alone."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import CPU, SERVE, TAG
from wentu import __version__

pytestmark = pytest.mark.containers

ROOT = Path(__file__).parents[2]
CONTEXT = ("wentu", "images", "pipelines", "pipeline.yaml", "pyproject.toml", "constraints.txt")
CONTEXT += ("README.md", "LICENSE", ".dockerignore")


def attributes(engine: Any, image: str) -> dict[str, Any]:
    return dict(engine.images.get(image).attrs)


@pytest.mark.parametrize("image", [CPU, SERVE])
def test_an_image_runs_as_a_user_and_says_what_it_is(engine: Any, image: str) -> None:
    config = attributes(engine, image)["Config"]
    assert config["User"] == "1000"  # a number: Kubernetes checks runAsNonRoot by it
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items()}
    assert labels["version"] == TAG
    assert labels["title"] == image.partition(":")[0]
    assert labels["licenses"] == "Apache-2.0"
    said = engine.containers.run(
        image, ["-c", "import wentu; print(wentu.__version__)"], entrypoint="python3", remove=True
    )
    assert said.decode().strip() == __version__


def test_serve_is_small_and_holds_neither_torch_nor_kfp_nor_a_compiler(engine: Any) -> None:
    assert attributes(engine, SERVE)["Size"] < 900e6
    code = (
        "import importlib.util as u, shutil\n"
        "names = ['torch', 'kfp', 'mlflow', 'cn_clip', 'onnxruntime', 'faiss', 'fastapi']\n"
        "print([n for n in names if u.find_spec(n)], shutil.which('cc'))"
    )
    said = engine.containers.run(SERVE, ["-c", code], entrypoint="python3", remove=True)
    assert said.decode().strip() == "['onnxruntime', 'faiss', 'fastapi'] None"


def test_serve_answers_for_its_health_and_opens_one_port(engine: Any) -> None:
    config = attributes(engine, SERVE)["Config"]
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert "/healthz" in " ".join(config["Healthcheck"]["Test"])
    assert config["Entrypoint"][:2] == ["wentu", "serve"]


@pytest.mark.parametrize("name", ["cpu", "serve"])
def test_a_touched_source_file_leaves_the_dependencies_alone(
    engine: Any, name: str, tmp_path: Path
) -> None:
    for each in CONTEXT:
        copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copy
        copy(ROOT / each, tmp_path / each)
    with (tmp_path / "wentu/errors.py").open("a", encoding="utf-8") as file:
        file.write("\n# touched\n")
    image = f"wentu/{name}:{TAG}-touched"
    began = time.monotonic()
    build = ["images/build", name, f"{TAG}-touched"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    try:
        before, after = (
            attributes(engine, each)["RootFS"]["Layers"] for each in (f"wentu/{name}:{TAG}", image)
        )
        assert len(before) == len(after)
        # Our wheel, and its installation.
        assert [i for i in range(len(before)) if before[i] != after[i]] == [
            len(before) - 2,
            len(before) - 1,
        ]
        print(f"{name}: rebuilt in {seconds:.1f} s")
        assert seconds < 60
    finally:
        engine.images.remove(image)
