"""`wentu promote`: the stage; and ``--anyway RUN``, the candidate that a verdict held back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from wentu.clip.bundle import bundle_digest
from wentu.commands import stage
from wentu.commands.compare import evaluation_of, find
from wentu.commands.options import console as make_console
from wentu.commands.options import make_option
from wentu.commands.rollback import refresh_values
from wentu.errors import InputError
from wentu.language import pick
from wentu.settings import store_place
from wentu.stages.promote import evaluation_key
from wentu.store import Store


def command() -> click.Command:
    """The stage's command, whose inputs are not needed where a run is named."""
    made = stage.command("promote")
    plain = made.callback
    assert plain is not None
    needed = [each for each in made.params if each.required]
    for each in needed:
        each.required = False
    text = pick(
        "Release the candidate of this run although it was not promoted; the reason is kept.",
        "发布该次运行中未被采用的候选模型；原因会记录下来。",
    )

    def call(anyway: str | None, **given: Any) -> None:
        if anyway:
            accept(Store(given["store"] or store_place()), anyway)
            return
        missing = [each for each in needed if given[str(each.name)] is None]
        if missing:
            raise click.MissingParameter(param=missing[0], ctx=click.get_current_context())
        plain(**given)

    made.callback = call
    made.params.insert(0, make_option("anyway", str, "", text))
    return made


def accept(store: Store, name: str) -> None:
    """Make the candidate of a run the current model, and embed the collection with it.

    What was measured of it is left in the store, where the stage finds it: the run that releases it
    evaluates nothing.

    Raises InputError where the run trained none, or where it was released already.
    """
    from wentu.commands.run import execute
    from wentu.orchestrate.local import runs

    run = find(runs(store), name)
    evaluation = evaluation_of(store, run)
    verdict, candidate = evaluation.get("verdict"), str(evaluation.get("candidate") or "")
    bundle = bundle_of(store, candidate)
    if bundle is None or verdict is None:
        raise InputError(
            f"the run {run['run_id']} trained no candidate that could be promoted.",
            f"运行 {run['run_id']} 没有训练出可以发布的候选模型。",
        )
    released = {release.model for _, release in store.history()}
    if candidate in released:
        raise InputError(
            f"the candidate of {run['run_id']} was released already; to go back to it: wentu "
            "rollback.",
            f"{run['run_id']} 的候选模型已经发布过；要回到它请用 wentu rollback。",
        )
    note = f"promoted anyway, from {run['run_id']}: {verdict['reason']}"
    values = refresh_values(store) | {"model": str(bundle), "note": note}
    key = evaluation_key(candidate)
    store.storage.write(key, json.dumps(evaluation, ensure_ascii=False).encode())
    execute(values, make_console())
    # Kept where the run failed: it is for the next attempt. Now it stands in the release.
    store.storage.delete([key])


def bundle_of(store: Store, digest: str) -> Path | None:
    """The exported bundle of that digest, in whichever run it was made: later ones reuse it."""
    folders = sorted((store.storage.home / "runs").glob("*/artifacts/*/export-onnx/bundle"))
    return next((each for each in reversed(folders) if bundle_digest(each) == digest), None)
