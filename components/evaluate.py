from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def evaluate(
    lmdb: dsl.Input[dsl.Dataset], bundle: dsl.Input[dsl.Model], store: str, pointer: int,
    code_version: str, options: str, report: dsl.Output[dsl.Artifact],
    winner: dsl.Output[dsl.Model],
):
    """Candidate against champion and start on test; the winner's bundle."""
    from pathlib import Path

    from wentu.stages.evaluate import Config, evaluate as stage

    stage(
        lmdb=Path(lmdb.path), bundle=Path(bundle.path), store=store, pointer=pointer,
        out=Path(report.path), winner=Path(winner.path), config=Config.parse(options),
    )
