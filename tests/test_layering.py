"""Who may import whom, how long a function may be, and one stage name in five places.

The rules are those of "Who may import whom" in the design, as they apply: a module imports only
what stands above it in ``ROOMS``, stages never each other, and each heavy library has its room.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from wentu.cli import COMMANDS
from wentu.stages import STAGES

ROOT = Path(__file__).parents[1]

ROOMS = (
    ("wentu", "wentu.language", "wentu.progress", "wentu.demo"),
    ("wentu.errors",),
    ("wentu.settings", "wentu.formats", "wentu.retrieval", "wentu.pictures"),
    ("wentu.storage", "wentu.ann", "wentu.report", "wentu.tracking"),
    ("wentu.listing", "wentu.notices"),
    ("wentu.store", "wentu.captions", "wentu.collection", "wentu.stage"),
    ("wentu.splits", "wentu.digests", "wentu.clip", "wentu.segments"),
    ("wentu.calibration",),
    ("wentu.catalog", "wentu.training", "wentu.search", "wentu.zeroshot"),
    ("wentu.interchange", "wentu.verdict", "wentu.library"),
    ("wentu.stages",),
    ("wentu.orchestrate",),
    ("wentu.gc",),
    ("wentu.commands",),
    ("wentu.cli",),
    ("wentu.__main__",),
)
"""From the bottom up. Modules of one line do not import each other; a package imports itself."""
SEARCH_MAY = {"store", "ann", "pictures", "formats", "settings", "errors", "language"}
SEARCH_MAY |= {"collection", "calibration"}
SEARCH_MAY_OF_CLIP = {f"wentu.clip.{name}" for name in ("text", "bundle", "convert", "labels")}
"""Of ours; none of them imports torch, so the serving image needs no torch and no kfp."""
HEAVY = {
    "kfp": ("wentu.orchestrate", "components", "pipelines"),
    "kubernetes": ("wentu.orchestrate",),
    "kubeflow_trainer_api": ("wentu.orchestrate.trainspec",),
    "urllib3": ("wentu.orchestrate",),
    "mlflow": ("wentu.tracking",),
    "boto3": ("wentu.storage.s3",),
    "cn_clip": ("wentu.clip.model", "wentu.clip.clip_pytorch"),
    "open_clip": ("wentu.clip.openclip",),
    "faiss": ("wentu.ann",),
    "torch": ("wentu.clip", "wentu.training", "wentu.stages.export_onnx"),
}
"""Library -> the only modules that may import it, at the top or inside of a function."""
MOST_LINES = 80
MOST_BODY = 15


@dataclass(frozen=True)
class Import:
    """One imported name."""

    name: str
    """As written: the module, and the name after ``import`` where there is one."""
    lazy: bool
    """Inside of a function."""
    typing: bool
    """Under ``if TYPE_CHECKING``: never executed."""


def imports(source: str) -> list[Import]:
    """Every import of a module, also those inside of functions."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, typing: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(each.name, lazy, typing) for each in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "imports are absolute here"
                names = (f"{child.module}.{each.name}" for each in child.names)
                found.extend(Import(name, lazy, typing) for name in names)
            inside = lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            checked = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            visit(child, inside, typing or checked)

    visit(ast.parse(source), False, False)
    return found


