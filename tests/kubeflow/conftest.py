"""A Kubeflow for each test, the command line in this process, and a kubeconfig that leads there."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.kubeflow.server import Kubeflow, serving
from wentu import cli
from wentu.errors import WentuError
from wentu.orchestrate import pods
from wentu.orchestrate.filling import compiled

Said = tuple[int, str]


@pytest.fixture
def kubeflow() -> Iterator[Kubeflow]:
    """A server that holds nothing yet."""
    yield from serving()


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither a cluster nor a kubeconfig of the machine's is found."""
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_TOKEN", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr(sys, "argv", ["wentu"])
    monkeypatch.chdir(tmp_path)
    pods.api.cache_clear()
    yield
    pods.api.cache_clear()


@pytest.fixture
def kubeconfig(kubeflow: Kubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubeconfig whose cluster is the same server."""
    path = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": kubeflow.url}}],
        "users": [{"name": "test", "user": {}}],
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
def wentu() -> Callable[..., Said]:
    """(exit status, what was said) of a command."""

    def run(*words: str) -> Said:
        shown = CliRunner().invoke(cli.build(), list(words))
        if isinstance(shown.exception, WentuError):
            return shown.exception.exit_code, str(shown.exception)
        if shown.exception and not isinstance(shown.exception, SystemExit):
            raise shown.exception
        return shown.exit_code, shown.output

    return run


@pytest.fixture
def spec() -> dict[str, Any]:
    """The compiled pipeline."""
    return copy.deepcopy(dict(compiled()))


PLACES = ("--pictures", "s3://shop/pictures", "--captions", "names", "--store", "s3://shop/store")
"""Of a run on a cluster; with captions that are the names nothing is read here."""


@pytest.fixture
def places() -> tuple[str, ...]:
    """``PLACES``, for tests."""
    return PLACES


def parsed(said: Said) -> Any:
    """The JSON that a command printed."""
    assert said[0] == 0, said[1]
    return json.loads(said[1])
