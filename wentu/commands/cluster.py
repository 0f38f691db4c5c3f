"""What `submit`, `schedule`, `status` and `doctor` share: which cluster, and what it gives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wentu.commands.options import make_option
from wentu.commands.run import complete, run_options
from wentu.language import pick
from wentu.settings import store_place

if TYPE_CHECKING:
    from wentu.orchestrate.kubeflow import Submission

NOT_RUN = ("host", "namespace", "profile", "image", "gpus")


def where_options() -> list[click.Option]:
    """Which server."""
    return [
        make_option(
            "host",
            str,
            "",
            pick(
                "URL of Kubeflow Pipelines [KF_PIPELINES_ENDPOINT]; a token: KF_PIPELINES_TOKEN.",
                "Kubeflow Pipelines 的地址 [KF_PIPELINES_ENDPOINT]；令牌：KF_PIPELINES_TOKEN。",
            ),
        ),
        make_option(
            "namespace",
            str,
            "",
            pick(
                "Your namespace, where Kubeflow has several users.",
                "您的命名空间(多用户 Kubeflow)。",
            ),
        ),
    ]


def profile_option() -> click.Option:
    """What the cluster gives."""
    return make_option(
        "profile",
        click.Path(dir_okay=False),
        "",
        pick(
            "TOML file: resources, images, secrets of each stage.",
            "TOML 文件：各阶段的资源、镜像与机密。",
        ),
    )


def submission_options() -> list[click.Option]:
    """Everything of a run, and what the cluster gives it."""
    own = [
        profile_option(),
        make_option(
            "image",
            str,
            "",
            pick("The image of every stage, in place of all others.", "所有阶段使用的镜像。"),
        ),
        make_option(
            "gpus", int, "", pick("GPUs of finetune, on each node.", "微调每节点的 GPU 数。")
        ),
    ]
    return [*where_options(), *own, *run_options()]


def submission(given: dict[str, Any]) -> Submission:
    """The checked submission that the options say; ``given`` loses them."""
    from wentu.orchestrate.kubeflow import need_remote, prepare
    from wentu.orchestrate.profile import read_profile

    own = {name: given.pop(name) for name in NOT_RUN if name in given}
    captions = "\n".join(given.get("captions") or ()) or "none"
    said = {name: value for name, value in given.items() if value is not None}
    # Before anything is looked for here: "no such folder" would mislead.
    need_remote({"store": store_place(), **said, "captions": captions})
    return prepare(
        complete(given),
        read_profile(Path(own["profile"]) if own["profile"] else None),
        gpus=own["gpus"] or 0,
        image=own["image"] or "",
    )
