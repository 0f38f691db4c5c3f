"""The documentation says what is so: commands run, examples are read, links resolve.

``docs/cli.md`` is generated: ``WENTU_UPDATE_DOCS=1 pytest tests/test_docs.py`` writes it anew.

The pages in ``RUN`` are followed line by line, in a folder that holds what they speak of: every
command of their bash blocks has to succeed, and every Python example. A block that cannot be run
here says why in the page, in a comment above it: ``<!-- not run: needs the network -->``.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from wentu import captions as layouts
from wentu.cli import COMMANDS, build
from wentu.errors import WentuError
from wentu.language import set_language

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "cli.md"
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")} - {REFERENCE})
WITHOUT_TWIN = {"cli.md", "experiments.md"}
"""Pages under docs/ that exist in English only."""
ADDED_BY_HAND = ROOT / "docs" / "images"
"""Pictures here are made by running the demo: a link to one that is not there yet is no error."""

PACKAGE_HOST = re.compile(
    r"\b(?:(?:test\.)?pypi\.org|files\.pythonhosted\.org|download\.pytorch\.org|conda\.anaconda\.org"
    r"|registry\.npmjs\.org|(?:pypi\.tuna\.tsinghua|mirrors\.[\w.]+)\.(?:edu\.cn|com|cn))\b"
    r"|--(?:extra-)?index-url\b"
)
DEVELOPERS_PATH = re.compile(r"(?<![\w.>}\-])/(?:work|root|Users/\w+)/\w")

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WENTU_LANG", "en")
    monkeypatch.setattr(sys, "argv", ["wentu"])
    set_language("en")
    yield
    set_language(None)


# --- the reference ----------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    """Every command, in the order of the help."""
    group = build()
    context = click.Context(group, info_name="wentu")
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command}


def every_command() -> Iterator[tuple[str, click.Command]]:
    """Every command by its words, those of groups too: ``weights get``."""
    for name, command in commands().items():
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", found) for each, found in command.commands.items())


def entries(command: click.Command, context: click.Context) -> Iterator[str]:
    """A line per option, from the same words as its help."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and "--help" not in parameter.opts:
            name, text = record
            yield f"- `{name}`: {' '.join(text.split())}"


def describe(name: str, command: click.Command, parent: click.Context) -> str:
    """One command: usage, what it is for, its options; of a group, those of its commands too."""
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = "\n".join(entries(command, context))
    head = "#" * (2 + len(context.command_path.split()) - 1)
    parts = [f"{head} {context.command_path}", command.help or "", f"```text\n{usage}\n```", lines]
    text = "\n\n".join(part for part in parts if part) + "\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found
            text += "\n" + describe(each, found, context)
    return text


def render() -> str:
    """The whole of docs/cli.md."""
    group, found = build(), commands()
    parent = click.Context(group, info_name="wentu")
    plain = [describe(n, c, parent) for n, c in found.items() if COMMANDS[n][0]]
    stages = [describe(n, c, parent) for n, c in found.items() if not COMMANDS[n][0]]
    parts = [
        "# Command line\n",
        "Generated from the help of each command by `tests/test_docs.py`; do not edit. Every "
        "command has `--help`; `wentu --lang zh COMMAND --help` says it in Chinese.\n",
        "\n".join(entries(group, parent)) + "\n",
        "## Commands\n",
        *plain,
        "## Stages\n",
        "Each stage of the pipeline alone. Options that `wentu run` has too mean the same.\n",
        *stages,
    ]
    return "\n".join(parts)


