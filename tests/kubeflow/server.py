"""Kubeflow Pipelines' v2beta1 API and the little of Kubernetes' that we use, on 127.0.0.1.

Bodies are read into kfp_server_api's own models and must be the same when written again, so that a
field that KFP does not have is an error here too; answers are written by the same models. What the
server refuses is what KFP's refuses: unknown ids, parameters that the pipeline lacks, a package
that is no pipeline, a concurrency beyond 10.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kfp_server_api as api
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2 as schema

BEGAN = datetime(2026, 11, 27, 2, 0, tzinfo=UTC)
CLIENT = api.ApiClient()
Node = dict[str, Any]
State = tuple[str, list[Node]]


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Body:
    def __init__(self, data: str) -> None:
        self.data = data


def read(data: bytes, model: str) -> Any:
    """A body as a model; refused where the model does not keep all of it."""
    given = json.loads(data)
    try:
        found = CLIENT.deserialize(_Body(data.decode()), model)
    except Exception as error:
        raise Refused(400, f"{model}: {error}") from error
    kept = CLIENT.sanitize_for_serialization(found)
    if _plain(kept) != _plain(given):
        raise Refused(400, f"{model}: {given} is not {kept}")
    return found


def _plain(value: Any) -> Any:
    """Without nulls; whole numbers as texts, which is how int64 travels."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if type(value) is int else value


def write(value: Any) -> Any:
    """A model as the JSON that travels."""
    return CLIENT.sanitize_for_serialization(value)


# --- what a run looks like --------------------------------------------------------------------


def task(name: str, state: str, *, executor: str = "", at: int = 0, lasts: int = 10) -> list[Node]:
    """The nodes of one task of an Argo workflow, as KFP's server tells of them.

    executor: the state of its container; SKIPPED where the result came from the cache.
    """
    began, ended = BEGAN + timedelta(seconds=at), BEGAN + timedelta(seconds=at + lasts)
    over = state in ("SUCCEEDED", "FAILED", "SKIPPED")
    times = {"start_time": began, "end_time": ended if over else datetime(1, 1, 1, tzinfo=UTC)}
    mark = f"{abs(hash(name)) % 10**8:08d}"
    container = executor or state
    return [
        {"task_id": f"w-{mark}1", "display_name": f"{name}-driver", "state": "SUCCEEDED", **times},
        {
            "task_id": f"w-{mark}2",
            "display_name": name,
            "state": state,
            "child_tasks": [{"pod_name": f"w-{mark}3"}],
            **times,
        },
        {
            "task_id": f"w-system-container-impl-{mark}3",
            "display_name": "executor",
            "state": container,
            **times,
        },
    ]


def dag(name: str, state: str) -> list[Node]:
    """A condition, or the whole: a node without a container."""
    return [{"task_id": f"w-{name}", "display_name": name, "state": state, "start_time": BEGAN}]


# --- the server -------------------------------------------------------------------------------


