"""Talking to Kubeflow Pipelines: the same pipeline.yaml, filled in, uploaded once, and run there.

A version of the pipeline is named by the digest of what was uploaded, so that equal runs share one
and nothing is uploaded twice. Caching is per task, as compiled: KFP ignores ``enable_caching`` for
a version.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wentu import __version__
from wentu.captions import NO_FILES
from wentu.clip.checkpoint import is_name
from wentu.clip.model import SCRATCH
from wentu.errors import InputError, ServiceError
from wentu.formats import digest_of
from wentu.orchestrate.filling import check, check_parameters, compiled, fill, spelled
from wentu.orchestrate.parameters import packed
from wentu.orchestrate.profile import Profile
from wentu.storage import is_remote

PIPELINE = EXPERIMENT = "wentu"
ENDPOINT, TOKEN = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_TOKEN"
POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
"""Where a pod of a multi-user Kubeflow finds its own token."""
PAGE = 100
EQUALS = 1
"""Of filter.proto; kfp's client sends the number, too."""


# --- what is sent -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A run, complete and checked, before anything of it is sent."""

    package: str
    """The filled pipeline.yaml: two YAML documents."""
    parameters: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Name of the pipeline's version: equal for equal packages."""
        return f"{__version__}-{digest_of(self.package)[:12]}"


def prepare(
    values: Mapping[str, Any], profile: Profile, *, gpus: int = 0, image: str = ""
) -> Submission:
    """The submission of a run with complete ``values`` (see ``parameters.complete``)."""
    need_remote(values)
    nodes = int(values.get("nodes", 1))
    filled, platform = fill(compiled(), profile, gpus=gpus, nodes=nodes, image=image)
    given = packed(values)
    check_parameters(filled, given)
    check(filled, platform)
    return Submission(package=spelled(filled, platform), parameters=given)


def need_remote(values: Mapping[str, Any]) -> None:
    """Refuse places that the cluster's machines cannot see."""
    places = {name: [str(values[name])] for name in ("pictures", "store")}
    if values["captions"] not in NO_FILES:
        places["captions"] = str(values["captions"]).splitlines()
    model = str(values.get("model") or "").removeprefix(SCRATCH)
    for name, place in (("model", model), *((n, values.get(n)) for n in ("suite", "teacher"))):
        if place and not is_name(str(place)):
            places[name] = [str(place)]
    for name, named in places.items():
        for place in named:
            if not is_remote(place):
                raise InputError(
                    f"--{name} {place}: the cluster cannot see a file of this machine; put it into "
                    "a bucket and give s3://bucket/….",
                    f"--{name} {place}：集群看不到本机文件；请放入桶中并给出 s3://桶/…。",
                )


# --- the cluster ------------------------------------------------------------------------------


