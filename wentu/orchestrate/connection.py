"""The one way to Kubernetes: the cluster that this pod runs in, else that of the kubeconfig."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from wentu.errors import InputError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def connect() -> tuple[Any, str]:
    """(kubernetes' ApiClient, the namespace that is ours there); InputError where none is known.

    Nothing is asked of the server yet, and what fails is not asked again: whoever asks knows how
    long it is worth waiting.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, at import
        from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False
    try:
        try:
            config.load_incluster_config(settings)
            namespace = (ACCOUNT / "namespace").read_text("utf-8").strip()
        except config.ConfigException:
            # As it is now: the library's own default is what it was when it was imported.
            file = os.environ.get("KUBECONFIG")
            config.load_kube_config(config_file=file, client_configuration=settings)
            chosen = config.list_kube_config_contexts(file)[1]["context"]
            namespace = chosen.get("namespace") or "default"
    except (config.ConfigException, OSError) as error:
        raise InputError(
            f"no Kubernetes cluster is within reach ({error}); use `wentu submit`.",
            f"无法访问 Kubernetes 集群({error})；请使用 wentu submit。",
        ) from None
    return client.ApiClient(settings), namespace