class Kubeflow:
    """The server and what it holds."""

    def __init__(self) -> None:
        self.pipelines: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.packages: dict[str, list[dict[str, Any]]] = {}
        self.experiments: dict[str, Any] = {}
        self.runs: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}
        self.log: list[str] = []
        """Method and path of each request that changed something."""
        self.course: Callable[[int], State] = lambda look: ("SUCCEEDED", [])
        """How a run stands at the n-th look."""
        self.refuse: dict[str, int] = {}
        """Method and start of a path -> the status it is answered with."""
        self.tag = "2.17.0"
        self.broken: list[str] = []
        """What went wrong in this server itself."""
        self.most_enabled = 0
        """Schedules that were enabled at once, at most."""
        self.pods: dict[str, Any] = {}
        self.logs: dict[str, str] = {}
        self.may = True
        self.denied: set[str] = set()
        """"ACCOUNT VERB RESOURCE" that Kubernetes does not allow; without account: to us."""
        self.kept: dict[str, dict[str, str]] = {}
        """secrets/NAME (base64) and configmaps/NAME -> their data."""
        self.notices: list[dict[str, Any]] = []
        """What was posted to /hook."""
        self.silent = 0.0
        """Seconds before any answer."""
        self._ids, self._looks = itertools.count(1), itertools.count()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def id(self, what: str) -> str:
        """A new id."""
        return f"{what}-{next(self._ids):04d}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    status, value = 200, server.answer(self.command, self.path, body, self.headers)
                except Refused as error:
                    status, value = error.status, {"code": 3, "message": str(error)}
                except Exception as error:
                    server.broken.append(repr(error))
                    status, value = 500, {"message": repr(error)}
                data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                self.send_response(status)
                kind = "text/plain" if isinstance(value, str) else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with suppress(BrokenPipeError):  # the client's patience ended
                    self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer

        return Handler

    def answer(self, method: str, target: str, body: bytes, headers: Any) -> Any:
        """What a request is answered with."""
        time.sleep(self.silent)
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        path = unquote(url.path)
        for start, status in self.refuse.items():
            if f"{method} {path}".startswith(start):
                raise Refused(status, "refused by the test")
        if method != "GET":
            self.log.append(f"{method} {path}")
        for route, function in ROUTES:
            found = re.fullmatch(route, f"{method} {path}")
            if found:
                return function(self, *found.groups(), query=query, body=body, headers=headers)
        raise Refused(404, f"no such path: {method} {path}")


def filtered(values: list[Any], query: dict[str, str]) -> list[Any]:
    """What a filter of KFP's leaves; only EQUALS on the name is known here."""
    for each in json.loads(query.get("filter") or "{}").get("predicates", []):
        if (each["operation"], each["key"]) != (1, "display_name"):  # 1: EQUALS
            raise Refused(400, f"filter {each}")
        values = [value for value in values if value.display_name == each["stringValue"]]
    return values


# --- pipelines


def create_pipeline(server: Kubeflow, *, body: bytes, **_: Any) -> Any:
    made = read(body, "V2beta1Pipeline")
    if any(each.name == made.name for each in server.pipelines.values()):
        raise Refused(409, f"{made.name} exists")
    made.pipeline_id, made.created_at = server.id("pipeline"), BEGAN
    server.pipelines[made.pipeline_id] = made
    return write(made)


def list_pipelines(server: Kubeflow, *, query: dict[str, str], **_: Any) -> Any:
    found = filtered(list(server.pipelines.values()), query)
    return write(api.V2beta1ListPipelinesResponse(pipelines=found, total_size=len(found)))


def upload_version(
    server: Kubeflow, *, query: dict[str, str], body: bytes, headers: Any, **_: Any
) -> Any:
    if query["pipelineid"] not in server.pipelines:
        raise Refused(404, "no such pipeline")
    if any(each.display_name == query["name"] for each in server.versions.values()):
        raise Refused(409, f"{query['name']} exists")
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    (part,) = BytesParser().parsebytes(head + body).get_payload()
    documents = list(yaml.safe_load_all(part.get_payload(decode=True)))
    try:
        json_format.ParseDict(documents[0], schema.PipelineSpec())
        json_format.ParseDict(documents[1], schema.PlatformSpec())
    except json_format.ParseError as error:
        raise Refused(400, f"no pipeline: {error}") from error
    made = api.V2beta1PipelineVersion(
        pipeline_id=query["pipelineid"],
        pipeline_version_id=server.id("version"),
        display_name=query["name"],
        name=query["name"],
        created_at=BEGAN,
        pipeline_spec={"pipeline_spec": documents[0], "platform_spec": documents[1]},
    )
    server.versions[made.pipeline_version_id] = made
    server.packages[made.pipeline_version_id] = documents
    return write(made)


def list_versions(server: Kubeflow, pipeline: str, *, query: dict[str, str], **_: Any) -> Any:
    mine = [each for each in server.versions.values() if each.pipeline_id == pipeline]
    found = filtered(mine, query)
    return write(api.V2beta1ListPipelineVersionsResponse(pipeline_versions=found))


