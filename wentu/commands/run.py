"""`wentu run`: the whole pipeline here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_type_hints

import click
from rich.console import Console
from rich.table import Table

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.language import pick
from wentu.orchestrate import parameters
from wentu.settings import default_of
from wentu.stages import STAGES, config_class

if TYPE_CHECKING:
    from wentu.orchestrate.local import Outcome


def run_options() -> list[click.Option]:
    """The options that `run` and `plan` share: where, preset, and every Config field."""
    options = [
        make_option(
            name,
            str,
            "",
            parameters.help_for(name),
            required=name == "pictures",
            multiple=name == "captions",
        )
        for name in parameters.HELP
    ]
    text = pick(
        "Which captions of a folder that holds cn_*.json and en_*.json.",
        "目录中同时有 cn_*.json 与 en_*.json 时使用哪一种。",
    )
    options.append(make_option("captions_lang", str, "", text, choices=("cn", "en")))
    names = tuple(parameters.presets())
    text = pick(
        "A complete named run; what you give goes before it.", "预设的完整参数；您给出的优先。"
    )
    options.append(make_option("preset", str, "", text, choices=names))
    types = {
        name: kind for stage in STAGES for name, kind in get_type_hints(config_class(stage)).items()
    }
    for name, each in parameters.options().items():
        options.append(
            make_option(
                name,
                types[name],
                default_of(each),
                parameters.help_for(name),
                choices=each.metadata.get("choices", ()),
            )
        )
    return options


def complete(given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a run from the options that were given."""
    preset = given.pop("preset", None)
    captions = given.pop("captions", ())
    given["captions"] = "\n".join(captions) if captions else None
    return parameters.complete(given, preset)


def command() -> click.Command:
    """The command."""
    return make_command(
        "run", lambda **given: execute(complete(given), make_console()), run_options()
    )


def execute(values: dict[str, Any], console: Console) -> Outcome:
    """Run and say what came of it; returns the Outcome."""
    from wentu.orchestrate.local import run

    outcome = run(values, console)
    if outcome.decision == "skip":
        console.print(pick(f"Nothing new: {outcome.reason}.", f"没有新内容：{outcome.reason}。"))
        return outcome
    console.print(
        pick(
            f"\nRelease [bold]{outcome.release}[/] is current "
            f"({outcome.decision}: {outcome.reason}; {outcome.seconds:.0f} s).",
            f"\n当前版本 [bold]{outcome.release}[/]({outcome.decision}:{outcome.reason};"
            f"{outcome.seconds:.0f} 秒)。",
        )
    )
    show_collection(outcome.folder, console)
    show_metrics(outcome.folder, console)
    return outcome


PROBLEMS = {
    "rejected": ("pictures set aside", "图片未采用"),
    "without_caption": ("pictures without caption", "图片没有描述"),
    "captions_without_picture": ("captions without picture", "描述找不到图片"),
    "captions_cut": ("captions cut", "描述被截断"),
    "unknown_tokens": ("unknown tokens", "未知词元"),
    "near_duplicates_in_several_splits": ("copies across splits", "近似图片跨划分"),
}


def show_collection(folder: Any, console: Console) -> None:
    """What was wrong with the collection, in a line, and where it says more."""
    from wentu.formats import read_json

    found = sorted(folder.glob("artifacts/*/pairs*/catalog/report.json"))
    if not found:
        return
    facts = read_json(found[0])
    numbers = facts["counts"] | facts["details"]
    told = [f"{numbers[key]:,} {pick(*PROBLEMS[key])}" for key in PROBLEMS if numbers.get(key)]
    if told:
        path = found[0].with_name("report.html")
        label = pick("Collection", "图文集")
        console.print(f"{label}: {', '.join(told)}; {path}", soft_wrap=True, highlight=False)


def show_metrics(folder: Any, console: Console) -> None:
    """Recall before and after, and where the report is, if this run evaluated."""
    from wentu.formats import read_json

    found = sorted(folder.glob("artifacts/*/evaluate/report/evaluation.json"))
    if not found:
        return
    result = read_json(found[0])
    if result["metrics"]:
        what = {
            "open": ("the test split", "测试集"),
            "closed": ("changed views of the training pictures", "训练图片的变化视图上的"),
        }
        names = {
            "start": pick("before", "训练前"),
            "champion": pick("current model", "现有模型"),
            "candidate": pick("after", "训练后"),
        }
        table = Table(
            title=pick(
                f"Recall on {what[result['split']][0]}, % (t: text, p: picture)",
                f"{what[result['split']][1]}召回率，%",
            ),
            title_justify="left",
        )
        table.add_column("")
        keys = [
            f"{way}/recall@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)
        ]
        ways = {"text_to_image": pick("t→p", "文→图"), "image_to_text": pick("p→t", "图→文")}
        for key in keys:
            way, _, figure = key.partition("/recall")
            table.add_column(f"{ways[way]} {figure}", justify="right")
        for name, metrics in result["metrics"].items():
            table.add_row(names[name], *(f"{100 * metrics[key]:.1f}" for key in keys))
        console.print(table)
    verdict = result["verdict"]
    mark = (
        pick("Promoted", "已采用")
        if verdict["promote"]
        else pick("Kept the current model", "保留现有模型")
    )
    console.print(f"{mark}: {verdict['reason']}.")
    for note in result["notes"]:
        console.print(f"{pick('Note', '注意')}: {note}.")
    console.print(f"{pick('Report', '报告')}: {found[0].parent / 'report.html'}", soft_wrap=True)
