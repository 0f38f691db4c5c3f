from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def pairs(
    pictures: str, captions: str, store: str, inventory: str, code_version: str, train: bool,
    options: str, catalog: dsl.Output[dsl.Dataset], tsv: dsl.Output[dsl.Dataset],
):
    """Captions and pictures into catalog, splits, TSV + JSONL."""
    from pathlib import Path

    from wentu.stages.pairs import Config, pairs as stage

    Path(tsv.path).mkdir(parents=True, exist_ok=True)
    stage(
        pictures=pictures, captions=captions, store=store, inventory=inventory,
        config=Config.parse(options), out=Path(catalog.path), tsv=Path(tsv.path) if train else None,
    )