def test_the_command_line_reference_is_current() -> None:
    text = render()
    if os.environ.get("WENTU_UPDATE_DOCS") == "1":
        REFERENCE.write_text(text, encoding="utf-8")
    assert REFERENCE.exists(), "run WENTU_UPDATE_DOCS=1 pytest tests/test_docs.py"
    assert REFERENCE.read_text(encoding="utf-8") == text, (
        "docs/cli.md is stale: WENTU_UPDATE_DOCS=1 pytest tests/test_docs.py writes it anew"
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_command_and_option_says_what_it_does(language: str) -> None:
    set_language("zh" if language == "zh" else "en")
    for name, command in every_command():
        assert command.help, name
        context = click.Context(command, info_name=name)
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert record is not None
                assert record[1].strip(), f"wentu {name} {record[0]} has no help"


# --- what pages quote -------------------------------------------------------------------------

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PLACEHOLDERS = ("STAGE", "COMMAND", "X")
ABOUT_OTHERS = ("from-chinese-clip.md", "bring-your-model.md")
"""Pages that name options of cn_clip's, too."""
ASSIGNMENTS = re.compile(r"^(?:\w+=\S* )*")


def code(page: Path) -> Iterator[str]:
    """The lines of fenced blocks, continued ones joined, and the code spans of a page."""
    text = page.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        yield from block[3].replace("\\\n", " ").splitlines()
    yield from SPAN.findall(FENCE.sub("", text))


def quoted(page: Path, program: str) -> list[list[str]]:
    """Command lines of ``program`` on a page, as words after its name."""
    found = []
    for line in code(page):
        bare = ASSIGNMENTS.sub("", line.strip().removeprefix("$ "))
        if bare == program or bare.startswith(f"{program} "):
            found.append(shlex.split(bare, comments=True)[1:])
    return found


def check(words: list[str], known: dict[str, click.Command]) -> None:
    """Raise click's UsageError where wentu would refuse these words for their form.

    ``…`` stands for more options. A sentence may name a command without its required options; where
    they are given, the values are checked too.
    """
    group = build()
    flags = {flag: option for option in group.params for flag in option.opts} | {"--help": None}
    while words and words[0].startswith("-"):
        if words[0] not in flags:
            raise click.NoSuchOption(words[0])
        words = words[2:] if words[0] == "--lang" else words[1:]
    if not words or words[0] in PLACEHOLDERS:
        return
    if words[0] not in known:
        raise click.UsageError(f"no command {words[0]}")
    command, rest = known[words[0]], [word for word in words[1:] if word not in ("…", "--help")]
    while isinstance(command, click.Group):
        if not rest:
            return
        if rest[0] not in command.commands:
            raise click.UsageError(f"no command {words[0]} {rest[0]}")
        command, rest = command.commands[rest[0]], rest[1:]
    context = click.Context(command, info_name=words[0])
    given, surplus, _ = command.make_parser(context).parse_args(list(rest))
    if surplus:
        raise click.UsageError(f"too many words: {surplus}")
    said = {
        name for name, value in given.items() if isinstance(value, str | list | tuple) and value
    }
    if {each.name for each in command.params if each.required} <= said:
        command.make_context(words[0], rest)


@each_page
def test_quoted_commands_parse(page: Path) -> None:
    known = commands()
    for words in quoted(page, "wentu"):
        try:
            check(words, known)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: wentu {shlex.join(words)}: {error.format_message()}")


def options_of_cn_clip() -> set[str]:
    """Every option of its scripts."""
    spec = importlib.util.find_spec("cn_clip")
    folders = spec.submodule_search_locations if spec else None
    scripts = [path for folder in folders or () for path in Path(folder).rglob("*.py")]
    return {
        flag for path in scripts for flag in re.findall(r'"(--[\w-]+)"', path.read_text("utf-8"))
    }


def options_of_its_training() -> list[str]:
    """Every option of cn_clip's training/params.py; empty where the package comes without it."""
    spec = importlib.util.find_spec("cn_clip")
    folders = (spec.submodule_search_locations if spec else None) or []
    paths = [Path(folder) / "training" / "params.py" for folder in folders]
    calls = [
        node
        for path in paths
        if path.exists()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
    ]
    words = [word.value for call in calls for word in call.args if isinstance(word, ast.Constant)]
    return [word for word in words if str(word).startswith("--")]


@pytest.mark.parametrize("folder", ["docs", "docs/zh-CN"])
def test_every_option_of_the_references_training_has_its_place(folder: str) -> None:
    expected = options_of_its_training()
    if not expected:
        pytest.skip("this cn_clip comes without training/params.py")
    assert len(expected) > 40
    spans = SPAN.findall((ROOT / folder / "from-chinese-clip.md").read_text("utf-8"))
    named = {word for span in spans for word in span.split()}
    assert [option for option in expected if option not in named] == []


@each_page
def test_options_named_in_prose_exist(page: Path) -> None:
    known = {
        flag
        for command in (build(), *(found for _, found in every_command()))
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    if page.name in ABOUT_OTHERS:
        known |= options_of_cn_clip()
    spans = SPAN.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    named = {w for span in spans if span[0] == "-" for w in span.split() if w.startswith("--")}
    assert named <= known


@each_page
def test_quoted_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {words[0] for words in quoted(page, "make") if words} <= targets


def test_the_check_of_quoted_commands_can_fail() -> None:
    known = commands()
    wrong = [["run", "--no-such"], ["nothing"], ["search", "a", "b"], ["--no-such", "run"]]
    for words in [*wrong, ["weights", "nothing"], ["weights", "get", "ViT-B-16", "--no-such"]]:
        with pytest.raises(click.UsageError):
            check(words, known)
    with pytest.raises(click.UsageError):
        check(["run", "--pictures", "DIR", "--precision", "half"], known)


@each_page
def test_python_examples_compile_and_name_what_exists(page: Path) -> None:
    for block in FENCE.finditer(page.read_text(encoding="utf-8")):
        if block[2] == "python" and block[3].lstrip().startswith(("import", "from")):
            source = "\n".join(line.removeprefix(block[1]) for line in block[3].splitlines())
            compile(source, page.name, "exec")
            imports = [line for line in source.splitlines() if re.match(r"(import|from) ", line)]
            exec("\n".join(imports), {})


# --- pages that are followed ------------------------------------------------------------------

RUN = ("README.md", *(f"docs/{n}.md" for n in ("bring-your-data", "bring-your-model")))
RUN += ("docs/fine-tuning.md", "docs/from-chinese-clip.md", "docs/faq.md")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\n\Z")
PICTURES = 24
SPLIT = ("train",) * 14 + ("val",) * 4 + ("test",) * 6
TRADITIONAL = ("紅色的圓形", "一隻貓在電腦旁", "黑色的雨傘")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    """bash, python, text, …"""
    lines: tuple[str, ...]
    """Continued ones joined."""
    not_run: str
    """Why it is not run; empty where it is."""


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        reason = NOT_RUN.search(text[: found.start()])
        lines = found[3].replace("\\\n", " ").splitlines()
        yield Block(found[2], tuple(lines), reason[1] if reason else "")


class Enough(BaseException):
    """The data of a training is packed; a page needs no second model."""


class Stages:
    """Takes the place of kfp's subprocesses: the components of pipeline.yaml, called right here.

    Only the first training of a page is made. The others show how data is read: they end where
    their LMDB is packed.
    """

    def __init__(self) -> None:
        self.trainings = 0

    def __call__(self, full_command: list[str], env_vars: Any = None) -> int:
        """As kfp.local's ``run_local_subprocess``; returns an exit status."""
        from kfp.dsl.executor import Executor

        source, words = full_command[3], full_command[4:]
        given = dict(zip(words[::2], words[1::2], strict=True))
        name, names = given["--function_to_execute"], dict[str, Any]()
        if name == "finetune":
            self.trainings += 1
            if self.trainings > 1:
                raise Enough
        exec(compile(source, name, "exec", dont_inherit=True), names)
        try:
            value = json.loads(given["--executor_input"])
            Executor(executor_input=value, function_to_execute=names[name]).execute()
        except WentuError:  # said by the stage itself
            return 1
        return 0


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`wentu run` in this process, for one epoch, without MLflow."""
    from wentu.orchestrate import parameters
    from wentu.progress import EventFile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own, at import
        from kfp import components  # noqa: F401
        from kfp.local import subprocess_task_handler
    complete = parameters.complete

    def shortened(given: Any, preset: str | None) -> dict[str, Any]:
        values = complete(given, preset)
        return values | {"epochs": min(1, values["epochs"])}

    opened: list[EventFile] = []

    class Closed(EventFile):
        """Its file is closed when a stage's process ends, which here it does not."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(self)

    monkeypatch.setattr("wentu.progress.EventFile", Closed)
    monkeypatch.setattr(parameters, "complete", shortened)
    # A small model stands in for the pretrained ones, under their names.
    monkeypatch.setattr("wentu.clip.checkpoint.refuse_another", lambda *_: None)
    monkeypatch.setattr(subprocess_task_handler, "run_local_subprocess", Stages())
    monkeypatch.setattr("wentu.stage.join_run", lambda run, stage: None)
    monkeypatch.setenv("WENTU_TRACKING", "off")
    yield
    for each in opened:
        each._file.close()


def follow(line: str, patch: pytest.MonkeyPatch) -> None:
    """Do what a line of a bash block says; a test fails where it does."""
    assigned = ASSIGNMENTS.match(line)
    values = dict(word.split("=", 1) for word in (assigned[0].split() if assigned else ()))
    bare = line.removeprefix(assigned[0] if assigned else "").partition("  #")[0]
    program = bare.partition(" ")[0]
    if program == "make" or not program:
        return  # test_quoted_make_targets_exist
    if program != "wentu":
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "PYTHONWARNINGS": "ignore"}
        subprocess.run(["bash", "-ec", line], check=True, env=env, timeout=120)
        return
    words = [name for word in shlex.split(bare)[1:] for name in expanded(word)]
    with patch.context() as here:
        for name, value in values.items():
            here.setenv(name, value)
        here.setattr(sys, "argv", ["wentu", *words])
        with contextlib.suppress(Enough):
            done = CliRunner().invoke(build(), words)
            said = f"{done.exception}" if isinstance(done.exception, WentuError) else done.output
            assert done.exit_code == 0, f"{line}\n{said}"


def expanded(word: str) -> list[str]:
    """What a shell makes of a word with a star."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


# --- what the pages speak of


@pytest.fixture(scope="session")
def workshop(
    draw: Callable[..., Any], built: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with everything that the pages name."""
    folder = tmp_path_factory.mktemp("workshop")
    rows = draw(folder, range(PICTURES))
    (folder / "pictures").rename(folder / "photos")
    said = [(Path(row["image"]).name, row["caption"]) for row in rows]
    lay_out_captions(folder, said)
    lay_out_pictures(folder, said)
    lay_out_models(folder, built)
    lay_out_datasets(folder, built)
    (folder / "DIR").symlink_to("photos")
    demo = folder / "wentu-demo"
    without = shutil.ignore_patterns("work")
    shutil.copytree(built.store, demo / "store-0", ignore=without)
    shutil.copytree(folder / "photos", demo / "collection-0" / "pictures")
    return folder


def lay_out_captions(folder: Path, said: list[tuple[str, list[str]]]) -> None:
    """The same captions in every layout."""
    from tests.captions.writers import write_lines, write_list, write_sheet, write_table

    first = [(name, texts[0]) for name, texts in said]
    write_table(
        folder / "captions.csv",
        [
            ("图片", "描述", "划分"),
            *((*row, split) for row, split in zip(first, SPLIT, strict=True)),
        ],
    )
    write_table(
        folder / "products.csv",
        [
            ("商品图", "颜色", "卖点", "备注"),
            *((name, texts[0][-2:], texts[0], texts[1]) for name, texts in said),
        ],
    )
    traditional = [(n, f"{TRADITIONAL[row % 3]}{row}") for row, (n, _) in enumerate(said)]
    write_table(folder / "traditional.csv", [("圖片", "描述"), *traditional])
    write_sheet(
        folder / "captions.xlsx", [("文件名", "标题1", "标题2"), *((n, *t) for n, t in said)]
    )
    write_lines(folder / "captions.jsonl", ({"image": n, "caption": t} for n, t in said))
    write_list(folder / "captions.json", said)
    (folder / "flickr8k-cn").mkdir()
    for split in dict.fromkeys(SPLIT):
        part = [row for row, its in zip(said, SPLIT, strict=True) if its == split]
        write_list(folder / f"cn_{split}.json", part)
        for language in ("cn", "en"):
            write_list(folder / "flickr8k-cn" / f"{language}_{split}.json", part)


def lay_out_pictures(folder: Path, said: list[tuple[str, list[str]]]) -> None:
    """Folders whose names say something, and one as a telephone leaves it."""
    photos, roll = folder / "photos", folder / "camera-roll"
    (folder / "stickers").mkdir()
    for row, (name, texts) in enumerate(said):
        album = folder / "albums" / f"{'红橙黄绿青蓝'[row // 4]}色的图形"
        album.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, album / f"IMG_{row:04}.png")
        shutil.copy(photos / name, folder / "stickers" / f"{row + 1:03}-{texts[0]}.png")
    shutil.copytree(photos, roll, ignore=lambda _, names: sorted(names)[8:])
    for name, data in (
        ("clip.mp4", b""),
        (".DS_Store", b""),
        ("drawing.svg", b"<svg>"),
        ("page.jpg", b"<html>"),
        ("cut.png", (photos / said[0][0]).read_bytes()[:200]),
    ):
        (roll / name).write_bytes(data)


