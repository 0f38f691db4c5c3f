"""What Kubernetes itself says: why a pod failed or waits, and what we may do there.

KFP's answers name the pod of a task and its state, seldom a reason. Where this machine reaches the
cluster (a kubeconfig, or from inside of a pod), the reason is asked for; where not, it stays empty.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from wentu.errors import InputError
from wentu.language import pick
from wentu.orchestrate.connection import connect

PATIENCE = (3, 10)
"""Seconds for a connection, and for an answer."""
LINES = 3
"""Of a failed pod's log."""
FINE = ("ContainerCreating", "PodInitializing", "Completed")


@cache
def api() -> Any | None:
    """The connection to Kubernetes; None where there is none to be had."""
    with suppress(ImportError, InputError):
        return connect()[0]
    return None


def reason(pod: str, namespace: str) -> str:
    """Why a pod failed or does not start, in a line; empty where nothing is known of it."""
    connection = api()
    if connection is None or not pod:
        return ""
    from kubernetes import client
    from urllib3.exceptions import HTTPError

    core = client.CoreV1Api(connection)
    try:
        found = core.read_namespaced_pod(pod, namespace, _request_timeout=PATIENCE)
        said = list(_reasons(found))
        if any(state.terminated for state in _states(found)):
            log = core.read_namespaced_pod_log(
                pod, namespace, container="main", tail_lines=20, _request_timeout=PATIENCE
            )
            lines = [line.strip() for line in log.splitlines() if line.strip()]
            said += lines[-LINES:]
    except (client.ApiException, HTTPError):
        return ""
    return "; ".join(dict.fromkeys(said))


def _states(pod: Any) -> list[Any]:
    return [each.state for each in pod.status.container_statuses or () if each.state]


def _reasons(pod: Any) -> Iterator[str]:
    if pod.status.reason:  # Evicted, DeadlineExceeded
        yield _joined(pod.status.reason, pod.status.message)
    for state in _states(pod):
        ended, waiting = state.terminated, state.waiting
        if ended and ended.exit_code:
            yield _joined(f"{ended.reason} (exit {ended.exit_code})", ended.message)
        elif waiting and waiting.reason not in FINE:  # ImagePullBackOff, a secret that is missing
            yield _joined(waiting.reason, waiting.message)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            yield _joined(condition.reason, condition.message)


def _joined(reason: str | None, message: str | None) -> str:
    text = " ".join((message or "").split())
    return f"{reason}: {text}" if text else str(reason)


def variables(
    secrets: Mapping[str, Mapping[str, str]], maps: Mapping[str, Mapping[str, str]], namespace: str
) -> tuple[dict[str, str] | None, str]:
    """(environment of a task, what is missing) from the secrets and config maps of a profile.

    None where we may not look, and why. Of several that are missing the first that has keys of an
    object store is named; others may be.
    """
    connection = api()
    if connection is None:
        return None, pick("no kubeconfig", "没有 kubeconfig")
    from kubernetes import client
    from urllib3.exceptions import HTTPError

    core = client.CoreV1Api(connection)
    found: dict[str, str] = {}
    missing = ""
    for kind, named in (("Secret", secrets), ("ConfigMap", maps)):
        for name, keys in named.items():
            try:
                data = _data(core, kind, name, namespace)
                wanted = {variable: data[key] for key, variable in keys.items() if key in data}
                if kind == "Secret":  # its other keys may be anything
                    wanted = {v: base64.b64decode(text).decode() for v, text in wanted.items()}
            except client.ApiException as error:
                if error.status != 404:
                    return None, f"{kind} {name}: {error.status} {error.reason}"
                if any(variable.startswith("AWS_") for variable in keys.values()):
                    missing = missing or f"{kind} {name}"
                continue
            except HTTPError as error:
                return None, " ".join(str(error).split())[:200]
            except UnicodeDecodeError:
                return None, pick(f"{kind} {name} is no text", f"{kind} {name} 不是文本")
            found |= wanted
    return found, missing


def _data(core: Any, kind: str, name: str, namespace: str) -> Mapping[str, str]:
    """What a secret or a config map holds."""
    read = core.read_namespaced_secret if kind == "Secret" else core.read_namespaced_config_map
    return read(name, namespace, _request_timeout=PATIENCE).data or {}


def lacking(
    rights: Mapping[tuple[str, str], Iterable[str]], namespace: str, account: str = ""
) -> tuple[list[str] | None, str]:
    """(which of ``rights`` are denied, why not known); None where nobody can be asked.

    Args:
        rights: verbs by (group, resource), as a Role grants them; pods/log is a resource.
        account: the service account that they are asked for, which wants a right of its own; else
            whoever we are.
    """
    connection = api()
    if connection is None:
        return None, pick("no kubeconfig", "没有 kubeconfig")
    from kubernetes import client
    from urllib3.exceptions import HTTPError

    authorization = client.AuthorizationV1Api(connection)
    denied = []
    try:
        for (group, resource), verbs in rights.items():
            kind, _, part = resource.partition("/")
            for verb in verbs:
                wanted = client.V1ResourceAttributes(
                    verb=verb, group=group, resource=kind, subresource=part, namespace=namespace
                )
                if not _allowed(authorization, wanted, account):
                    denied.append(f"{verb} {resource}")
    except (client.ApiException, HTTPError) as error:
        return None, " ".join(str(error).split())[:200]
    return denied, ""


def _allowed(authorization: Any, wanted: Any, account: str) -> bool:
    from kubernetes import client

    if not account:
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=wanted)
        said = authorization.create_self_subject_access_review(
            client.V1SelfSubjectAccessReview(spec=spec), _request_timeout=PATIENCE
        )
        return bool(said.status.allowed)
    namespace = wanted.namespace
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    spec = client.V1SubjectAccessReviewSpec(
        resource_attributes=wanted,
        user=f"system:serviceaccount:{namespace}:{account}",
        groups=[*groups, "system:authenticated"],
    )
    said = authorization.create_namespaced_local_subject_access_review(
        namespace, client.V1LocalSubjectAccessReview(spec=spec), _request_timeout=PATIENCE
    )
    return bool(said.status.allowed)
