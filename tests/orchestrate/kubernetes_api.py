"""A Kubernetes API that holds TrainJobs and pods in memory, for the real client to talk to.

It refuses what kubeflow_trainer_api's models do not know, answers with the Status objects that the
client reads, and fails on demand. Where it is told to ``play`` the controller, it runs the pods of
a TrainJob as processes of this machine, with the variables that the controller sets.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from kubeflow_trainer_api import models

from wentu.orchestrate.trainspec import CACHE

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/wentu/trainjobs"
PODS = "/api/v1/namespaces/wentu/pods"


class KubernetesApi:
    """The server; a context manager."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.asked: list[str] = []
        """"METHOD path" of every request."""
        self.faults: list[str | int] = []
        """What happens to the next requests: a status, or "cut"."""
        self.on_get: Callable[[dict[str, Any]], None] = lambda job: None
        """Called with a TrainJob whenever it is looked at."""
        self.on_create: Callable[[dict[str, Any]], None] = lambda job: None
        self._processes: list[subprocess.Popen[bytes]] = []
        api = self

        class Handler(Requests):
            server_api = api

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> KubernetesApi:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_pods()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def write_kubeconfig(self, path: Path) -> Path:
        """For the real client."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [
                {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "wentu"}}
            ],
            "current-context": "x",
        }
        path.write_text(json.dumps(config), "utf-8")
        return path

    def end(self, name: str, kind: str, reason: str = "JobsDone", message: str = "") -> None:
        """Let a TrainJob be Complete or Failed."""
        end = {"type": kind, "status": "True", "reason": reason, "message": message}
        end["lastTransitionTime"] = "2026-01-01T00:00:00Z"
        conditions = [{**end, "type": "Suspended", "status": "False"}, end]
        self.jobs[name]["status"] = {"conditions": conditions}

    def add_pod(
        self, job: str, index: int, phase: str = "Running", log: str = "", **status: Any
    ) -> str:
        """A pod of a TrainJob, as JobSet names it."""
        name = f"{job}-node-0-{index}-x{index}x"
        labels = {
            "jobset.sigs.k8s.io/jobset-name": job,
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        self.pods[name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "node"}]},
            "status": {"phase": phase, **status},
        }
        self.logs[name] = log
        return name

    # --- the controller ------------------------------------------------------------------------

    def play(self, folder: Path) -> None:
        """Run each new TrainJob's pods here; a pod's log and its cache lie in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)

        def start(job: dict[str, Any]) -> None:
            threading.Thread(target=self._run, args=(job, folder), daemon=True).start()

        self.on_create = start

    def _run(self, job: dict[str, Any], folder: Path) -> None:
        trainer, name = job["spec"]["trainer"], job["metadata"]["name"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        names, processes = [], []
        for rank in range(trainer["numNodes"]):
            names.append(self.add_pod(name, rank))
            given = {each["name"]: each["value"] for each in trainer["env"] if "value" in each}
            given |= {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",  # the controller: the name of the first pod
                "PET_MASTER_PORT": str(port),
            }
            given = {
                key: v.replace(CACHE, str(folder / f"cache-{rank}")) for key, v in given.items()
            }
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            with (folder / names[-1]).open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [*trainer["command"], *trainer["args"]],
                        env=os.environ | given | {"PATH": path},
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        self._processes += processes
        codes = [process.wait() for process in processes]
        for pod, code in zip(names, codes, strict=True):
            self.logs[pod] = (folder / pod).read_text("utf-8", "replace")
            self.pods[pod]["status"] = ended(code)
        if name in self.jobs:
            if any(codes):
                self.end(
                    name, "Failed", "FailedJobs", "jobset failed due to one or more job failures"
                )
            else:
                self.end(name, "Complete", "AllJobsCompleted", "jobset completed successfully")

    def kill_pods(self, rank: int | None = None) -> None:
        """As when their machines are gone."""
        chosen = self._processes if rank is None else self._processes[rank : rank + 1]
        for process in chosen:
            if process.poll() is None:
                os.killpg(process.pid, 9)


def ended(code: int) -> dict[str, Any]:
    """Status of a pod whose container ended."""
    state = {"exitCode": code, "reason": "Error" if code else "Completed"}
    container = {"name": "node", "restartCount": 0, "ready": False, "image": "i", "imageID": "i"}
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{**container, "state": {"terminated": state}}],
    }


