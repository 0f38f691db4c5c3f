from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def finetune(
    lmdb: dsl.Input[dsl.Dataset], model: str, model_digest: str, store: str, code_version: str,
    options: str, checkpoint: dsl.Output[dsl.Model],
):
    """Fine-tune; the best checkpoint by recall on valid."""
    from pathlib import Path

    from wentu.orchestrate.trainjob import launch
    from wentu.stages.finetune import Config, finetune as stage

    stage(
        lmdb=Path(lmdb.path), model=model, model_digest=model_digest, store=store,
        out=Path(checkpoint.path), config=Config.parse(options), launcher=launch,
    )
