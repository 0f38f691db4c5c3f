"""evaluate: the exported candidate against the champion and the starting weights, on test.

What is measured is what will be served: the ONNX bundles. The verdict is a paired bootstrap of the
mean recall, clustered by group of pictures; the output holds the winner's bundle, so that what
comes after does not care who won.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from wentu import pictures, report, zeroshot
from wentu.clip.bundle import BUNDLE, Bundle, bundle_digest, training_of
from wentu.clip.encoder import BundleEncoder, Encoder, TorchEncoder
from wentu.errors import FormatError, InputError
from wentu.formats import (
    CATALOG,
    PairsLmdb,
    digest_of,
    facts,
    open_catalog,
    read_json,
    read_manifest,
    replacing,
    write_json,
)
from wentu.language import pick
from wentu.retrieval import Task
from wentu.settings import StageConfig, default_of, option
from wentu.stage import Stage, clear
from wentu.storage import link_or_copy, local_copy
from wentu.store import Store
from wentu.training.config import Config as Training
from wentu.verdict import Scored, hold_to, judge, score

WORST = 24
"""Queries shown in the report."""
RATIO = "{:.1f} %"
QUERIES = "queries.jsonl"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How sure a candidate must be better."""

    confidence: float = option(
        0.95,
        "Level of the bootstrap interval that must lie above 0 to replace a champion.",
        "替换现有模型所需的自助法置信水平：区间须全部大于 0。",
    )
    resamples: int = option(2000, "Bootstrap resamples.", "自助法重采样次数。")
    suite: str = option(
        "",
        "A general task that a candidate must not unlearn: a folder per class, or one with "
        "label_cn.txt, as of `wentu classify --suite`.",
        "候选模型不应遗忘的通用任务：每类一个目录，或带 label_cn.txt 的目录，"
        "同 wentu classify --suite。",
    )
    max_suite_drop: float = option(
        0.02,
        "Share of the suite's pictures that a candidate may recognise less than the current model.",
        "候选模型在该任务上的正确率最多可比现有模型低多少。",
    )

    def check(self) -> None:
        self.need(
            0.5 <= self.confidence < 1,
            "confidence",
            "give a level from 0.5 to below 1.",
            "应在 0.5 与 1 之间。",
        )
        self.need(self.resamples >= 100, "resamples", "give 100 or more.", "至少为 100。")
        self.need_share("max_suite_drop")


def evaluate(
    *,
    lmdb: Path,
    bundle: Path,
    store: str,
    out: Path,
    winner: Path,
    config: Config,
    pointer: int = 0,
) -> None:
    """Write ``evaluation.json`` and ``report.html`` into ``out``, the better bundle to ``winner``.

    Args:
        lmdb: output of pack_lmdb. bundle: output of export_onnx.
        pointer: number of the store's pointer whose release is the champion; 0: none.
    """
    inputs = {
        "pack_lmdb": read_manifest(lmdb, "pack_lmdb").digest,
        "candidate": bundle_digest(bundle),
        "pointer": str(pointer),
    }
    with Stage("evaluate", out, config, inputs) as stage:
        vault = Store(store)
        champion = champion_of(vault, pointer)
        refuse_same(winner, out, bundle, champion)
        closed = facts(lmdb / CATALOG).get("split") == "closed"
        task, groups = split_to_test(lmdb, closed=closed)
        notes = [closed_note()] if closed else check_overlap(bundle, champion, groups)
        notes += cautions(bundle, task)
        models = encoders(bundle, champion, stage)
        scored = score_all(lmdb, task, models, stage) if task.texts else {}
        suite = score_suite(models, config, stage)
        verdict = judge(
            scored,
            task,
            groups,
            had_champion=champion is not None,
            resamples=config.resamples,
            level=config.confidence,
        )
        if suite:
            verdict = hold_to(
                suite, verdict, had_champion=champion is not None, most=config.max_suite_drop
            )
        keep = bundle if champion is None or verdict["promote"] else champion
        copy_bundle(keep, winner)
        result = {
            "verdict": verdict,
            "notes": notes,
            "candidate": bundle_digest(bundle),
            "champion": bundle_digest(champion) if champion else "",
            "pointer": pointer,
            "winner": bundle_digest(winner),
            "split": "closed" if closed else "open",
            "split_version": split_version(task),
            "queries": len(task.texts),
            "pictures": len(task.image_ids),
            "metrics": {name: each.metrics for name, each in scored.items()},
            "suite": {name: asdict(each) for name, each in suite.items()},
        }
        write_json(out / "evaluation.json", result)
        write_queries(out / QUERIES, scored, task)
        write_report(out, result, scored, task, lmdb, bundle)
        log(stage, result)