class Requests(BaseHTTPRequestHandler):
    """One request."""

    server_api: KubernetesApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def answer(self, value: Any, status: int = 200) -> None:
        """JSON, or the text of a log."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.send_response(status)
        kind = "text/plain" if isinstance(value, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def refuse(self, status: int, message: str) -> None:
        """A Status object."""
        value = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        self.answer(value | {"message": message}, status)

    def begin(self) -> tuple[str, dict[str, list[str]], Any] | None:
        """(path, query, body); None where a fault was ordered."""
        api, parts = self.server_api, urlparse(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        api.asked.append(f"{self.command} {parts.path}")
        if api.faults:
            fault = api.faults.pop(0)
            if fault == "cut":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.refuse(int(fault), "ordered by the test")
            return None
        return parts.path, parse_qs(parts.query), body

    def do_GET(self) -> None:
        """A TrainJob, pods, a pod, its log."""
        begun, api = self.begin(), self.server_api
        if begun is None:
            return
        path, query, _ = begun
        name = path.rpartition("/")[2]
        if path.startswith(f"{JOBS}/"):
            if name in api.jobs:
                api.on_get(api.jobs[name])
            if name in api.jobs:
                return self.answer(api.jobs[name])
            return self.refuse(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
        if path == PODS:
            key, _, wanted = query["labelSelector"][0].partition("=")
            found = [p for p in api.pods.values() if p["metadata"]["labels"].get(key) == wanted]
            return self.answer({"kind": "PodList", "apiVersion": "v1", "items": found})
        if path.endswith("/log"):
            pod = path.split("/")[-2]
            if query.get("previous", [""])[0].lower() == "true":
                return self.answer(api.logs.get(f"{pod} before", ""))
            lines = api.logs.get(pod, "").splitlines(keepends=True)
            return self.answer("".join(lines[-int(query["tailLines"][0]) :]))
        if name in api.pods:
            return self.answer(api.pods[name])
        return self.refuse(404, f'pods "{name}" not found')

    def do_POST(self) -> None:
        """Create a TrainJob."""
        begun, api = self.begin(), self.server_api
        if begun is None:
            return
        body = begun[2]
        known = models.TrainerV1alpha1TrainJob.from_dict(body)
        if known is None or known.to_dict() != body:
            return self.refuse(422, "unknown fields")
        reserved = {e["name"] for e in body["spec"]["trainer"]["env"] if e["name"][:4] == "PET_"}
        if reserved:
            return self.refuse(422, "must not have reserved envs")
        name = body["metadata"]["name"]
        if name in api.jobs:
            return self.refuse(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        api.jobs[name] = body
        api.on_create(body)
        return self.answer(body, 201)

    def do_PATCH(self) -> None:
        """Merge into the spec."""
        begun, api = self.begin(), self.server_api
        if begun is None:
            return
        job = api.jobs[begun[0].rpartition("/")[2]]
        job["spec"] |= begun[2]["spec"]
        self.answer(job)

    def do_DELETE(self) -> None:
        """Remove a TrainJob, and its pods with it."""
        begun, api = self.begin(), self.server_api
        if begun is None:
            return
        name = begun[0].rpartition("/")[2]
        if api.jobs.pop(name, None) is None:
            return self.refuse(404, "not found")
        for pod in [p for p in api.pods if p.startswith(f"{name}-node-")]:
            api.pods.pop(pod)
        return self.answer({"kind": "Status", "status": "Success"})
