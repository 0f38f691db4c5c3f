from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def finetune(
    lmdb: dsl.Input[dsl.Dataset], model: str, model_digest: str, store: str, code_version: str,
    context_length: int, scratch: bool, epochs: int, batch_size: int, learning_rate: float,
    warmup: float, weight_decay: float, clip_norm: float, precision: str, resize: str,
    augment: str, seed: int, save_seconds: float, checkpoint: dsl.Output[dsl.Model],
):
    """Fine-tune; the best checkpoint by recall on valid."""
    from pathlib import Path

    from wentu.stages.finetune import Config, finetune as stage

    config = Config(
        scratch=scratch, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        warmup=warmup, weight_decay=weight_decay, clip_norm=clip_norm, precision=precision,
        resize=resize, augment=augment, seed=seed, save_seconds=save_seconds,
    )
    stage(lmdb=Path(lmdb.path), model=model, store=store, out=Path(checkpoint.path), config=config,
          context_length=context_length, model_digest=model_digest)
