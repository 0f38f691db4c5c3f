from typing import Optional

from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def promote(
    catalog: dsl.Input[dsl.Dataset], bundle: dsl.Input[dsl.Model], segment: dsl.Input[dsl.Dataset],
    store: str, inventory: str, pointer: int, attempt: str, pictures: str, captions: str, use: str,
    use_digest: str, options: str, out: dsl.Output[dsl.Artifact],
    evaluation: Optional[dsl.Input[dsl.Artifact]] = None,
):
    """A new release becomes current, or nothing changes."""
    from pathlib import Path

    from wentu.stages.promote import Config, promote as stage

    stage(
        catalog=Path(catalog.path), bundle=Path(bundle.path), index=Path(segment.path), store=store,
        inventory=inventory, out=Path(out.path), pointer=pointer, attempt=attempt,
        evaluation=Path(evaluation.path) if evaluation else None, pictures=pictures,
        captions=captions, use=use, use_digest=use_digest, config=Config.parse(options),
    )