def champion_of(store: Store, pointer: int) -> Path | None:
    """The bundle of the release that was current when this run began."""
    if pointer == 0:
        return None
    found = store.pointer(pointer)
    if found is None:
        raise InputError(f"the store has no pointer {pointer}.", f"仓库中没有指针 {pointer}。")
    return store.model(store.release(found.release).model)


def split_to_test(lmdb: Path, *, closed: bool = False) -> tuple[Task, dict[int, int]]:
    """The test split as a task, and the group of each of its pictures.

    closed: it holds views of the training pictures.
    """
    if not read_manifest(lmdb).counts.get("test_pairs"):
        return Task.of([]), {}
    with PairsLmdb(lmdb / "test") as split:
        task = Task.of(split.pairs())
    with closing(open_catalog(lmdb / CATALOG)) as db:
        source = ("train" if closed else "test",)
        rows = db.execute("SELECT id, grp FROM pictures WHERE split = ?", source)
        groups = dict(rows.fetchall())
        query = (
            "SELECT t.text, min(c.original) FROM pictures p JOIN captions c ON c.picture = p.id "
            "JOIN texts t ON t.id = c.text WHERE p.split = ? AND c.original IS NOT NULL "
            "GROUP BY t.id"
        )
        written = dict(db.execute(query, source).fetchall())
    # As people write them: a model brings its own conversion, as it does when it is served.
    return replace(task, texts=[written.get(text, text) for text in task.texts]), groups


def split_version(task: Task) -> str:
    """Digest of what is tested: figures are comparable where it is equal."""
    return digest_of(
        [task.image_ids, task.texts, [rows.tolist() for rows in task.pictures_of_text]]
    )


def closed_note() -> str:
    """What kind of number a naming task gives."""
    return pick(
        "closed: recall on changed views of the training pictures; it says how well the names are "
        "told apart, not how well unseen pictures are found",
        "封闭划分：在训练图片的变化视图上的召回率；说明名称能否区分，不代表对未见图片的检索效果",
    )


FEW = 30
"""Test pictures below which a recall says little: one more found is more than 3 points."""


def cautions(bundle: Path, task: Task) -> list[str]:
    """What keeps these figures from meaning much."""
    found = []
    if 0 < len(task.image_ids) < FEW:
        found.append(
            pick(
                f"only {len(task.image_ids)} test pictures: these figures prove little",
                f"测试图片只有 {len(task.image_ids)} 张：这些数值说明不了多少",
            )
        )
    history = training_of(bundle)[0]
    if history and not any("recall" in row for row in history):
        found.append(
            pick(
                "there was no valid split: the last epoch was taken, be it the best or not",
                "没有验证集：直接采用最后一轮，无法判断它是否最好",
            )
        )
    if len(history) > 1 and read_json(bundle / BUNDLE).get("epoch") == 0:
        found.append(
            pick(
                "no epoch was better than the start on the valid split: the model is its start",
                "验证集上没有一轮优于起点：模型就是起始权重",
            )
        )
    return found


def check_overlap(bundle: Path, champion: Path | None, groups: dict[int, int]) -> list[str]:
    """Refuse a test split that the candidate was trained on; say so where the champion was."""
    tested = set(groups.values())
    shared = tested & set(training_of(bundle)[1])
    if shared:
        raise InputError(
            f"{len(shared):,} groups of nearly equal pictures are in the test split and in "
            "training alike; the comparison would be worthless. Put each group into one split.",
            f"{len(shared):,} 组近似图片同时出现在测试集和训练集中，比较没有意义；"
            "请让每组图片只属于一个划分。",
        )
    seen = len(tested & set(training_of(champion)[1])) if champion else 0
    if not seen:
        return []
    return [
        pick(
            f"the champion was trained on {seen:,} of the test groups: it has an advantage",
            f"现有模型训练时见过 {seen:,} 组测试图片：它占有优势",
        )
    ]


def encoders(bundle: Path, champion: Path | None, stage: Stage) -> dict[str, Encoder]:
    """start, champion (where there is one) and candidate, in the order of the report."""
    found: dict[str, Encoder] = {}
    origin = Bundle(bundle).info.get("training", {})
    try:
        from wentu.clip import checkpoint

        name = str(origin.get("model", ""))
        start = checkpoint.start(name, seed=int(origin.get("seed", 0)))
        if start.state is not None and checkpoint.weights_digest(name) != origin["weights"]:
            raise InputError(
                f"{name} changed since the training began.", f"{name} 在训练开始后已改变。"
            )
        tuned = {name: origin[name] for name in checkpoint.TUNED}
        found["start"] = TorchEncoder(replace(start, info={**start.info, **tuned}))
    except (InputError, FormatError, KeyError) as error:
        stage.progress.note(pick(f"start is left out: {error}", f"略去起始权重：{error}"))
    if champion:
        found["champion"] = BundleEncoder(Bundle(champion))
    found["candidate"] = BundleEncoder(Bundle(bundle))
    return found


