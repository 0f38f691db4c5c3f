"""The documentation says what is so: commands parse, links resolve, the reference is current.

``docs/cli.md`` is generated: ``WENTU_UPDATE_DOCS=1 pytest tests/test_docs.py`` writes it anew.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from wentu.cli import COMMANDS, build
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


def entries(command: click.Command, context: click.Context) -> Iterator[str]:
    """A line per option, from the same words as its help."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and "--help" not in parameter.opts:
            name, text = record
            yield f"- `{name}`: {' '.join(text.split())}"


def describe(name: str, command: click.Command, parent: click.Context) -> str:
    """One command: usage, what it is for, its options."""
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = "\n".join(entries(command, context))
    return f"### wentu {name}\n\n{command.help}\n\n```text\n{usage}\n```\n\n{lines}\n"


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
    for name, command in commands().items():
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
    context = click.Context(command, info_name=words[0])
    given, surplus, _ = command.make_parser(context).parse_args(list(rest))
    if surplus:
        raise click.UsageError(f"too many words: {surplus}")
    if {each.name for each in command.params if each.required} <= given.keys():
        command.make_context(words[0], rest)


@each_page
def test_quoted_commands_parse(page: Path) -> None:
    known = commands()
    for words in quoted(page, "wentu"):
        try:
            check(words, known)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: wentu {shlex.join(words)}: {error.format_message()}")


@each_page
def test_options_named_in_prose_exist(page: Path) -> None:
    known = {
        flag
        for command in (build(), *commands().values())
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
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
    for words in (["run", "--no-such"], ["nothing"], ["search", "a", "b"], ["--no-such", "run"]):
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


@pytest.mark.parametrize("page", sorted(ROOT.glob("README*.md")), ids=lambda page: page.name)
def test_the_tree_names_what_exists(page: Path) -> None:
    blocks = [b[3] for b in FENCE.finditer(page.read_text(encoding="utf-8"))]
    tree = next(block for block in blocks if block.startswith("pipeline.yaml"))
    for line in tree.splitlines():
        assert (ROOT / line.split()[0]).exists(), line


# --- links, twins, and what must not be said --------------------------------------------------

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@each_page
def test_relative_links_resolve(page: Path) -> None:
    for target in LINK.findall(SPAN.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))):
        if re.match(r"[a-z]+:|#", target):
            continue
        path = (page.parent / target.split("#")[0]).resolve()
        waiting = path.is_relative_to(ADDED_BY_HAND)
        assert path.exists() or waiting, f"{page.name} links to {target}, which is not there"


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