def lay_out_models(folder: Path, built: Any) -> None:
    """Files of other programs, small; the tiny model is called ViT-B-16."""
    import torch

    from tests.clip.makers import clip_config, openai_model
    from wentu.clip import layouts as spelling
    from wentu.clip.checkpoint import load
    from wentu.clip.files import write_safetensors
    from wentu.clip.model import TINY, Architecture, build

    shutil.copy(built.checkpoint / "epoch_best.pt", folder / "model.pt")
    state = dict(load(folder / "model.pt").state or {})
    (folder / "weights").mkdir()
    torch.save({"state_dict": state}, folder / "weights" / "clip_cn_vit-b-16.pt")
    (folder / "chinese-bert").mkdir()
    bert = {k.removeprefix("bert."): v for k, v in state.items() if k.startswith("bert.")}
    torch.save(bert, folder / "chinese-bert" / "pytorch_model.bin")
    other = build(Architecture(name="x", config=TINY, family="clip-pytorch")).state_dict()
    torch.save(spelling.to_clip_pytorch(other), folder / "ep100.pth")
    openai = openai_model(clip_config()).state_dict()
    torch.save({name: tensor.half() for name, tensor in openai.items()}, folder / "ViT-B-32.pt")
    hub = folder / "open-clip-folder"
    hub.mkdir()
    write_safetensors(hub / "open_clip_model.safetensors", openai, {})
    config = {"model_cfg": clip_config(), "preprocess_cfg": {}}
    (hub / "open_clip_config.json").write_text(json.dumps(config))