def score_all(
    lmdb: Path, task: Task, models: dict[str, Encoder], stage: Stage
) -> dict[str, Scored]:
    """Each model's ranks on the whole test split."""
    with PairsLmdb(lmdb / "test") as split:
        return {
            name: score(split, task, encoder, name, stage.progress)
            for name, encoder in models.items()
        }


def score_suite(
    models: dict[str, Encoder], config: Config, stage: Stage
) -> dict[str, zeroshot.Scores]:
    """Each model on the general task, if one is given."""
    if not config.suite:
        return {}
    suite = zeroshot.Suite.open(local_copy(config.suite))
    templates = zeroshot.templates_for(suite.labels)
    return {
        name: zeroshot.score(encoder, suite, templates, stage.progress, f"{name}, suite")
        for name, encoder in models.items()
    }


def refuse_same(winner: Path, out: Path, bundle: Path, champion: Path | None) -> None:
    """What would be cleared for the winner must be nothing that is needed."""
    for what, what_zh, folder in (
        ("--out", "--out", out),
        ("one of the bundles compared", "参与比较的模型包之一", bundle),
        ("one of the bundles compared", "参与比较的模型包之一", champion),
    ):
        if folder and folder.resolve() == winner.resolve():
            raise InputError(
                f"--winner {winner} is {what}; name another folder.",
                f"--winner {winner} 是 {what_zh}；请使用其他目录。",
            )


def copy_bundle(bundle: Path, target: Path) -> None:
    """The winner's bundle as an output of this stage."""
    clear(target, "evaluate")
    for path in sorted(bundle.iterdir()):
        if path.is_file() and path.name not in (".wentu", "manifest.json"):
            link_or_copy(str(path), str(target / path.name))


def log(stage: Stage, result: dict[str, Any]) -> None:
    """Counts for the manifest, headline metrics for the runs table."""
    metrics = result["metrics"]
    for name, values in metrics.items():
        stage.counts[f"{name}_mean_recall"] = values["mean_recall"]
    stage.counts["promote"] = str(result["verdict"]["promote"])
    if "candidate" in metrics:
        stage.counts["text_to_image_recall_at_1"] = metrics["candidate"]["text_to_image/recall@1"]
        tags = {"wentu.verdict": "promote" if result["verdict"]["promote"] else "keep"}
        figures = {f"test/{k}": v for k, v in metrics["candidate"].items()}
        figures |= {f"suite/{name}_top1": each["top1"] for name, each in result["suite"].items()}
        stage.tracker.headline(figures, tags)
    for path in [*sorted(stage.out.glob("*.png")), stage.out / "report.html"]:
        if path.exists():
            stage.tracker.artifact(path)


def write_queries(path: Path, scored: dict[str, Scored], task: Task) -> None:
    """Each caption with the rank of its picture by each model: what two runs are compared by."""
    with replacing(path) as file:
        for row, text in enumerate(task.texts):
            line = {
                "text": text,
                "pictures": [str(task.image_ids[each]) for each in task.pictures_of_text[row]],
                "ranks": {name: int(s.text_to_image.best[row]) for name, s in scored.items()},
            }
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


# --- report -----------------------------------------------------------------------------------


