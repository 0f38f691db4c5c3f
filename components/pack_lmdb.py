from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def pack_lmdb(
    catalog: dsl.Input[dsl.Dataset],
    tsv: dsl.Input[dsl.Dataset],
    code_version: str,
    lmdb: dsl.Output[dsl.Dataset],
):
    """TSV + JSONL into an LMDB that Chinese-CLIP reads."""
    from pathlib import Path

    from wentu.stages.pack_lmdb import Config, pack_lmdb as stage

    stage(catalog=Path(catalog.path), tsv=Path(tsv.path), out=Path(lmdb.path), config=Config())
