"""Print what an image installs below wentu itself: ``python requirements.py [--gpu] EXTRA …``.

The extras' requirements are read from pyproject.toml, so that an image's layer of dependencies
depends on them alone and is reused when only our sources changed. Runs in the build, before
anything is installed; hence the standard library only.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

GPU = {"onnxruntime": "onnxruntime-gpu[cuda,cudnn]", "faiss-cpu": "faiss-gpu-cu12"}
"""What takes whose place in an image for GPUs; both of a pair install the same module."""


def requirements(project: dict[str, Any], extras: list[str], gpu: bool) -> list[str]:
    """The requirements of wentu and its extras, those of extras within extras too, each once."""
    found, waiting = set(project["dependencies"]), list(extras)
    while waiting:
        for text in project["optional-dependencies"][waiting.pop()]:
            inner = re.fullmatch(r"wentu\[(.+)\]", text)
            waiting += inner.group(1).split(",") if inner else []
            found |= set() if inner else {text}
    return sorted(swapped(text) if gpu else text for text in found)


def swapped(text: str) -> str:
    """The same requirement in its build for GPUs, where it has one."""
    name = re.split(r"[^\w.-]", text)[0]
    return GPU.get(name, name) + text[len(name) :]


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [word for word in sys.argv[1:] if word != "--gpu"]
    print("\n".join(requirements(project, extras, "--gpu" in sys.argv)))
