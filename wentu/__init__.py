"""wentu (文图): pictures and captions in, a proven Chinese-CLIP and a search engine out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wentu.clip.encoder import Encoder
    from wentu.orchestrate.local import Outcome

__version__ = "0.1.0"

# Nothing phones home. ONNX Runtime's wheels do since 1.29, from the moment of their import, so
# this stands before any of our modules can import them; who sets a variable otherwise decides.
for _name in (
    "ORT_DISABLE_TELEMETRY",
    "MLFLOW_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
):
    os.environ.setdefault(_name, "1")


def load(name: str) -> Encoder:
    """A model that encodes texts and pictures.

    Args:
        name: a model bundle or a store (its current release), as ``wentu run`` makes them; a
            checkpoint file (ours or Chinese-CLIP's, ``.pt``); or a name such as ``ViT-B-16``
            whose weights are on this machine.
    """
    from wentu.clip.encoder import load_encoder

    return load_encoder(name)


def run(
    pictures: str, captions: str | None = None, *, preset: str | None = None, **options: Any
) -> Outcome:
    """The whole pipeline on a collection: ``wentu run`` from Python.

    Args:
        pictures: their folder.
        captions: files (one a line) or a folder of them, "names", "folder", or "none".
        preset: a complete named run, such as "demo".
        options: those of ``wentu run``, by their names in Python: ``epochs=3``.
    """
    from wentu.commands.options import console
    from wentu.commands.run import execute
    from wentu.orchestrate.parameters import complete

    given = {"pictures": pictures, "captions": captions, **options}
    return execute(complete(given, preset), console())
