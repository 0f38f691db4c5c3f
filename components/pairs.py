from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def pairs(
    pictures: str, captions: str, store: str, inventory: str, code_version: str, train: bool,
    valid_fraction: float, test_fraction: float, max_rejected: float, context_length: int,
    split: str, convert: str, picture_column: str, caption_column: str,
    catalog: dsl.Output[dsl.Dataset], tsv: dsl.Output[dsl.Dataset],
):
    """Captions and pictures into catalog, splits, TSV + JSONL."""
    from pathlib import Path

    from wentu.stages.pairs import Config, pairs as stage

    config = Config(valid_fraction=valid_fraction, test_fraction=test_fraction,
                    max_rejected=max_rejected, context_length=context_length, split=split,
                    convert=convert, picture_column=picture_column, caption_column=caption_column)
    Path(tsv.path).mkdir(parents=True, exist_ok=True)
    stage(pictures=pictures, captions=captions, store=store, inventory=inventory, config=config,
          out=Path(catalog.path), tsv=Path(tsv.path) if train else None)
