"""Nothing phones home: the whole demo in a network namespace without any network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.proofs.conftest import command

pytestmark = pytest.mark.heavy


def test_the_demo_runs_without_any_network(tmp_path: Path) -> None:
    """In that namespace not even the loopback is up: any connection fails at once.

    Failed attempts count too: strace would show a connect() to anything but a local socket.
    """
    tools = [shutil.which("unshare"), shutil.which("strace")]
    if not tools[0] or subprocess.run([tools[0], "-n", "true"], check=False).returncode:
        pytest.skip("needs util-linux's unshare and the right to make a network namespace")
    trace = tmp_path / "trace"
    watched = [
        tools[1],
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-e",
        "trace=connect,sendto",
        "-o",
        str(trace),
    ]
    words = [tools[0], "-n", *(watched if tools[1] else [])]
    words += command("demo", "--folder", str(tmp_path / "demo"), "--epochs", "1")
    # Libraries keep quiet where these are set: what users see is how it is without them.
    quiet = ("CI", "GITHUB_ACTIONS", "DO_NOT_TRACK")
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in quiet and "TELEMETRY" not in name
    }
    env["LANG"] = "C.UTF-8"
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("Search:") == 3
    if tools[1]:
        lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
        assert lines, "strace saw nothing"
        assert not [line for line in lines if "AF_INET" in line]
