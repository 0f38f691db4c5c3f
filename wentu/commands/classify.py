"""`wentu classify`: which label each picture shows, in percent; or how often that is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from wentu import pictures as decoder
from wentu import zeroshot
from wentu.clip.encoder import Encoder, load_encoder
from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.errors import InputError
from wentu.language import pick
from wentu.progress import Lines
from wentu.settings import store_place


def command() -> click.Command:
    """The command."""
    made = make_command("classify", execute, [])
    made.params = [
        click.Argument(["images"], nargs=-1),
        make_option(
            "labels",
            str,
            "",
            pick("Labels as a,b,c, or a file with one a line.", "标签：a,b,c，或每行一个的文件。"),
        ),
        make_option(
            "model",
            str,
            "",
            pick(
                "A name, checkpoint, bundle or store; twice for two side by side "
                "[the store's current release].",
                "名称、检查点、模型包或仓库；给两次则并排比较 [仓库的当前版本]。",
            ),
            multiple=True,
        ),
        make_option(
            "suite",
            str,
            "",
            pick(
                "Score a folder per class instead (or label_cn.txt + test/000/).",
                "改为对按类分目录的测试集评分(或 label_cn.txt + test/000/)。",
            ),
        ),
        make_option(
            "template",
            str,
            "",
            pick("A sentence with {} for the label; repeat.", "含 {} 的句子，可重复。"),
            multiple=True,
        ),
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
        click.Option(["--json", "as_json"], is_flag=True, help=pick("Print JSON.", "输出 JSON。")),
    ]
    return made


def execute(
    images: tuple[str, ...],
    labels: str | None,
    model: tuple[str, ...],
    suite: str | None,
    template: tuple[str, ...],
    store: str | None,
    as_json: bool,
) -> None:
    """Classify and print."""
    if bool(images) == bool(suite) or not (labels or suite):
        raise InputError(
            "give pictures and --labels, or --suite DIR.", "请给出图片与 --labels，或 --suite DIR。"
        )
    for each in template:
        if "{}" not in each:
            raise InputError(
                f"--template {each!r} has no {{}}.", f"--template {each!r} 中没有 {{}}。"
            )
    named = zeroshot.read_labels(labels) if labels else None
    places = model or (store or store_place(),)
    encoders = {place: load_encoder(place) for place in places}
    if suite:
        show_scores(
            zeroshot.Suite.open(Path(suite).expanduser(), named), encoders, template, as_json
        )
    else:
        assert named
        show_labels(images, named, encoders, template, as_json)


def show_labels(
    images: tuple[str, ...],
    labels: list[str],
    encoders: dict[str, Encoder],
    template: tuple[str, ...],
    as_json: bool,
) -> None:
    """A row per picture, a column per label and model; what cannot be read is said at the end."""
    readable, refused = [], []
    for image in images:
        try:
            readable.append((image, decoder.decode(Path(image).expanduser().read_bytes())))
        except (OSError, decoder.PictureError) as error:
            refused.append(f"{image}: {error}")
    if readable:
        sentences = template or zeroshot.templates_for(labels)
        opened = [picture for _, picture in readable]
        found = {
            name: zeroshot.probabilities(encoder, opened, labels, sentences)
            for name, encoder in encoders.items()
        }
        if as_json:
            rows: list[Any] = [
                {"picture": image, "model": name, "labels": dict(zip(labels, row, strict=True))}
                for name, values in found.items()
                for (image, _), row in zip(readable, values.tolist(), strict=True)
            ]
            click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        else:
            make_console().print(labels_table([image for image, _ in readable], labels, found))
    if refused:
        raise InputError(
            f"{len(refused)} of {len(images)} pictures cannot be read: {'; '.join(refused[:3])}.",
            f"{len(images)} 张图片中有 {len(refused)} 张无法读取：{'；'.join(refused[:3])}。",
        )


def labels_table(images: list[str], labels: list[str], found: dict[str, Any]) -> Table:
    """The five best labels of each picture, in percent, a column per model."""
    table = Table(box=None, pad_edge=False)
    table.add_column(pick("picture", "图片"), overflow="fold")
    for name in found:
        title = Path(name).name if len(found) > 1 else pick("labels", "标签")
        table.add_column(escape(title), overflow="fold")
    for row, image in enumerate(images):
        cells = []
        for values in found.values():
            best = values[row].argsort()[::-1][:5]
            texts = [f"{labels[i]} {100 * values[row][i]:.1f} %" for i in best]
            cells.append(
                f"[bold]{escape(texts[0])}[/]" + escape("".join(f"\n{t}" for t in texts[1:]))
            )
        table.add_row(escape(Path(image).name), *cells)
    return table


def show_scores(
    suite: zeroshot.Suite, encoders: dict[str, Encoder], template: tuple[str, ...], as_json: bool
) -> None:
    """Top-1, top-5 and a row per class, a column per model."""
    sentences = template or zeroshot.templates_for(suite.labels)
    scored = {
        name: zeroshot.score(encoder, suite, sentences, Lines("classify"), Path(name).name)
        for name, encoder in encoders.items()
    }
    if as_json:
        values = {name: vars(each) for name, each in scored.items()}
        click.echo(json.dumps(values, ensure_ascii=False, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column(pick("pictures", "图片"), justify="right")
    for name in scored:
        table.add_column(escape(Path(name).name), justify="right")
    total = str(len(suite.pictures))
    for label, key in (
        ("top-1", "top1"),
        ("top-5", "top5"),
        (pick("mean per class", "各类平均"), "mean_per_class"),
    ):
        cells = [f"{100 * getattr(each, key):.1f} %" for each in scored.values()]
        table.add_row(f"[bold]{label}", total, *cells)
    table.add_section()
    for row, (label, count, _) in enumerate(next(iter(scored.values())).per_class):
        cells = [f"{100 * each.per_class[row][2]:.1f} %" for each in scored.values()]
        table.add_row(escape(label), str(count), *cells)
    make_console().print(table)
    unreadable = next(iter(scored.values())).unreadable
    if unreadable:
        make_console().print(
            pick(f"{unreadable} pictures could not be read.", f"{unreadable} 张图片无法读取。")
        )
