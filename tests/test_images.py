"""The Containerfiles as text; tests/containers builds and runs them where there is an engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from components._images import CPU
from wentu import __version__

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "images").glob("*.Containerfile"))
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def extras_of(file: Path) -> list[str]:
    """The words that the build gives to requirements.py."""
    (words,) = re.findall(r"python3 requirements\.py (.+) >", file.read_text(encoding="utf-8"))
    return str(words).split()


def installed(*words: str) -> list[str]:
    """The names of what requirements.py prints."""
    script = [sys.executable, "images/requirements.py", *words]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True)
    return [re.split(r"[^\w.-]", line)[0].lower() for line in done.stdout.splitlines()]


def test_the_components_name_the_image_of_this_version() -> None:
    assert f"wentu/cpu:{__version__}" == CPU


def test_there_are_three() -> None:
    assert [file.stem for file in FILES] == ["cpu", "gpu", "serve"]


@each_file
def test_any_builder_takes_it(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    known = {"ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "LABEL", "USER", "EXPOSE"}
    known |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    whole = re.sub(r"\\\n", " ", text)
    words = [line.split() for line in whole.splitlines() if line and line[0] not in "# "]
    assert {line[0] for line in words} <= known
    assert "<<" not in text
    assert not [line for line in words if line[0] == "RUN" and line[1].startswith("--")]
    assert words[0] == ["ARG", "BASE=python:3.11-slim-bookworm"]


@each_file
def test_nobody_special_runs_it_and_our_sources_come_last(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"^USER (.+)$", text, re.M) == ["1000"]
    final = text[text.rindex("\nFROM") :]
    assert final.index("COPY --from=build /wheels") < final.index("-r requirements.txt")
    assert final.index("-r requirements.txt") < final.index("COPY --from=build /own")


def test_serve_needs_no_torch_and_no_pipeline() -> None:
    names = installed(*extras_of(ROOT / "images/serve.Containerfile"))
    assert {"fastapi", "uvicorn", "onnxruntime", "faiss-cpu"} <= set(names)
    assert not {"torch", "kfp", "mlflow", "cn_clip", "lmdb"} & set(names)


def test_gpu_is_cpu_with_two_packages_in_their_builds_for_gpus() -> None:
    cpu, gpu = (
        installed(*extras_of(ROOT / f"images/{name}.Containerfile")) for name in ("cpu", "gpu")
    )
    assert set(cpu) - set(gpu) == {"onnxruntime", "faiss-cpu"}
    assert set(gpu) - set(cpu) == {"onnxruntime-gpu", "faiss-gpu-cu12"}
    assert {"kfp", "kubernetes", "kubeflow-trainer-api", "torch"} <= set(cpu)


@each_file
def test_every_requirement_is_pinned(file: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert {name.replace("_", "-") for name in installed(*extras_of(file))} <= pinned
