"""One run of the whole pipeline in the cpu image, and the servers that it needs.

Real are: the engine, the S3 server (pictures, captions, store, MLflow's artifacts) and the MLflow
server. The images are those that `make images` built, with the tag in WENTU_TEST_IMAGES.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wentu import demo
from wentu.storage.s3 import Objects

TAG = os.environ.get("WENTU_TEST_IMAGES") or "0.1.0"
CPU, SERVE = f"wentu/cpu:{TAG}", f"wentu/serve:{TAG}"
HANDED_ON = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
HANDED_ON += ("AWS_DEFAULT_REGION", "OMP_NUM_THREADS")
"""What the containers get of the environment of the tests, where it is set."""
EPOCHS = 4
"""Of the demo's 15: enough to find far more than chance does, a minute on two cores."""


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A client of the container engine; skipped where none answers or an image is missing."""
    import docker

    try:
        client = docker.from_env(timeout=300)
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"needs a container engine: {error}")
    for image in (CPU, SERVE):
        if not client.images.list(image):
            pytest.skip(f"needs the image {image}: make images IMAGES='cpu serve'")
    yield client
    client.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until_healthy(url: str, alive: Any, seconds: float = 120) -> None:
    """Wait until ``url`` answers 200; ``alive()`` says whether waiting makes sense."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert alive(), f"{url}: the server ended before it answered"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} did not answer within {seconds} s")


@pytest.fixture(scope="session")
def place(bucket: str) -> str:
    """Where in the S3 server these tests work."""
    return f"s3://{bucket}/containers"


@pytest.fixture(scope="session")
def mlflow(place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MLflow server whose artifacts lie in the bucket."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    words = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    words += ["--artifacts-destination", f"{place}/mlflow"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until_healthy(f"{url}/health", lambda: server.poll() is None)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # asked politely, it waits for its clients
        server.wait()


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run of the pipeline in containers."""

    id: str
    drawn: Path
    """The collection, as it also lies in the bucket."""
    collection: str
    store: str
    artifacts: Path
    """What the stages handed on: <run>/<stage>/<output>."""
    environment: dict[str, str]
    """What a container needs to reach the servers."""

    def artifact(self, name: str) -> Path:
        """The output of a stage, by ``stage/output``."""
        (found,) = self.artifacts.glob(f"*/{name}")
        return found


@pytest.fixture(scope="session")
def ran(engine: Any, place: str, mlflow: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The packaged pipeline, run by KFP's DockerRunner on the demo collection in the bucket."""
    drawn = demo.make_collection(tmp_path_factory.mktemp("demo"))
    collection, store = f"{place}/图 片", f"{place}/store"
    upload(drawn, collection)
    # The containers write as the image's user, not as the one who runs this.
    artifacts = tmp_path_factory.mktemp("artifacts")
    artifacts.chmod(0o777)
    run_id = f"containers-{uuid.uuid4().hex[:8]}"
    environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    environment |= {"MLFLOW_TRACKING_URI": mlflow, "WENTU_RUN_ID": run_id}
    where = {"pictures": collection, "captions": collection, "store": store}
    execute(where | {"epochs": EPOCHS, "shards": 2}, artifacts, environment)
    return Ran(
        id=run_id,
        drawn=drawn,
        collection=collection,
        store=store,
        artifacts=artifacts,
        environment=environment,
    )


def upload(folder: Path, place: str) -> None:
    """Every file of a folder, sixteen at a time."""
    objects = Objects(place)
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda each: objects.put(each.relative_to(folder).as_posix(), each), files))


def execute(values: Mapping[str, Any], artifacts: Path, environment: dict[str, str]) -> None:
    """The packaged pipeline.yaml with the cpu image of this build in it."""
    from wentu.orchestrate.parameters import complete, packaged, packed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own, at import
        from kfp import components, local
    text = packaged("pipeline.yaml").read_text(encoding="utf-8")
    parts = text.split("image: wentu/cpu:")
    assert len(parts) > 9, "every stage names the image"
    text = parts[0] + "".join(f"image: {CPU}{part[part.index(chr(10)) :]}" for part in parts[1:])
    pipeline = components.load_component_from_text(text)
    runner = local.DockerRunner(network_mode="host", environment=environment)
    local.init(runner, pipeline_root=str(artifacts))
    pipeline(**packed(complete(dict(values), "demo")))
