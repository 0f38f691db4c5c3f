from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def inventory(
    pictures: str, captions: str, store: str, model: str, options: str, pairs_options: str,
    finetune_options: str, features_options: str, out: dsl.Output[dsl.Artifact],
    inventory: dsl.OutputPath(str), use: dsl.OutputPath(str), use_digest: dsl.OutputPath(str),
    pointer: dsl.OutputPath(int), attempt: dsl.OutputPath(str), shards: dsl.OutputPath(int),
) -> str:
    """List the collection; answer train, refresh or skip."""
    from pathlib import Path
    from wentu.stages import config_class, training_settings
    from wentu.stages.inventory import Config, inventory as stage

    answer = stage(
        pictures=pictures, captions=captions, store=store, out=Path(out.path), model=model,
        settings=training_settings(pairs=pairs_options, finetune=finetune_options),
        config=Config.parse(options),
    )
    said = {inventory: answer.inventory, use: answer.model, use_digest: answer.model_digest,
            pointer: answer.pointer, attempt: answer.attempt,
            shards: config_class("features").parse(features_options).shards}
    for path, value in said.items():
        Path(path).write_text(str(value), encoding="utf-8")
    return answer.decision