# --- experiments and runs


def create_experiment(server: Kubeflow, *, body: bytes, **_: Any) -> Any:
    made = read(body, "V2beta1Experiment")
    made.experiment_id, made.created_at = server.id("experiment"), BEGAN
    server.experiments[made.experiment_id] = made
    return write(made)


def list_experiments(server: Kubeflow, *, query: dict[str, str], **_: Any) -> Any:
    found = filtered(list(server.experiments.values()), query)
    return write(api.V2beta1ListExperimentsResponse(experiments=found))


def accept(server: Kubeflow, made: Any) -> None:
    """Refuse what KFP's server refuses of a run and of a schedule."""
    if made.experiment_id not in server.experiments:
        raise Refused(404, "no such experiment")
    version = made.pipeline_version_reference.pipeline_version_id
    if version not in server.versions:
        raise Refused(404, "no such version")
    defined = server.packages[version][0]["root"]["inputDefinitions"]["parameters"]
    unknown = set(made.runtime_config.parameters) - set(defined)
    if unknown:
        raise Refused(400, f"parameters {unknown} are not in the pipeline")


def create_run(server: Kubeflow, *, body: bytes, **_: Any) -> Any:
    made = read(body, "V2beta1Run")
    accept(server, made)
    made.run_id, made.created_at, made.state = server.id("run"), BEGAN, "PENDING"
    server.runs[made.run_id] = made
    return write(made)


def get_run(server: Kubeflow, run_id: str, **_: Any) -> Any:
    if run_id not in server.runs:
        raise Refused(404, f"run {run_id} not found")
    run = server.runs[run_id]
    run.state, nodes = server.course(next(server._looks))
    details = [
        api.V2beta1PipelineTaskDetail(
            run_id=run_id,
            **{
                **node,
                "child_tasks": [
                    api.PipelineTaskDetailChildTask(**each) for each in node.get("child_tasks", [])
                ],
                "error": api.GoogleRpcStatus(code=2, message=node["error"])
                if node.get("error")
                else None,
            },
        )
        for node in nodes
    ]
    run.run_details = api.V2beta1RunDetails(task_details=details)
    if run.state in ("SUCCEEDED", "FAILED"):
        run.finished_at = BEGAN + timedelta(seconds=90)
    return write(run)


def list_runs(server: Kubeflow, *, query: dict[str, str], **_: Any) -> Any:
    assert query["sort_by"] == "created_at desc"
    found = [each for each in server.runs.values() if each.experiment_id == query["experiment_id"]]
    return write(api.V2beta1ListRunsResponse(runs=found[::-1][: int(query["page_size"])]))


# --- schedules


def create_schedule(server: Kubeflow, *, body: bytes, **_: Any) -> Any:
    made = read(body, "V2beta1RecurringRun")
    accept(server, made)
    if not 1 <= int(made.max_concurrency) <= 10:
        raise Refused(400, "max concurrency")
    made.recurring_run_id, made.created_at = server.id("schedule"), BEGAN
    server.schedules[made.recurring_run_id] = made
    return set_status(server, made.recurring_run_id, str(made.mode).lower())


def set_status(server: Kubeflow, schedule: str, verb: str, **_: Any) -> Any:
    if schedule not in server.schedules:
        raise Refused(404, "no such schedule")
    found = server.schedules[schedule]
    found.mode, found.status = verb.upper(), f"{verb.upper()}D"
    enabled = sum(each.mode == "ENABLE" for each in server.schedules.values())
    server.most_enabled = max(server.most_enabled, enabled)
    return write(found)


def delete_schedule(server: Kubeflow, schedule: str, **_: Any) -> Any:
    if server.schedules.pop(schedule, None) is None:
        raise Refused(404, "no such schedule")
    return {}


