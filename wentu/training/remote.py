"""A training on other machines: what they need of this one goes through the store.

    trainings/<key>/job.json       what to train, and where its parts are
    trainings/<key>/failure.json   a mistake that another attempt would only repeat
    parts/<digest>/                the LMDB; weights that lie on this machine only
    work/<key>/                    the state, kept by the first process (see Storage.work)

The same LMDB and weights are stored once, whatever is trained from them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wentu.clip import openclip
from wentu.clip.files import beside
from wentu.errors import FormatError, WentuError
from wentu.formats import FORMAT, digest_of, folder_sha256, parse_json
from wentu.settings import cache_folder, weights_folder
from wentu.storage import is_remote, link_or_copy
from wentu.store import Store
from wentu.training.config import Config
from wentu.training.job import Job

REPEATED = (2, 3, 4)
"""Exit codes of errors that come again however often one tries: input, format, quality."""
COMPANIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", openclip.CONFIG)
"""Files beside a file of weights that say what it is."""
NAMED = "named"


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What ``job.json`` says."""

    lmdb: str
    """Its key in the store."""
    weights: str
    """Key of the folder with the weights that only the launching machine has; empty: none."""
    model: str
    config: str
    places: dict[str, str]
    """Where those that are files or folders of the launching machine lie in ``weights``."""
    tracked: str
    format: int = FORMAT


def failure_key(key: str) -> str:
    """Where a mistake is told."""
    return f"trainings/{key}/failure.json"


def hand_over(vault: Store, key: str, job: Job, tracked: str) -> None:
    """Put everything that processes on other machines need of ``job`` into the store."""
    with TemporaryDirectory() as folder:
        places = arrange([job.model, job.config.teacher], Path(folder))
        weights = put(vault, Path(folder)) if any(Path(folder).iterdir()) else ""
    told = Handover(
        lmdb=put(vault, job.lmdb),
        weights=weights,
        model=job.model,
        config=job.config.text(),
        places=places,
        tracked=tracked,
    )
    vault.storage.delete([failure_key(key)])
    vault.storage.write(f"trainings/{key}/job.json", json.dumps(asdict(told)).encode())


def put(vault: Store, folder: Path) -> str:
    """Keep a folder under its digest; returns its key."""
    key = f"parts/{digest_of(folder_sha256(folder, manifest=True))}"
    vault.storage.put_folder(folder, key)
    return key


def arrange(models: Sequence[str], folder: Path) -> dict[str, str]:
    """Gather the weights of ``models`` that others could not read; tells where each is put.

    Those with a name lie in NAMED as they do in WENTU_WEIGHTS, where they are looked for.
    """
    from wentu.clip import checkpoint

    places = {}
    for number, model in enumerate(models):
        path = checkpoint.find_weights(model) if model else None
        bare = halves(model)[1]
        if path is None or is_remote(bare):
            continue
        if checkpoint.is_name(bare):
            target = folder / NAMED / path.relative_to(weights_folder())
        else:
            target = folder / str(number) / path.name
            places[bare] = target.relative_to(folder).as_posix()
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, copy_function=link_or_copy)
            continue
        for each in (path, *(beside(path, name) for name in COMPANIONS)):
            if each and not (target.parent / each.name).exists():
                link_or_copy(str(each), str(target.parent / each.name))
    return places


@contextmanager
def taken_over(place: str, key: str, rank: int) -> Iterator[tuple[Job, str]]:
    """The job of a training, with everything it needs on this machine; and whom to report to.

    Args:
        rank: of this process among all; the first one keeps the state.
    """
    vault = Store(place)
    name = f"trainings/{key}/job.json"
    value = parse_json(vault.storage.read(name), f"{place}/{name}")
    told = read_handover(value, f"{place}/{name}")
    lmdb, config, model = fetched(vault, told.lmdb), Config.parse(told.config), told.model
    if told.weights:
        weights = fetched(vault, told.weights)
        if (weights / NAMED).exists():
            os.environ["WENTU_WEIGHTS"] = str(weights / NAMED)
        here = {name: str(weights / place) for name, place in told.places.items()}
        config = replace(config, teacher=here.get(config.teacher, config.teacher))
        model = "".join(here.get(part, part) for part in halves(model))
    job = Job(lmdb=lmdb, model=model, work=vault.storage.home / f"work/{key}", config=config)
    if rank > 0:
        yield job, ""
        return
    with vault.work(key) as work:
        yield replace(job, work=work), told.tracked


def read_handover(value: Any, name: str) -> Handover:
    """What ``hand_over`` wrote; FormatError for anything else."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise FormatError(
            f"{name} is of another version of wentu: all machines need the same image.",
            f"{name} 属于另一版本的 wentu：所有机器须使用相同的镜像。",
        )
    return Handover(**value)


def halves(model: str) -> tuple[str, str]:
    """("scratch:" or nothing, the rest)."""
    from wentu.clip.model import SCRATCH

    bare = model.removeprefix(SCRATCH)
    return model.removesuffix(bare), bare


def fetched(vault: Store, key: str) -> Path:
    """A part on this machine; of the processes of one machine, one fetches it for all."""
    import fcntl

    locks = cache_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / key.replace("/", "-")).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return vault.storage.folder(key)


def tell_failure(place: str, key: str, error: WentuError) -> None:
    """Leave word of a mistake that another attempt would only repeat."""
    if error.exit_code in REPEATED:
        told = json.dumps({"text": str(error), "exit_code": error.exit_code}).encode()
        Store(place).storage.create(failure_key(key), told)


def told_failure(vault: Store, key: str) -> WentuError | None:
    """What ``tell_failure`` left."""
    if not vault.storage.exists(failure_key(key)):
        return None
    told = parse_json(vault.storage.read(failure_key(key)), failure_key(key))
    error = WentuError(told["text"])
    error.exit_code = told["exit_code"]
    return error
