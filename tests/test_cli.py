"""The command line: help in both languages, and one sentence for a mistake of the user's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from wentu import cli
from wentu.commands import chinese
from wentu.errors import InputError
from wentu.orchestrate import parameters
from wentu.stages import STAGES, config_class

CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(autouse=True)
def _no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line looks for --lang among the words of the process."""
    monkeypatch.setattr(sys, "argv", ["wentu", "--help"])


def wentu(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from wentu.cli import main; main()", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
    )


def commands() -> dict[str, click.Command]:
    group = cli.build()
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


# --- help -------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_lists_every_command(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_LANG", language)
    shown = CliRunner().invoke(cli.build(), ["--help"])
    assert shown.exit_code == 0
    for name, (_, en, zh) in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +\S", shown.output, re.MULTILINE), name
        about = " ".join((en if language == "en" else zh).split())
        assert about[:20] in shown.output
    assert bool(CHINESE.search(shown.output)) == (language == "zh")


def test_without_a_word_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["wentu"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = "".join(capsys.readouterr())
    assert "Start with: wentu demo" in shown
    assert all(name in shown for name in cli.COMMANDS)


def test_commands_are_the_stages_and_what_is_beside_them() -> None:
    """A stage's command is made from its Config; only that of promote can do one thing more."""
    assert [name for name in cli.COMMANDS if name in STAGES] == list(STAGES)
    own = {name for name, (module, *_) in cli.COMMANDS.items() if module and name in STAGES}
    assert own == {"promote"}
    assert commands().keys() == cli.COMMANDS.keys()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_on_every_option(
    name: str, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_LANG", language)
    shown = CliRunner().invoke(cli.build(), [name, "--help"])
    assert shown.exit_code == 0
    for each in commands()[name].params:
        if isinstance(each, click.Option):
            assert each.help, f"{name} {each.opts[0]} has no help"
            assert bool(CHINESE.search(each.help)) == (language == "zh"), (name, each.opts[0])
            assert each.opts[0] in shown.output


@pytest.mark.parametrize("name", STAGES)
def test_every_option_of_a_stage_is_an_option_of_its_command_and_of_run(name: str) -> None:
    known = {option.name for option in commands()[name].params}
    run = {option.name for option in commands()["run"].params}
    names = {each.name for each in fields(config_class(name))}
    assert names <= known
    assert names <= run


def test_a_stage_may_be_written_with_a_hyphen() -> None:
    assert CliRunner().invoke(cli.build(), ["pack-lmdb", "--help"]).exit_code == 0


@pytest.mark.parametrize("words", [["--lang", "zh", "--help"], ["--lang=zh", "search", "--help"]])
def test_the_language_can_be_named(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["wentu", *words])
    shown = CliRunner().invoke(cli.build(), words)
    assert shown.exit_code == 0
    assert CHINESE.search(shown.output)


# --- a mistake of the user's ------------------------------------------------------------------


def assert_one_sentence(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(rf"(Error: |错误.)[^\n]*{sentence}[^\n]*\n", done.stderr), done.stderr


def test_searching_before_a_run_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    done = wentu("search", "黑狗", "--store", "none", cwd=tmp_path)
    assert_one_sentence(done, "none has no release yet: run `wentu run` first")
    done = wentu("search", "黑狗", "--store", "none", cwd=tmp_path, WENTU_LANG="zh")
    assert_one_sentence(done, "还没有发布版本")
    assert not (tmp_path / "none").exists()


def test_a_mistake_in_a_stage_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    words = ["--pictures", "nowhere", "--captions", "none", "--out", "out", "--store", "store"]
    done = wentu("inventory", *words, cwd=tmp_path)
    assert_one_sentence(done, "--pictures nowhere: no such folder")


def in_process(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Any, str]:
    """(exit status, what was said on stderr) of ``main``."""
    monkeypatch.setattr(sys, "argv", ["wentu", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", [*STAGES, "run", "plan"])
def test_a_command_without_its_options_names_what_is_missing(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = in_process([name], monkeypatch, capsys)
    assert status == 2
    assert "--" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["finetune", "--epochs", "-1", "--lmdb", "x", "--model", "tiny", "--out", "o"],
            "--epochs -1",
        ),
        (["finetune", "--epochs", "many"], "'many' is not a valid integer"),
        (
            ["run", "--pictures", "x", "--valid-fraction", "0.9", "--test-fraction", "0.2"],
            "leaves no",
        ),
        (["run", "--pictures", "x", "--precision", "int8"], "'int8' is not one of"),
        (["run", "--pictures", "nowhere"], "--pictures nowhere: no such folder"),
        (["run", "--pictures", "s3:///x"], "s3:///x: give s3://bucket/prefix"),
        (["nonsense"], "No such command 'nonsense'"),
        (["run", "--nonsense"], "No such option"),
    ],
)
def test_wrong_values_are_named(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WENTU_TRACKING", "off")
    status, said = in_process(words, monkeypatch, capsys)
    assert status == 2
    assert sentence in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run"], "错误：缺少选项 '--pictures'"),
        (["run", "--epoch", "3"], "错误：没有选项 --epoch。 是否要用其中之一：'--epochs'"),
        (["run", "--epochs", "x"], "错误：'--epochs' 的值无效：'x' 不是有效的 integer。"),
        (["run", "--loss", "x"], "错误：'--loss' 的值无效：'x' 不在 'softmax', 'sigmoid' 之中。"),
        (["run", "--epochs"], "错误：选项 --epochs 需要一个值。"),
        (["runn"], "错误：没有命令 runn。"),
        (["search", "a", "b"], "错误：多余的参数：b"),
    ],
)
def test_a_wrong_command_line_is_said_in_chinese(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_LANG", "zh")
    shown = CliRunner().invoke(cli.build(), words)
    assert shown.exit_code == 2
    assert sentence in shown.output
    assert "Usage" not in shown.output
    monkeypatch.setenv("WENTU_LANG", "en")
    assert "Error: " in CliRunner().invoke(cli.build(), words).output


def test_clicks_words_are_still_clicks() -> None:
    """A newer click that says something otherwise would say it in English."""
    sources = "".join(
        Path(str(module.__file__)).read_text("utf-8").replace("\\n", "\n").replace("\\t", "\t")
        for module in chinese.MODULES
    )
    assert [words for words in chinese.WORDS if f'"{words}"' not in sources] == []


def test_an_unknown_preset_lists_the_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--pictures", "x", "--preset", "nope"]
    status, said = in_process(words, monkeypatch, capsys)
    assert status == 2
    assert all(name in said for name in parameters.presets())
    with pytest.raises(InputError, match="--preset nope: known are demo"):
        parameters.preset("nope")


# --- what a run is called with ----------------------------------------------------------------


def test_captions_not_named_again_are_those_of_the_release(
    built: Any, store: str, tmp_path: Path
) -> None:
    """For the same pictures, wherever the spelling leads; other pictures have none."""
    given = {"pictures": str(built.collection), "store": store}
    assert parameters.complete(given, None)["captions"] == built.captions
    (tmp_path / "link").symlink_to(built.collection)
    for place in (f"{built.collection}/pictures/..", f"{built.collection}/", tmp_path / "link"):
        same = given | {"pictures": str(place)}
        assert parameters.complete(same, None)["captions"] == built.captions
    assert parameters.complete(given | {"captions": "none"}, None)["captions"] == "none"
    assert parameters.complete(given | {"captions": "names"}, None)["captions"] == "names"
    other = {"pictures": str(tmp_path), "store": store}
    assert parameters.complete(other, None)["captions"] == "none"
    fresh = given | {"store": str(tmp_path / "fresh")}
    assert parameters.complete(fresh, None)["captions"] == "none"


def test_a_run_from_python_names_options_that_are_none(tmp_path: Path) -> None:
    import wentu as package

    with pytest.raises(InputError, match="no option is called epoch, lr; see `wentu run --help`"):
        package.run(str(tmp_path), epoch=3, lr=1.0)
    with pytest.raises(InputError, match="--epochs -1: give 0 or more"):
        package.run(str(tmp_path), epochs=-1)
    with pytest.raises(InputError, match=r"--pictures .*nowhere: no such folder"):
        package.run(str(tmp_path / "nowhere"))


def test_a_model_that_is_neither_name_nor_path_is_refused_before_anything_starts(
    built: Any, tmp_path: Path
) -> None:
    given = {"pictures": str(built.collection), "store": str(tmp_path / "store")}
    with pytest.raises(InputError, match="--model ViT-B-17: neither a path nor one of tiny, ViT-B"):
        parameters.complete(given | {"model": "ViT-B-17"}, None)
    assert not (tmp_path / "store").exists()
    for name in ("tiny", "openclip:ViT-B-32@laion2b_s34b_b79k", str(built.bundle)):
        assert parameters.complete(given | {"model": name}, None)["model"] == name


# --- commands that work -----------------------------------------------------------------------


def test_a_stage_by_hand_writes_its_output(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", "--catalog", str(built.catalog), "--features", str(built.features)]
    status, _ = in_process([*words, "--out", str(tmp_path / "out")], monkeypatch, capsys)
    assert status == 0
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_search_prints_json_with_ids_that_every_reader_keeps(built: Any) -> None:
    words = ["search", "红色圆形", "--store", built.store, "-k", "3", "--json", "--all"]
    shown = CliRunner().invoke(cli.build(), words)
    assert shown.exit_code == 0
    rows = json.loads(shown.output)
    assert len(rows) == 3
    assert all(isinstance(row["id"], str) and row["id"].isdigit() for row in rows)
    assert all((built.collection / row["paths"][0]).is_file() for row in rows)


def test_search_finds_the_captions_of_a_picture(built: Any) -> None:
    picture = built.collection / "pictures/0003.png"
    words = ["search", "--picture", str(picture), "--to", "captions", "--store", built.store]
    shown = CliRunner().invoke(cli.build(), [*words, "-k", "4", "--json"])
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.output)
    assert [set(row) for row in rows] == [{"text", "score", "path"}] * 4
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    table = CliRunner().invoke(cli.build(), [*words, "-k", "4"]).output
    assert all(row["text"].split(",")[0] in table for row in rows)
    for wrong in (["红色"], ["--sheet", "x.png"]):
        done = CliRunner().invoke(cli.build(), [*words, *wrong])
        assert isinstance(done.exception, InputError)
        assert "--to captions goes with --picture alone" in str(done.exception)


def test_a_plan_does_without_the_weights_and_says_that_they_are_missing(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_WEIGHTS", str(tmp_path))
    words = ["plan", "--pictures", str(built.collection), "--captions", str(built.collection)]
    words += ["--model", "RN50", "--preset", "gpu-6gb", "--store", str(tmp_path / "store")]
    shown = CliRunner().invoke(cli.build(), words, env={"COLUMNS": "300"})
    assert shown.exit_code == 0, shown.output
    assert "source: predicted by `wentu plan`" in shown.output
    assert "or on a GPU" in shown.output
    assert "Before a run: the pretrained weights of RN50 are not on this machine" in shown.output


def test_search_draws_a_sheet(built: Any, tmp_path: Path) -> None:
    sheet = tmp_path / "found.png"
    words = [
        "search",
        "红色圆形",
        "--store",
        built.store,
        "-k",
        "3",
        "--all",
        "--sheet",
        str(sheet),
    ]
    assert CliRunner().invoke(cli.build(), words).exit_code == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_plan_changes_nothing_and_says_what_a_run_would_do(built: Any, tmp_path: Path) -> None:
    words = ["plan", "--pictures", str(built.collection), "--captions", str(built.collection)]
    words += ["--preset", "demo", "--store", str(tmp_path / "store")]
    shown = CliRunner().invoke(cli.build(), words)
    assert shown.exit_code == 0, shown.output
    assert "train" in shown.output
    assert "24 pictures, 28 training pairs" in shown.output
    for name in ("attempts", "pointer", "splits", "inventories"):
        assert not (tmp_path / "store" / name).exists()


def test_a_full_disk_is_one_sentence() -> None:
    """What is printed goes to /dev/full, which refuses every byte."""
    words = [sys.executable, "-c", "from wentu.cli import main; main()", "run", "--help"]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode
    assert "the disk is full. Make room and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_was_left_out_is_named_with_what_to_install(
    built: Any, tmp_path: Path
) -> None:
    """As in the image that serves, which has no kfp."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.modules['kfp'] = None", "utf-8")
    words = ["run", "--pictures", str(built.collection), "--store", str(tmp_path / "store")]
    words += ["--no-train", "--model", built.store]
    env = os.environ | {"PYTHONPATH": f"{hidden}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", "from wentu.cli import main; main()", *words],
        capture_output=True,
        text=True,
        env=env | {"WENTU_TRACKING": "off"},
    )
    assert done.returncode == 2
    assert "this needs the package kfp: pip install 'wentu[run]'." in done.stderr
    assert "Traceback" not in done.stderr