class PipelinesServer:
    """A Kubeflow Pipelines server.

    host: else KF_PIPELINES_ENDPOINT; inside of a pod neither is needed. namespace: of the user,
    where Kubeflow has several. A token comes from KF_PIPELINES_TOKEN, or from the pod.
    """

    def __init__(self, host: str = "", namespace: str = "") -> None:
        self.host = host or os.environ.get(ENDPOINT, "")
        self.namespace = namespace or None
        if not self.host and not os.environ.get("KUBERNETES_SERVICE_HOST"):
            raise InputError(
                f"name the Kubeflow Pipelines server: --host URL, or {ENDPOINT}.",
                f"请指定 Kubeflow Pipelines 服务器：--host 地址，或 {ENDPOINT}。",
            )
        if self.host and not self.host.startswith(("http://", "https://")):
            raise InputError(
                f"--host {self.host}: begin with http:// or https://.",
                f"--host {self.host}：应以 http:// 或 https:// 开头。",
            )
        with self._asked():
            self._client = self._connect()
            self.namespace = self.namespace or self._client.get_user_namespace() or None

    def _connect(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kfp's own, at import and of its first version
            from kfp import Client
            from kfp.client import ServiceAccountTokenVolumeCredentials as OfPod

            class Quick(Client):  # type: ignore[misc]
                """Asks once whether anybody is there: kfp asks five times in half a minute."""

                def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
                    return self._healthz_api.healthz_service_get_healthz()

                def set_user_namespace(self, namespace: str) -> None:
                    """Of this process only: kfp's own writes a file into the home folder."""
                    self._context_setting["namespace"] = namespace

            credentials = OfPod() if POD_TOKEN.exists() else None
            return Quick(
                host=self.host or None,
                existing_token=os.environ.get(TOKEN) or None,
                credentials=credentials,
            )

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Say in a sentence what the server refused; kfp's own words are not printed."""
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except ApiException as error:
            raise refused(self.host, error.status or 0, message_of(error)) from None
        except HTTPError as error:
            why = str(getattr(error, "reason", error)).rpartition(": ")[2].rstrip(".)'")[:200]
            raise ServiceError(
                f"{self.host}: Kubeflow Pipelines does not answer ({why}); is it the right "
                "address, and the port forwarded?",
                f"{self.host}：Kubeflow Pipelines 没有响应({why})；请检查地址与端口转发。",
            ) from None

    # --- runs ----------------------------------------------------------------------------------

    def upload(self, submission: Submission) -> tuple[str, str]:
        """(pipeline id, version id) of the submission's package; uploaded unless it is there."""
        with self._asked():
            pipeline = self._pipeline()
            found = self._version(pipeline, submission.version)
            if found:
                return pipeline, found
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "pipeline.yaml"
                path.write_text(submission.package, encoding="utf-8")
                made = self._client.upload_pipeline_version(
                    str(path), submission.version, pipeline_id=pipeline
                )
            return pipeline, str(made.pipeline_version_id)

    def _pipeline(self) -> str:
        from kfp_server_api import V2beta1Pipeline

        listed = self._client.list_pipelines(
            page_size=PAGE, filter=named(PIPELINE), namespace=self.namespace
        )
        for each in listed.pipelines or ():
            if each.display_name == PIPELINE:
                return str(each.pipeline_id)
        made = self._client.pipelines.pipeline_service_create_pipeline(
            V2beta1Pipeline(display_name=PIPELINE, name=PIPELINE, namespace=self.namespace)
        )
        return str(made.pipeline_id)

    def _version(self, pipeline: str, name: str) -> str:
        listed = self._client.list_pipeline_versions(pipeline, page_size=PAGE, filter=named(name))
        versions = listed.pipeline_versions or ()
        return next((str(v.pipeline_version_id) for v in versions if v.display_name == name), "")

    def experiment(self) -> str:
        """The id of the experiment that runs are kept under; made where there is none."""
        with self._asked():
            made = self._client.create_experiment(EXPERIMENT, namespace=self.namespace)
            return str(made.experiment_id)

    def submit(self, submission: Submission, name: str = "") -> str:
        """Start a run; returns its id."""
        pipeline, version = self.upload(submission)
        experiment = self.experiment()
        with self._asked():
            run = self._client.run_pipeline(
                experiment,
                name or time.strftime("wentu-%Y%m%d-%H%M%S"),
                params=dict(submission.parameters),
                pipeline_id=pipeline,
                version_id=version,
            )
            return str(run.run_id)

    def run(self, run_id: str) -> Any:
        """A run (V2beta1Run) with the details of its tasks."""
        with self._asked():
            return self._client.get_run(run_id)

    def runs(self, count: int = 20) -> list[Any]:
        """The newest runs of our experiment, newest first."""
        experiment = self.experiment()
        with self._asked():
            listed = self._client.list_runs(
                page_size=count,
                sort_by="created_at desc",
                experiment_id=experiment,
                namespace=self.namespace,
            )
            return list(listed.runs or ())

    def named_run(self, name: str) -> str:
        """The id of the newest run that is called so, among the newest; empty where none is."""
        found = (run.run_id for run in self.runs(PAGE) if run.display_name == name)
        return str(next(found, ""))

    def url(self, run_id: str) -> str:
        """The page of a run."""
        return f"{self.host.rstrip('/')}/#/runs/details/{run_id}" if self.host else run_id

    # --- schedules -----------------------------------------------------------------------------

    def schedules(self) -> list[Any]:
        """Every schedule of our experiment (V2beta1RecurringRun)."""
        experiment = self.experiment()
        found: list[Any] = []
        token = ""
        while True:
            with self._asked():
                page = self._client.list_recurring_runs(
                    page_token=token, page_size=PAGE, experiment_id=experiment
                )
            found += page.recurring_runs or ()
            token = page.next_page_token or ""
            if not token:
                return found

    def schedule(
        self, submission: Submission, name: str, cron: str, description: str, reference: Any
    ) -> str:
        """Make a schedule, enabled: one run at a time, none made up for; returns its id."""
        pipeline, version = reference
        experiment = self.experiment()
        with self._asked():
            made = self._client.create_recurring_run(
                experiment,
                name,
                description=description,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                params=dict(submission.parameters),
                pipeline_id=pipeline,
                version_id=version,
            )
            return str(made.recurring_run_id)

    def set_enabled(self, schedule: str, enabled: bool) -> None:
        """Let a schedule fire, or not."""
        with self._asked():
            if enabled:
                self._client.enable_recurring_run(schedule)
            else:
                self._client.disable_recurring_run(schedule)

    def delete_schedule(self, schedule: str) -> None:
        """Remove a schedule; runs that it started stay."""
        with self._asked():
            self._client.delete_recurring_run(schedule)


def named(name: str) -> str:
    """A filter of KFP's: what is called so."""
    predicate = {"operation": EQUALS, "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def message_of(error: Any) -> str:
    """What the server said, without its headers."""
    try:
        said = json.loads(error.body or "{}")
    except ValueError:
        said = {}
    text = said.get("message") or said.get("error") or error.reason or ""
    return str(text).strip().rstrip(".").replace("\n", " ")[:300]


def refused(host: str, status: int, why: str) -> ServiceError:
    """What an answer that is no success means to a user."""
    if status in (401, 403):
        return ServiceError(
            f"{host}: Kubeflow Pipelines refuses access ({status}: {why}); put a token into "
            f"{TOKEN}, and name your namespace with --namespace.",
            f"{host}：Kubeflow Pipelines 拒绝访问({status}:{why})；请在 {TOKEN} 中给出令牌，"
            "并用 --namespace 指定命名空间。",
        )
    if status == 404:
        return ServiceError(
            f"{host}: not found ({why or 404}); is this the address of Kubeflow Pipelines?",
            f"{host}：未找到({why or 404})；这是 Kubeflow Pipelines 的地址吗？",
        )
    return ServiceError(
        f"{host}: Kubeflow Pipelines did not do it ({status}: {why}).",
        f"{host}：Kubeflow Pipelines 未能完成请求({status}:{why})。",
    )
