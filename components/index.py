from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def index(
    catalog: dsl.Input[dsl.Dataset], vectors: dsl.Input[dsl.Dataset], code_version: str,
    options: str, segment: dsl.Output[dsl.Dataset],
):
    """Vectors into a segment with its FAISS index."""
    from pathlib import Path

    from wentu.stages.index import Config, index as stage

    stage(
        catalog=Path(catalog.path), features=Path(vectors.path), out=Path(segment.path),
        config=Config.parse(options),
    )