def list_schedules(server: Kubeflow, *, query: dict[str, str], **_: Any) -> Any:
    """One a page, so that pages are turned."""
    mine = [s for s in server.schedules.values() if s.experiment_id == query["experiment_id"]]
    at = int(query.get("page_token") or 0)
    following = str(at + 1) if at + 1 < len(mine) else None
    page = api.V2beta1ListRecurringRunsResponse(
        recurring_runs=mine[at : at + 1], next_page_token=following, total_size=len(mine)
    )
    return write(page)


# --- health, Kubernetes, MLflow


def healthz(server: Kubeflow, **_: Any) -> Any:
    return write(api.V2beta1GetHealthzResponse(multi_user=False))


def old_healthz(server: Kubeflow, **_: Any) -> Any:
    return {"commit_sha": "0", "tag_name": server.tag, "multi_user": False}


def get_pod(server: Kubeflow, name: str, **_: Any) -> Any:
    if name not in server.pods:
        raise Refused(404, "no such pod")
    return server.pods[name]


def get_kept(server: Kubeflow, name: str, **_: Any) -> Any:
    if name not in server.kept:
        raise Refused(404, f"no {name}")
    return {"metadata": {"name": name}, "data": server.kept[name]}


def get_log(server: Kubeflow, name: str, **_: Any) -> str:
    return server.logs.get(name, "")


def review(server: Kubeflow, *, body: bytes, **_: Any) -> Any:
    """Of whoever asks, or of the user that is named."""
    spec = json.loads(body)["spec"]
    wanted = spec["resourceAttributes"]
    kind = "/".join(filter(None, (wanted["resource"], wanted.get("subresource"))))
    assert wanted.get("group", "") == ("trainer.kubeflow.org" if kind == "trainjobs" else "")
    who = spec.get("user", "").rpartition(":")[2]
    allowed = server.may and f"{who} {wanted['verb']} {kind}".strip() not in server.denied
    return json.loads(body) | {"status": {"allowed": allowed, "reason": ""}}


def mlflow(server: Kubeflow, **_: Any) -> Any:
    return {"experiments": []}


def hook(server: Kubeflow, *, body: bytes, **_: Any) -> Any:
    server.notices.append(json.loads(body))
    return {}


V2, AUTHORIZATION = "/apis/v2beta1", "/apis/authorization.k8s.io/v1"
POD = r"GET /api/v1/namespaces/\w+/pods/([\w-]+)"
ROUTES: tuple[tuple[str, Callable[..., Any]], ...] = (
    (f"GET {V2}/pipelines", list_pipelines),
    (f"POST {V2}/pipelines", create_pipeline),
    (f"POST {V2}/pipelines/upload_version", upload_version),
    (rf"GET {V2}/pipelines/([\w-]+)/versions", list_versions),
    (f"GET {V2}/experiments", list_experiments),
    (f"POST {V2}/experiments", create_experiment),
    (f"GET {V2}/runs", list_runs),
    (f"POST {V2}/runs", create_run),
    (rf"GET {V2}/runs/([\w-]+)", get_run),
    (f"GET {V2}/recurringruns", list_schedules),
    (f"POST {V2}/recurringruns", create_schedule),
    (rf"POST {V2}/recurringruns/([\w-]+):(enable|disable)", set_status),
    (rf"DELETE {V2}/recurringruns/([\w-]+)", delete_schedule),
    (f"GET {V2}/healthz", healthz),
    ("GET /apis/v1beta1/healthz", old_healthz),
    (POD, get_pod),
    (f"{POD}/log", get_log),
    (r"GET /api/v1/namespaces/\w+/((?:secrets|configmaps)/[\w-]+)", get_kept),
    (f"POST {AUTHORIZATION}/selfsubjectaccessreviews", review),
    (rf"POST {AUTHORIZATION}/namespaces/\w+/localsubjectaccessreviews", review),
    ("GET /api/2.0/mlflow/experiments/search", mlflow),
    ("POST /hook", hook),
)


def serving() -> Iterator[Kubeflow]:
    """A server for a test."""
    server = Kubeflow()
    yield server
    server.close()
    assert server.broken == []
