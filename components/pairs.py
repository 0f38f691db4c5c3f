from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def pairs(
    pictures: str, captions: str, store: str, inventory: str, code_version: str, train: bool,
    shards: int, options: str, catalog: dsl.Output[dsl.Dataset], tsv: dsl.Output[dsl.Dataset],
) -> list[int]:
    """Captions and pictures into catalog, splits, TSV + JSONL; numbers the shards of features."""
    from pathlib import Path

    from wentu.stages.pairs import Config, pairs as stage

    Path(tsv.path).mkdir(parents=True, exist_ok=True)
    stage(
        pictures=pictures, captions=captions, store=store, inventory=inventory,
        config=Config.parse(options), out=Path(catalog.path), tsv=Path(tsv.path) if train else None,
    )
    return list(range(1, shards + 1))