def lay_out_datasets(folder: Path, built: Any) -> None:
    """What somebody has who runs Chinese-CLIP."""
    import numpy as np

    from wentu.interchange.jsonl import feature_line

    muge, lasting = folder / "datasets" / "MUGE", folder / "experiments" / "muge" / "checkpoints"
    shutil.copytree(built.tsv, muge, ignore=shutil.ignore_patterns("manifest.json", ".wentu"))
    shutil.copytree(muge, folder / "clip")
    for split in ("train", "valid", "test"):
        shutil.copytree(built.lmdb / split, muge / "lmdb" / split)
    ids = np.load(built.features / "ids.npy").tolist()
    vectors = np.load(built.features / "vectors.npy")
    lines = [feature_line("image_id", *row) for row in zip(ids, vectors, strict=True)]
    (muge / "train_imgs.img_feat.jsonl").write_text("".join(lines))
    (folder / "deploy").mkdir()
    for ours, theirs in (("text", "txt"), ("image", "img")):
        name = f"vit-b-16.{theirs}.fp32.onnx"
        shutil.copy(built.bundle / f"{ours}.onnx", folder / "deploy" / name)
    lasting.mkdir(parents=True)
    shutil.copy(built.checkpoint / "epoch_latest.pt", lasting)


@pytest.mark.parametrize("page", RUN)
@pytest.mark.usefixtures("in_process")
def test_what_a_page_says_can_be_done(
    page: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(workshop, tmp_path / "workshop", symlinks=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv("WENTU_WEIGHTS", str(place / "weights"))
    for block in blocks(ROOT / page):
        if block.kind == "bash" and not block.not_run:
            for line in block.lines:
                follow(line, monkeypatch)
        elif block.kind == "python" and not block.not_run:
            source = compile("\n".join(block.lines), page, "exec", dont_inherit=True)
            exec(source, {"__name__": "__main__"})


def test_following_a_page_can_fail(
    workshop: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    for line in ("wentu run --pictures photos --captions nothing.csv", "wentu search"):
        with pytest.raises(AssertionError, match=line):
            follow(line, monkeypatch)
    with pytest.raises(subprocess.CalledProcessError):
        follow("ls nothing", monkeypatch)


PAIRS = [("README.md", "README.zh-CN.md")]
PAIRS += [(f"docs/{path.name}", f"docs/zh-CN/{path.name}") for path in ROOT.glob("docs/*.md")]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda name: name)
def test_twins_say_the_same_commands_in_the_same_order(english: str, chinese: str) -> None:
    if not (ROOT / chinese).exists():
        assert Path(english).name in WITHOUT_TWIN
        return
    one, two = (
        [
            (block.kind, [re.sub(r"\s+#.*", "", line) for line in block.lines], bool(block.not_run))
            for block in blocks(ROOT / page)
            if block.kind in ("bash", "python")
        ]
        for page in (english, chinese)
    )
    assert one == two


EXAMPLES = {"csv": ".csv", "json": ".json", "jsonl": ".jsonl"}


@pytest.mark.parametrize("page", ["docs/bring-your-data.md", "docs/zh-CN/bring-your-data.md"])
def test_examples_of_captions_are_read(page: str, tmp_path: Path) -> None:
    examples = [block for block in blocks(ROOT / page) if block.kind in EXAMPLES]
    assert {block.kind for block in examples} == set(EXAMPLES)
    for number, block in enumerate(examples):
        path = tmp_path / f"{number}{EXAMPLES[block.kind]}"
        path.write_text("\n".join(block.lines), encoding="utf-8")
        rows = list(layouts.read(str(path)))
        assert [row.image for row in rows] == ["0001.jpg", "0002.jpg"]
        assert all(row.captions for row in rows)


# --- the notebook


NOTEBOOK = ROOT / "docs" / "zh-CN" / "notebook.ipynb"


@pytest.mark.heavy
def test_the_notebook_runs(small_collection: Path, tmp_path: Path) -> None:
    """Whole, on 24 pictures for one epoch, through the real runner."""
    import nbformat
    from nbclient import NotebookClient

    place = tmp_path / "wentu-notebook" / "图片"
    shutil.copytree(small_collection, place)
    (place / "seed-0.done").touch()  # make_collection leaves a finished one as it is
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("轮数 = 15", "轮数 = 1")
    assert any("轮数 = 1\n" in cell.source for cell in notebook.cells)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    shown = json.dumps(notebook.cells, ensure_ascii=False)
    assert "image/png" in shown or "image/jpeg" in shown
    assert "蓝色方块" in shown


@pytest.mark.parametrize("page", sorted(ROOT.glob("README*.md")), ids=lambda page: page.name)
def test_the_tree_names_what_exists(page: Path) -> None:
    blocks = [b[3] for b in FENCE.finditer(page.read_text(encoding="utf-8"))]
    tree = next(block for block in blocks if block.startswith("pipeline.yaml"))
    for line in tree.splitlines():
        assert (ROOT / line.split()[0]).exists(), line


# --- links, twins, and what must not be said --------------------------------------------------

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_relative_links_resolve(page: Path) -> None:
    for target in LINK.findall(SPAN.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        waiting = path.is_relative_to(ADDED_BY_HAND)
        assert path.exists() or waiting, f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(path), f"{page.name} links to {target}: no such heading"


def test_every_page_has_its_twin() -> None:
    english = {path.name for path in ROOT.glob("docs/*.md")} - WITHOUT_TWIN
    chinese = {path.name for path in ROOT.glob("docs/zh-CN/*.md")}
    assert english == chinese
    assert (ROOT / "README.zh-CN.md").exists()


def tracked() -> list[Path]:
    """The files that git tracks."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def test_no_file_names_a_package_host_or_a_developers_machine() -> None:
    said = []
    for path in {*tracked(), *PAGES, Path(__file__)}:
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "ignore")
            for pattern in (PACKAGE_HOST, DEVELOPERS_PATH):
                said += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in pattern.finditer(text)]
    assert said == []


def test_the_check_of_paths_and_hosts_can_fail() -> None:
    for text in ("see /" + "root/demo1", "cd '/" + "work/main'", "=/" + "Users/me/x"):
        assert DEVELOPERS_PATH.search(text), text
    inside = "/" + "work/"
    for text in (f"store{inside}<digest>", f".{inside}x", f"{{root}}{inside}x", "a/root/b"):
        assert not DEVELOPERS_PATH.search(text), text
    for text in ("https://" + "pypi." + "org/simple", "mirrors." + "aliyun.com/pypi"):
        assert PACKAGE_HOST.search(text), text
