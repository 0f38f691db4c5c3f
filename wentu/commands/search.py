"""`wentu search`: find pictures by text, by picture, or both."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.errors import InputError
from wentu.language import pick
from wentu.search.engine import CaptionHit, Engine, read_query_picture
from wentu.search.query import Answer, Filters, Hit, Query
from wentu.settings import store_place


def command() -> click.Command:
    """The command."""
    options: list[click.Parameter] = [
        click.Argument(["text"], required=False),
        make_option("picture", str, "", pick("A picture to search with.", "用于搜索的图片。")),
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
        click.Option(
            ["-k"],
            type=int,
            default=10,
            show_default=True,
            help=pick("How many pictures.", "返回的图片数。"),
        ),
        make_option(
            "picture_weight",
            float,
            0.5,
            pick(
                "Of the picture where both are given, 0 to 1.",
                "同时给出文字与图片时图片的权重，0 到 1。",
            ),
        ),
        make_option(
            "to",
            str,
            "pictures",
            pick("What to find; captions needs --picture.", "要找什么；captions 需要 --picture。"),
            choices=("pictures", "captions"),
        ),
        make_option(
            "sheet",
            str,
            "",
            pick(
                "Write the results as a contact sheet (PNG) to look at.",
                "把结果写成一张缩略图拼图(PNG)。",
            ),
        ),
        make_option(
            "folder",
            str,
            "",
            pick("Only below this folder of the collection.", "仅限图文集的此目录。"),
        ),
        click.Option(
            ["--all", "everything"],
            is_flag=True,
            help=pick(
                "Show also pictures that do not seem to fit the text.",
                "也显示看来与文字不符的图片。",
            ),
        ),
        click.Option(["--json", "as_json"], is_flag=True, help=pick("Print JSON.", "输出 JSON。")),
    ]
    made = make_command("search", execute, [])
    made.params = options
    return made


def execute(
    text: str | None,
    picture: str | None,
    store: str | None,
    k: int,
    picture_weight: float | None,
    to: str | None,
    sheet: str | None,
    folder: str | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Search and print."""
    query = read_query_picture(picture)
    if sheet and (Path(sheet).suffix.lower() != ".png" or Path(sheet).is_dir()):
        raise InputError(
            f"--sheet {sheet}: name a file that ends in .png.",
            f"--sheet {sheet}：请给出以 .png 结尾的文件名。",
        )
    if to == "captions" and (query is None or text or sheet):
        raise InputError(
            "--to captions goes with --picture alone.", "--to captions 只能与 --picture 单独同用。"
        )
    engine = Engine.open(store or store_place())
    if to == "captions":
        assert query
        show_captions(engine.captions(query, k), as_json)
        engine.close()
        return
    text_weight, weight = shares(text, query, 0.5 if picture_weight is None else picture_weight)
    answer = engine.find(
        Query(
            text=text or "",
            picture=query,
            text_weight=text_weight,
            picture_weight=weight,
            filters=Filters(folder=folder or ""),
            all=everything,
            k=k,
        )
    )
    hits = answer.hits
    if as_json:
        import json

        rows = [
            vars(hit) | {"id": str(hit.id), "similar": [str(other) for other in hit.similar]}
            for hit in hits
        ]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        show(answer)
    if sheet:
        from wentu import report

        label = " + ".join(part for part in (text, picture and Path(picture).name) if part)
        shots = [
            (engine.thumbnail(hit.id), f"{hit.score:.3f} {Path(hit.paths[0]).name}") for hit in hits
        ]
        report.contact_sheet([(label, shots)], Path(sheet))
    engine.close()


def shares(text: str | None, picture: bytes | None, of_picture: float) -> tuple[float, float]:
    """The weights of text and picture."""
    if not 0 <= of_picture <= 1:
        raise InputError(
            f"--picture-weight {of_picture}: give a number from 0 to 1.",
            f"--picture-weight {of_picture}：应为 0 到 1 之间的数。",
        )
    if not (text and text.strip() and picture):
        return 1.0, 1.0
    return 1 - of_picture, of_picture


def show(answer: Answer) -> None:
    """What was found; else, that nothing was."""
    if answer.hits:
        make_console().print(result_table(answer.hits))
    if not answer.withheld:
        return
    if not answer.hits:
        text = pick(
            f"Nothing fits; --all shows the {answer.withheld} nearest all the same.",
            f"没有符合的图片；用 --all 仍可显示最接近的 {answer.withheld} 张。",
        )
    else:
        text = pick(
            f"{answer.withheld} more do not seem to fit; --all shows them.",
            f"另有 {answer.withheld} 张看来不符；用 --all 显示。",
        )
    make_console().print(text)


def show_captions(hits: list[CaptionHit], as_json: bool) -> None:
    """Rank, score, caption and a picture that it stands on."""
    if as_json:
        import json

        click.echo(json.dumps([vars(hit) for hit in hits], ensure_ascii=False, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column(pick("score", "得分"), justify="right")
    table.add_column(pick("caption", "描述"), overflow="fold")
    table.add_column(pick("stands on", "来自"), overflow="fold")
    for rank, hit in enumerate(hits, 1):
        table.add_row(str(rank), f"{hit.score:.3f}", escape(hit.text), escape(hit.path))
    make_console().print(table)


def result_table(hits: list[Hit]) -> Table:
    """Rank, score, how sure it is, file and first caption of each hit."""
    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column(pick("score", "得分"), justify="right")
    judged = any(hit.confidence is not None for hit in hits)
    if judged:
        table.add_column(pick("fits", "符合"), justify="right")
    table.add_column(pick("picture", "图片"), overflow="fold")
    table.add_column(pick("caption", "描述"), overflow="fold")
    for rank, hit in enumerate(hits, 1):
        caption = hit.captions[0] if hit.captions else ""
        sure = [f"{hit.confidence:.0%}"] if hit.confidence is not None else [""] * judged
        told = [*sure, escape(hit.paths[0]), escape(caption)]
        table.add_row(str(rank), f"{hit.score:.3f}", *told)
    return table
