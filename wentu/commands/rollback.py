"""`wentu rollback`: an earlier model becomes current again, pinned; pictures added since stay."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.errors import InputError
from wentu.language import pick
from wentu.settings import store_place
from wentu.store import Pointer, Store


def command() -> click.Command:
    """The command."""
    made = make_command("rollback", execute, [])
    made.params = [
        click.Argument(["release"], required=False),
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
        click.Option(
            ["--unpin"],
            is_flag=True,
            help=pick(
                "Let trainings be promoted again; nothing else changes.",
                "解除锁定，允许新训练的模型上线。",
            ),
        ),
        click.Option(
            ["--no-refresh"],
            is_flag=True,
            help=pick("Do not index the pictures that came since.", "不为此后新增的图片建立索引。"),
        ),
    ]
    return made


def execute(release: str | None, store: str | None, unpin: bool, no_refresh: bool) -> None:
    """Roll back, then refresh the same collection with that model."""
    vault = Store(store or store_place())
    console = make_console()
    if not (unpin or no_refresh):
        current(vault)
        refresh_values(vault)  # a collection that is gone is said before anything changes
    with vault.storage.lock("promote"):
        pointer = unpinned(vault) if unpin else rolled_back(vault, release)
    if unpin:
        console.print(pick("Unpinned: the next training may be promoted.", "已解除锁定。"))
        return
    model = vault.release(pointer.release).model
    console.print(
        pick(
            f"Release {pointer.release} is current (model {model[:12]}), pinned: trainings will "
            "not replace it until `wentu rollback --unpin`.",
            f"当前版本 {pointer.release}(模型 {model[:12]})，已锁定："
            "运行 wentu rollback --unpin 之前，训练不会替换它。",
        )
    )
    if not no_refresh:
        refresh(vault, console)


def current(store: Store) -> Pointer:
    """The current pointer; InputError where nothing was published."""
    pointer = store.pointer()
    if pointer is None:
        raise InputError(f"{store.place} has no release yet.", f"{store.place} 还没有发布版本。")
    return pointer


def unpinned(store: Store) -> Pointer:
    """The same release again, without the pin."""
    pointer = current(store)
    return store.publish(pointer.release, after=pointer.number, reason="unpin")


def rolled_back(store: Store, release: str | None) -> Pointer:
    """A pointer to ``release``, or to the newest release of another model; aliases follow."""
    from wentu.stages.promote import repair_aliases

    pointer = current(store)
    model = store.release(pointer.release).model
    if release is None:
        release = earlier_model(store, model)
        if release is None:
            raise InputError(
                "there is no earlier model to go back to.", "没有可以回退的更早的模型。"
            )
    chosen = store.release(release)
    store.verify(chosen)
    # Of one that gc went over the id is another one: that of what it holds now.
    name = store.write_release(chosen)
    found = store.publish(name, after=pointer.number, reason="rollback", pinned=True)
    use_tracking(store)
    repair_aliases(store)
    return found


def earlier_model(store: Store, model: str) -> str | None:
    """The newest release of the model before ``model``: what was left by a rollback is not back."""
    before: list[str] = []
    for pointer, release in store.history():
        if release.model == model:
            break
        before.append(pointer.release)
    return before[-1] if before else None


def use_tracking(store: Store) -> None:
    """Track where the store's runs do."""
    from wentu import tracking

    tracking.use_store(store.storage.home / "mlflow")


def refresh(store: Store, console: Console) -> Any:
    """Index what came since, with the model that is current now."""
    from wentu.commands.run import execute as run

    return run(refresh_values(store), console)


def refresh_values(store: Store) -> dict[str, Any]:
    """The parameters of a refresh: the collection as it last ran with success."""
    from wentu.orchestrate.local import runs
    from wentu.orchestrate.parameters import complete

    found = store.current()
    assert found is not None
    done = (r["parameters"] for r in reversed(runs(store)) if r["status"] == "succeeded")
    last = next(done, dict(found[1].parameters))
    given = last | {"store": store.place, "model": "", "train": False}
    for name in ("code_version", "served_from", "note"):  # of that release, not of the next
        given.pop(name, None)
    return complete(given, None)
