"""Is anybody there? Quick questions over HTTP, and under other settings than this process's own."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from urllib.parse import urlsplit

from wentu.notices import apart

PATIENCE = 5.0
"""Seconds for an answer."""


def ask(url: str, *, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """(status, the start of the answer or what went wrong); 0 where nobody answered."""
    try:
        bare, access = apart(url)
        request = urllib.request.Request(bare, headers={**access, **(headers or {})})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return int(answer.status), answer.read(2000).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode("utf-8", "replace")
        return error.code, " ".join(said.split())
    except (OSError, ValueError) as error:
        return 0, str(getattr(error, "reason", error))
    except HTTPException as error:  # its words may be the whole address
        return 0, type(error).__name__


def silent(endpoint: str | None) -> str:
    """Why nobody is there, before a client that tries again for a minute; empty where one is."""
    if not endpoint:
        return ""
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=PATIENCE).close()
    except OSError as error:
        return f"{endpoint}: {error.strerror or error}"
    return ""


@contextmanager
def settings(variables: Mapping[str, str]) -> Iterator[None]:
    """This process with other settings for the object store, and afterwards with its own again."""
    from wentu.storage.s3 import client

    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(variables)
    client.cache_clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        client.cache_clear()
