"""Which files a name stands for, where hosts keep them, and where they land here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wentu.clip.model import VISION_AND_TEXT
from wentu.clip.openclip import PREFIX, config_of, package, split_name
from wentu.errors import InputError

REPOSITORIES = {  # as in cn_clip.clip.utils._MODELS
    "ViT-B-16": "chinese-clip-vit-base-patch16",
    "ViT-L-14": "chinese-clip-vit-large-patch14",
    "ViT-L-14-336": "chinese-clip-vit-large-patch14-336px",
    "ViT-H-14": "chinese-clip-vit-huge-patch14",
    "RN50": "chinese-clip-rn50",
}
COPIES = "AI-ModelScope"
"""The organisation in which ModelScope keeps copies of what is published elsewhere."""
OWNERS = {"hf": "OFA-Sys", "modelscope": COPIES}
WEIGHTS = [f"open_clip_model.{kind}" for kind in ("safetensors", "bin", "pt")]
"""What the weights of an open_clip model are called here, the preferred one first."""


@dataclass(frozen=True)
class Place:
    """A file in a repository, and where it lands here."""

    repository: str
    file: str
    path: Path


Wanted = Mapping[str, list[Place]]
"""One file to have: for each source the places that may hold it, the best first."""


def target(name: str, folder: Path) -> Path:
    """The main file of ``name``, whether it is there or not; InputError for an unknown name."""
    if not name.startswith(PREFIX):
        return wanted(name, folder)[0]["hf"][0].path
    home = _openclip_home(name, folder)
    return next((home / file for file in WEIGHTS if (home / file).exists()), home / WEIGHTS[0])


def wanted(name: str, folder: Path) -> list[Wanted]:
    """Every file of ``name``, the main one first."""
    if name in REPOSITORIES:
        repository, file = REPOSITORIES[name], VISION_AND_TEXT[name][2]
        path = folder / file
        return [{each: [Place(f"{OWNERS[each]}/{repository}", file, path)] for each in OWNERS}]
    if name.startswith(PREFIX):
        return _wanted_openclip(name, folder)
    repository, _, file = name.partition(":")
    named = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository, re.ASCII) and file.isprintable()
    inside = {"", ".", ".."}.isdisjoint(file.split("/"))
    if not named or not inside:
        known = ", ".join(REPOSITORIES)
        raise InputError(
            f"no weights are called {name!r}; known: {known}, openclip:MODEL@TAG, and any file of "
            "a repository as ORG/REPO:FILE.",
            f"没有名为 {name!r} 的权重；可用：{known}、openclip:模型@标签，"
            "以及仓库中的任意文件，写作 组织/仓库:文件。",
        )
    place = Place(repository, file, folder / repository / file)
    return [{each: [place] for each in OWNERS}]


def _openclip_home(name: str, folder: Path) -> Path:
    """``openclip/MODEL@TAG``, the tag as open_clip's table spells it."""
    model, tag = split_name(name)
    return folder / "openclip" / f"{model}@{tag.lower().replace('-', '_')}"


def _wanted_openclip(name: str, folder: Path) -> list[Wanted]:
    """The weights, and what a Hugging Face text tower needs beside them."""
    home = _openclip_home(name, folder)
    where, text = _published(*split_name(name))
    repository, _, file = where.rpartition("/")
    files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if file.endswith(".bin"):  # open_clip prefers these, too: they can hold no code
        files.insert(0, str(Path(file).with_suffix(".safetensors")))
    here = [home / f"open_clip_model{Path(each).suffix}" for each in files]
    found = [_at_both([Place(repository, *each) for each in zip(files, here, strict=True)])]
    tower = text.get("hf_model_name")
    tokenizer = text.get("hf_tokenizer_name") or tower
    if tokenizer:  # many keep a copy beside the weights
        owners = dict.fromkeys([tokenizer, repository])
        for path in (home / "tokenizer.json", home / "tokenizer_config.json"):  # says what pads
            found.append(_at_both([Place(owner, path.name, path) for owner in owners]))
    if tower:  # its shape, which open_clip would ask the hub for
        found.append(_at_both([Place(tower, "config.json", home / "config.json")]))
    return found


def _at_both(places: list[Place]) -> Wanted:
    """The same places at both hosts; ModelScope often has them as copies only."""
    own = [each for each in places if "/" in each.repository]
    copies = [replace(each, repository=f"{COPIES}/{Path(each.repository).name}") for each in places]
    return {"hf": places, "modelscope": own + copies}


def _published(model: str, tag: str) -> tuple[str, dict[str, Any]]:
    """(``ORG/REPO/`` or ``ORG/REPO/FILE`` at Hugging Face, config of the text tower)."""
    open_clip = package()
    where = open_clip.get_pretrained_cfg(model, tag).get("hf_hub")
    if not where:
        config_of(PREFIX + model)  # refuses a model that is none, naming similar ones
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "-"
        raise InputError(
            f"{model} needs one of its tags, as in {PREFIX}{model}@TAG; known: {tags}.",
            f"{model} 需要指明标签，例如 {PREFIX}{model}@标签；可用：{tags}。",
        )
    return where, open_clip.get_model_config(model)["text_cfg"]
