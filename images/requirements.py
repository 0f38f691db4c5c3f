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

GPU = {"onnxruntime": "onnxruntime-gpu[cuda,cudnn]", "faiss-cpu": "faiss-gpu-cu12"}
"""What takes whose place in an image for GPUs; both of a pair install the same module."""


def requirements(project: dict[str, list[str]], extras: list[str], gpu: bool) -> list[str]:
    """The requirements of wentu and its extras, sorted, each once."""
    found = set(project["dependencies"])
    for extra in extras:
        found |= set(project["optional-dependencies"][extra])  # type: ignore[call-overload]
    found = {text for text in found if not text.startswith("wentu[")}  # named by the caller too
    swapped = {}
    for text in found:
        match = re.match(r"[\w.-]+", text)
        assert match, text
        name = match.group()
        swapped[text] = GPU[name] + text[len(name) :] if gpu and name in GPU else text
    return sorted(swapped.values())


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [word for word in sys.argv[1:] if word != "--gpu"]
    print("\n".join(requirements(project, extras, "--gpu" in sys.argv)))
