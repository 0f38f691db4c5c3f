from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def features(
    catalog: dsl.Input[dsl.Dataset], bundle: dsl.Input[dsl.Model], pictures: str, store: str,
    pointer: int, shard: int, code_version: str, options: str, vectors: dsl.Output[dsl.Dataset],
):
    """Pictures into vectors, one shard of them; only what the current release lacks."""
    from pathlib import Path

    from wentu.stages.features import Config, features as stage

    stage(
        catalog=Path(catalog.path), bundle=Path(bundle.path), pictures=pictures, store=store,
        pointer=pointer, shard=shard, out=Path(vectors.path), config=Config.parse(options),
    )
