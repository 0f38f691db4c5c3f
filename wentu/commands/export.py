"""`wentu export`: features, predictions and evaluation of a release in Chinese-CLIP's formats."""

from __future__ import annotations

import click
from rich.table import Table

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.errors import InputError
from wentu.formats import SPLITS
from wentu.language import pick
from wentu.settings import store_place

CHOICES = (*SPLITS, "all")


def command() -> click.Command:
    """The command."""
    jsonl = pick(
        "Folder for {split}_imgs.img_feat.jsonl, {split}_predictions.jsonl and the others.",
        "写入 {split}_imgs.img_feat.jsonl、{split}_predictions.jsonl 等文件的目录。",
    )
    split = pick(
        "Which pictures; all is the whole release as one gallery.",
        "导出哪些图片；all 表示整个版本作为一个图库。",
    )
    made = make_command("export", execute, [])
    made.params = [
        make_option("jsonl", str, "", jsonl, required=True),
        make_option("split", str, "test", split, choices=CHOICES),
        click.Option(
            ["-k"],
            type=int,
            default=10,
            show_default=True,
            help=pick("Predictions of each query.", "每条查询的预测数。"),
        ),
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
    ]
    return made


def execute(jsonl: str, split: str | None, k: int, store: str | None) -> None:
    """Export, and show the recall."""
    from wentu.interchange.leave import leave
    from wentu.progress import Lines
    from wentu.storage import local_path
    from wentu.store import Store

    vault, out = Store(store or store_place()), local_path(jsonl)
    current = vault.current()
    if current is None:
        raise InputError(f"{vault.place} has no release yet.", f"{vault.place} 还没有发布版本。")
    pictures, metrics = leave(vault, current[1], split or "test", out, k, Lines("export"))
    console = make_console()
    if metrics:
        console.print(recall_table(metrics))
    text = pick(
        f"{pictures:,} pictures exported to {out}.", f"已把 {pictures:,} 张图片导出到 {out}。"
    )
    console.print(text, soft_wrap=True, markup=False)


def recall_table(metrics: dict[str, dict[str, float]]) -> Table:
    """Percent, both ways."""
    words = {
        "text_to_image": pick("text → picture", "文搜图"),
        "image_to_text": pick("picture → text", "图搜文"),
    }
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for head in ("R@1", "R@5", "R@10", pick("mean recall", "平均召回率")):
        table.add_column(head, justify="right")
    for way, values in metrics.items():
        shown = (values[key] for key in ("r1", "r5", "r10", "mean_recall"))
        table.add_row(words[way], *(f"{value:.1f} %" for value in shown))
    return table
