"""Notices by webhook: a JSON object POSTed to WENTU_WEBHOOK when a person may want to know.

    event      promotion (another model is current), rejection (a trained one is not), failure
    sentence   what happened, in words
    run, stage, release, metrics, link    as far as they are known; link: the run's page in MLflow,
                                          or in Kubeflow where its last stage could not say it

A notice never fails or delays a run: it is waited for a few seconds, and where it does not get
through a line in the log says so. It carries no secret; the address, which may, is never logged.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

PATIENCE = 5.0
"""Seconds that a notice may take."""


def send(
    event: str,
    sentence: str,
    *,
    stage: str = "",
    release: str = "",
    metrics: Mapping[str, float] | None = None,
    link: str = "",
    run: str = "",
) -> None:
    """Tell the webhook, if one is named; returns within PATIENCE, whatever happens.

    Args:
        run: id of the pipeline run; empty: the one that this process is a stage of.
    """
    address = os.environ.get("WENTU_WEBHOOK", "").strip()
    if not address:
        return
    notice = {
        "event": event,
        "sentence": without_credentials(sentence),
        "run": run or os.environ.get("WENTU_RUN_ID", ""),
        "stage": stage,
        "release": release,
        "metrics": dict(metrics or {}),
        "link": without_credentials(link),
    }
    wrong = ["no answer in time"]
    # A thread: looking up a host's name has no time limit of its own.
    sending = threading.Thread(target=lambda: wrong.append(post(address, notice)), daemon=True)
    sending.start()
    sending.join(PATIENCE)
    if wrong[-1]:
        print(f"the notice of a {event} did not get through: {wrong[-1]}", file=sys.stderr)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address than the one that was named gets neither notice nor password."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(address: str, notice: Mapping[str, Any]) -> str:
    """Send a notice; what went wrong, in words without the address, or nothing."""
    try:
        if urlsplit(address).scheme not in ("http", "https"):
            return "WENTU_WEBHOOK begins with neither https:// nor http://"
        bare, access = apart(address)
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "wentu"}
        data = json.dumps(notice, ensure_ascii=False).encode("utf-8", "replace")
        request = urllib.request.Request(bare, data, headers | access)
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=PATIENCE):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"status {error.code}"
    except Exception as error:  # whatever it is, the run is more important
        return type(error).__name__


def apart(address: str) -> tuple[str, dict[str, str]]:
    """An address without name and password, and the header that brings them instead."""
    parts = urlsplit(address)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.username is None:
        return bare, {}
    said = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return bare, {"Authorization": "Basic " + base64.b64encode(said).decode()}


def without_credentials(text: str) -> str:
    """A text whose addresses have lost the name and password before their host."""
    return re.sub(r"(://)[^/\s@]*@", r"\1", text)