@cache
def modules() -> dict[str, str]:
    """Source by module name, of wentu, components and pipelines."""
    found = {}
    for package in ("wentu", "components", "pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text("utf-8")
    return found


def under(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def ours(each: Import) -> str | None:
    """The module of wentu that an import names; None for anything else."""
    if not under(each.name, "wentu"):
        return None
    return each.name if each.name in modules() else each.name.rpartition(".")[0]


def room_of(module: str) -> tuple[int, str]:
    """(height, name) of the room that a module belongs to."""
    fits = [
        (len(room), height, room)
        for height, rooms in enumerate(ROOMS)
        for room in rooms
        if (module == room if room == "wentu" else under(module, room))
    ]
    assert fits, f"{module} has no place in ROOMS"
    _, height, room = max(fits)
    return height, room


def broken_rules(module: str, source: str) -> Iterator[str]:
    """What a module of wentu imports and may not, in words."""
    height, room = room_of(module)
    for each in imports(source):
        target = ours(each)
        for library, places in HEAVY.items():
            if under(each.name, library) and not any(under(module, place) for place in places):
                yield f"{module} imports {library}"
        if each.typing or target in (None, "wentu", module):
            continue
        assert target is not None
        above, other = room_of(target)
        if (
            (room == "wentu.stages" and other == room and target != room)
            or (
                room == "wentu.search"
                and other != room
                and target not in SEARCH_MAY_OF_CLIP
                and other not in {f"wentu.{name}" for name in SEARCH_MAY}
            )
            or (room == "wentu.library" and other == "wentu.search")
        ):
            yield f"{module} imports {target}"
        elif room == "wentu":
            continue  # wentu.load, lazily
        elif other != room and above >= height:
            yield f"{module} imports {target}, which stands above it or beside it"


def test_every_module_imports_only_what_it_may() -> None:
    broken = [
        sentence
        for module, source in modules().items()
        if under(module, "wentu")
        for sentence in broken_rules(module, source)
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("wentu.formats", "from wentu.store import Store", "wentu.store, which stands above"),
        ("wentu.formats", "from wentu import settings", "wentu.settings, which stands above"),
        (
            "wentu.stages.index",
            "def f():\n    from wentu.stages import pairs",
            "wentu.stages.pairs",
        ),
        ("wentu.stages.index", "def f():\n    import mlflow.tracking", "imports mlflow"),
        ("wentu.search.engine", "from wentu.clip.encoder import Encoder", "wentu.clip.encoder"),
        ("wentu.library.scan", "from wentu.search.engine import Engine", "wentu.search.engine"),
        ("wentu.clip.model", "from wentu.stages.pairs import Config", "wentu.stages.pairs"),
        ("wentu.stages.pairs", "import kfp", "imports kfp"),
    ],
)
def test_the_check_of_imports_can_fail(module: str, source: str, sentence: str) -> None:
    assert any(sentence in each for each in broken_rules(module, source))


def test_components_import_kfp_at_the_top_and_wentu_inside() -> None:
    for module, source in modules().items():
        if not under(module, "components"):
            continue
        for each in imports(source):
            assert under(each.name, "wentu") == each.lazy or not under(each.name, "kfp"), module
            if under(each.name, "wentu"):
                assert each.lazy, f"{module} imports {each.name} at the top"
            if under(each.name, "kfp"):
                assert not each.lazy, f"{module} imports kfp inside of its function"


def test_pipelines_import_components_and_nothing_of_wentu() -> None:
    for module, source in modules().items():
        if under(module, "pipelines"):
            assert not [each.name for each in imports(source) if under(each.name, "wentu")], module


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {
        module: {
            target
            for each in imports(source)
            if not each.lazy and not each.typing
            for target in [ours(each)]
            if target not in (None, module)
        }
        for module, source in modules().items()
        if under(module, "wentu")
    }
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(order) >= graph.keys()


@pytest.mark.parametrize(
    ("name", "unwanted"),
    [
        ("wentu.search.engine", ("torch", "torchvision", "cn_clip", "kfp", "mlflow", "matplotlib")),
        ("wentu.search.app", ("torch", "torchvision", "cn_clip", "kfp", "mlflow", "matplotlib")),
        ("wentu.library.follow", ("torch", "torchvision", "cn_clip", "kfp", "mlflow", "fastapi")),
        ("wentu.commands.serve", ("torch", "kfp", "mlflow", "fastapi", "numpy")),
        ("wentu", ("torch", "kfp", "mlflow", "numpy")),
        ("wentu.cli", ("torch", "kfp", "mlflow", "faiss", "onnxruntime", "matplotlib", "numpy")),
        ("wentu.orchestrate.local", ("torch", "kfp", "mlflow", "matplotlib")),
        ("wentu.orchestrate.trainjob", ("torch", "kfp", "kubernetes", "kubeflow_trainer_api")),
        ("wentu.stages.features", ("torch", "kfp", "mlflow")),
    ],
)
def test_importing_is_light(name: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {name}; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- size -------------------------------------------------------------------------------------


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_no_function_is_a_giant() -> None:
    """The pipeline itself is one function on purpose: the flow, top to bottom."""
    lengths = {
        f"{module}.{each.name}": (each.end_lineno or 0) - each.lineno + 1
        for module, source in modules().items()
        if not under(module, "pipelines")
        for each in functions(source)
    }
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("stage", STAGES)
def test_the_body_of_a_component_is_short(stage: str) -> None:
    (function,) = functions(modules()[f"components.{stage}"])
    assert ast.get_docstring(function)
    first, last = function.body[1], function.body[-1]
    assert (last.end_lineno or 0) - first.lineno + 1 <= MOST_BODY


# --- one name, five places --------------------------------------------------------------------


def calls(source: str) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_in_five_places(stage: str) -> None:
    tree = ast.parse(modules()[f"wentu.stages.{stage}"])
    defined = {each.name for each in tree.body if isinstance(each, (ast.FunctionDef, ast.ClassDef))}
    if stage == "finetune":  # its many options have a room of their own, below the stages
        assert "from wentu.training.config import Config" in modules()[f"wentu.stages.{stage}"]
        defined.add("Config")
    assert {stage, "Config"} <= defined
    assert [each.name for each in functions(modules()[f"components.{stage}"])] == [stage]
    assert stage in calls(modules()["pipelines.train"])
    assert stage in COMMANDS
    assert (ROOT / "tests" / "stages" / f"test_{stage}.py").is_file()


@pytest.mark.parametrize("folder", ["wentu/stages", "components", "tests/stages"])
def test_there_is_no_stage_beside_the_stages(folder: str) -> None:
    names = {path.stem.removeprefix("test_") for path in (ROOT / folder).glob("*.py")}
    assert {name for name in names if not name.startswith("_")} == set(STAGES)