def write_report(
    out: Path,
    result: dict[str, Any],
    scored: dict[str, Scored],
    task: Task,
    lmdb: Path,
    bundle: Path,
) -> None:
    """``report.html``, self-contained: verdict, bars, table, curves, worst queries."""
    verdict, history = result["verdict"], training_of(bundle)[0]
    said = pick("Promote: ", "采用：") if verdict["promote"] else pick("Keep: ", "保留现有模型：")
    sections: list[report.Section] = [
        report.Paragraph(text=said + verdict["reason"] + ".", heading=pick("Verdict", "结论"))
    ]
    sections.insert(0, report.Paragraph(text=about(out, bundle)))
    sections += [report.Paragraph(text=note) for note in result["notes"]]
    if scored:
        report.plot_recall_bars({n: s.metrics for n, s in scored.items()}, out / "recall.png")
        closed = result["split"] == "closed"
        kind = (
            ("views of training pictures", "训练图片视图")
            if closed
            else ("test pictures", "测试集")
        )
        heading = pick(
            f"Recall on {result['pictures']:,} {kind[0]}, {result['queries']:,} captions",
            f"{kind[1]}召回率：{result['pictures']:,} 张图片，{result['queries']:,} 条描述",
        )
        sections.append(report.Picture(png=out / "recall.png", text=heading, heading=heading))
        sections.append(metrics_table({name: each.metrics for name, each in scored.items()}))
    if result["suite"]:
        sections.append(suite_table(result["suite"]))
    if history:
        report.plot_loss(history, out / "epoch_loss.png")
        report.plot_recall(history, out / "epoch_recall.png")
        for name, heading in (
            ("epoch_loss", pick("Training", "训练过程")),
            ("epoch_recall", pick("Recall while training", "训练中的召回率")),
        ):
            png = out / f"{name}.png"
            sections.append(report.Picture(png=png, text=heading, heading=heading))
    if scored:
        sections.append(worst_queries(scored["candidate"], task, lmdb))
    report.write_html(out / "report.html", pick("Evaluation", "模型评估"), sections)


def about(out: Path, bundle: Path) -> str:
    """Which run this was, when, and what the candidate is."""
    origin = Bundle(bundle).info.get("training", {})
    usual = {each.name: default_of(each) for each in fields(Training)}
    given = {k: v for k, v in origin.get("config", {}).items() if usual.get(k) != v}
    settings = " ".join(switch(name, value) for name, value in given.items())
    lines = [
        pick("Run: ", "运行：") + os.environ.get("WENTU_RUN_ID", str(out)),
        pick("Date: ", "日期：") + datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        pick("Started from: ", "起点：") + str(origin.get("model", "?")),
        pick("Settings: ", "设置：") + (settings or pick("the usual ones", "默认")),
    ]
    return "\n".join(lines)


def switch(name: str, value: Any) -> str:
    """A setting as it is written on the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def metrics_table(metrics: dict[str, dict[str, float]]) -> report.Table:
    """All figures of all models, percent."""
    names = list(metrics)
    label = {
        "text_to_image": pick("text → picture", "文搜图"),
        "mean_recall": pick("both (overall R-mean)", "两个方向(overall R-mean)"),
        "image_to_text": pick("picture → text", "图搜文"),
    }
    # As the table of Chinese-CLIP's paper names the means: by what is found.
    known = {
        "text_to_image/mean_recall": pick("mean recall (image R-mean)", "平均召回率(image R-mean)"),
        "image_to_text/mean_recall": pick("mean recall (text R-mean)", "平均召回率(text R-mean)"),
    }
    rows: list[Sequence[str | float]] = []
    for key in metrics[names[0]]:
        way, _, figure = key.partition("/")
        cells = [RATIO.format(100 * metrics[name][key]) for name in names]
        rows.append([label[way], known.get(key, figure.replace("_", " ")), *cells])
    heads = [pick("direction", "方向"), pick("figure", "指标"), *names]
    return report.Table(columns=heads, rows=rows)


def suite_table(suite: dict[str, dict[str, Any]]) -> report.Table:
    """How well each model classifies the general task, percent."""
    rows = [
        [name, RATIO.format(100 * each["top1"]), RATIO.format(100 * each["mean_per_class"])]
        for name, each in suite.items()
    ]
    return report.Table(
        columns=[
            pick("model", "模型"),
            pick("recognised", "正确率"),
            pick("mean of the classes", "各类平均"),
        ],
        rows=rows,
        heading=pick("General task", "通用任务"),
    )


def worst_queries(scored: Scored, task: Task, lmdb: Path) -> report.Gallery:
    """The captions whose picture ranks lowest: what was expected, and what came first."""
    best = scored.text_to_image.best
    order = [int(row) for row in np.argsort(-best, kind="stable")[:WORST] if best[row] > 1]
    rows = []
    with PairsLmdb(lmdb / "test") as split:

        def small(row: int) -> bytes:
            data = split.picture(task.image_ids[row])
            return pictures.thumbnail(pictures.decode(data), side=160)

        for query in order:
            place = pick(f"rank {best[query]:,}", f"排名第 {best[query]:,}")
            expected = small(int(task.pictures_of_text[query][0])), place
            got = small(int(scored.first[query])), pick("came first", "排在第一")
            rows.append((task.texts[query], expected, got))
    heading = pick("Queries that found the wrong picture", "没有找对图片的查询")
    return report.Gallery(rows=rows, heading=heading)
