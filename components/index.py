from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def index(
    catalog: dsl.Input[dsl.Dataset], vectors: dsl.Input[list[dsl.Dataset]], code_version: str,
    options: str, segment: dsl.Output[dsl.Dataset],
):
    """Vectors of all shards into a segment with its FAISS index."""
    from pathlib import Path

    from wentu.stages.index import Config, index as stage

    stage(
        catalog=Path(catalog.path), features=[Path(each.path) for each in vectors],
        out=Path(segment.path), config=Config.parse(options),
    )
