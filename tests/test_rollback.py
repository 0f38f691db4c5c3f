"""Rolling back: the model before, never the one just left, and nothing where it cannot go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wentu import cli
from wentu.clip.bundle import bundle_digest
from wentu.commands import rollback
from wentu.errors import FormatError, InputError
from wentu.formats import FORMAT
from wentu.orchestrate.local import runs
from wentu.store import Release, Store


@pytest.fixture(autouse=True)
def _untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_TRACKING", "off")


@pytest.fixture
def vault(store: str) -> Store:
    """A copy of the store of ``built``, with its one release."""
    return Store(store)


def current(store: Store) -> tuple[int, str]:
    """(number of the pointer, model)"""
    found = store.current()
    assert found is not None
    return found[0].number, found[1].model


def release(store: Store, built: Any, tmp_path: Path, epoch: int, pictures: int = 24) -> Release:
    """One more model becomes current; it differs in a number of its bundle.json."""
    folder = tmp_path / f"model-{epoch}"
    if not folder.exists():
        shutil.copytree(built.winner, folder)
        info = json.loads((folder / "bundle.json").read_text("utf-8"))
        (folder / "bundle.json").unlink()
        (folder / "bundle.json").write_text(json.dumps(info | {"epoch": epoch}), "utf-8")
    model = bundle_digest(folder)
    store.put_model(folder, model)
    found = store.current()
    assert found is not None
    files = store.files_of(model, found[1].segments)
    made = replace(found[1], model=model, files=files, pictures=pictures)
    store.publish(store.write_release(made), after=found[0].number, reason="train")
    return made


def back(store: Store, *words: str) -> Any:
    """`wentu rollback` without the refresh that follows."""
    words = ("rollback", *words, "--no-refresh", "--store", store.place)
    return CliRunner().invoke(cli.build(), list(words))


def run_was(store: Store, name: str, status: str, **parameters: Any) -> Path:
    folder = store.storage.home / f"runs/{name}"
    folder.mkdir(parents=True)
    value = {"format": FORMAT, "run_id": name, "status": status, "parameters": parameters}
    (folder / "run.json").write_text(json.dumps(value), "utf-8")
    (folder / "alive").touch()
    return folder


# --- which model ------------------------------------------------------------------------------


def test_the_model_before_is_current_again_and_pinned(
    vault: Store, built: Any, tmp_path: Path
) -> None:
    first = current(vault)[1]
    release(vault, built, tmp_path, epoch=7)
    done = back(vault)
    assert done.exit_code == 0, done.output
    assert current(vault) == (3, first)
    pointer = vault.pointer()
    assert pointer is not None
    assert (pointer.reason, pointer.pinned) == ("rollback", True)
    assert "trainings will not replace it" in " ".join(done.output.split())


def test_going_back_twice_goes_further_back_and_never_to_the_model_just_left(
    vault: Store, built: Any, tmp_path: Path
) -> None:
    models = [current(vault)[1]]
    models += [release(vault, built, tmp_path, epoch=epoch).model for epoch in (7, 8)]
    for number, expected in ((4, models[1]), (5, models[0])):
        assert back(vault).exit_code == 0
        assert current(vault) == (number, expected)
    done = back(vault)
    assert isinstance(done.exception, InputError)
    assert "there is no earlier model to go back to" in str(done.exception)
    assert current(vault) == (5, models[0])


def test_of_several_releases_of_the_model_before_the_newest_comes_back(
    vault: Store, built: Any, tmp_path: Path
) -> None:
    """A refresh added a picture to it, before the other model came."""
    release(vault, built, tmp_path, epoch=7)
    newest = release(vault, built, tmp_path, epoch=7, pictures=25)
    release(vault, built, tmp_path, epoch=8, pictures=25)
    release(vault, built, tmp_path, epoch=8, pictures=26)
    assert back(vault).exit_code == 0
    found = vault.current()
    assert found is not None
    assert found[1] == newest


def test_a_release_can_be_named(vault: Store, built: Any, tmp_path: Path) -> None:
    first = vault.current()
    assert first is not None
    for epoch in (7, 8):
        release(vault, built, tmp_path, epoch=epoch)
    assert back(vault, first[1].id).exit_code == 0
    assert current(vault) == (4, first[1].model)
    with pytest.raises(InputError, match="no release nonsense; known: "):
        rollback.rolled_back(vault, "nonsense")


def test_unpinning_changes_nothing_else(vault: Store, built: Any, tmp_path: Path) -> None:
    release(vault, built, tmp_path, epoch=7)
    back(vault)
    before = current(vault)
    done = CliRunner().invoke(cli.build(), ["rollback", "--unpin", "--store", vault.place])
    assert done.exit_code == 0
    pointer = vault.pointer()
    assert pointer is not None
    assert (pointer.reason, pointer.pinned) == ("unpin", False)
    assert current(vault) == (before[0] + 1, before[1])


def test_a_damaged_model_does_not_come_back(vault: Store, built: Any, tmp_path: Path) -> None:
    found = vault.current()
    assert found is not None
    path = vault.model(found[1].model) / "bundle.json"
    release(vault, built, tmp_path, epoch=7)
    content = path.read_text("utf-8")
    path.unlink()  # it may be a link to the original
    path.write_text(content + " ", "utf-8")
    before = current(vault)
    with pytest.raises(FormatError, match=r"bundle\.json is missing or was changed"):
        rollback.rolled_back(vault, None)
    assert current(vault) == before


# --- the refresh that follows -----------------------------------------------------------------


def test_a_run_that_failed_in_between_does_not_matter(
    vault: Store, built: Any, tmp_path: Path
) -> None:
    """The refresh goes by the last run that succeeded."""
    good = {"pictures": str(built.collection), "captions": built.captions, "min_new": 7}
    run_was(vault, "20260101-000000-aaaa", "succeeded", **good, code_version="old", model="tiny")
    bad = {"pictures": str(tmp_path / "gone"), "captions": "none", "min_new": 9}
    for number, status in enumerate(("failed", "stopped", "running")):
        run_was(vault, f"20260102-00000{number}-bbbb", status, **bad)
    values = rollback.refresh_values(vault)
    assert (values["pictures"], values["captions"]) == (good["pictures"], good["captions"])
    assert (values["min_new"], values["train"], values["model"]) == (7, False, "")
    assert values["store"] == vault.place
    assert values["code_version"] != "old"


def test_without_a_run_the_collection_is_that_of_the_release(vault: Store, built: Any) -> None:
    values = rollback.refresh_values(vault)
    assert (values["pictures"], values["captions"]) == (str(built.collection), built.captions)
    assert values["train"] is False


def test_a_run_that_was_killed_counts_as_stopped(vault: Store) -> None:
    import fcntl

    dead = run_was(vault, "20260101-000000-aaaa", "running")
    live = run_was(vault, "20260102-000000-bbbb", "running")
    with (live / "alive").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)  # as a run holds it for as long as it lives
        statuses = {run["run_id"]: run["status"] for run in runs(vault)}
        assert statuses == {dead.name: "stopped", live.name: "running"}
    assert {run["status"] for run in runs(vault)} == {"stopped"}


@pytest.mark.parametrize("gone", ["pictures", "captions"])
def test_nothing_changes_where_the_collection_is_gone(
    vault: Store, built: Any, tmp_path: Path, gone: str
) -> None:
    release(vault, built, tmp_path, epoch=7)
    given = {"pictures": str(built.collection), "captions": built.captions}
    given |= {gone: str(tmp_path / "gone")}
    run_was(vault, "20260101-000000-aaaa", "succeeded", **given)
    before = sorted(p for p in vault.storage.home.rglob("*") if "locks" not in p.parts)
    done = CliRunner().invoke(cli.build(), ["rollback", "--store", vault.place])
    assert isinstance(done.exception, InputError)
    assert f"--{gone} " in str(done.exception)
    assert sorted(p for p in vault.storage.home.rglob("*") if "locks" not in p.parts) == before
    assert back(vault).exit_code == 0  # without a refresh it is not needed
    assert current(vault)[0] == 3


def test_a_store_without_a_release_says_so(tmp_path: Path) -> None:
    for words in ([], ["--unpin"], ["--no-refresh"]):
        words = ["rollback", "--store", str(tmp_path / "none"), *words]
        done = CliRunner().invoke(cli.build(), words)
        assert isinstance(done.exception, InputError)
        assert "none has no release yet" in str(done.exception)
