"""The options of `demo`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import HERE, MAX_SEED, Options, alias_problems, model_name_problems, option


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Train on 1,797 handwritten digits, register the model, score the held-out ones. Under 3 minutes on two cores."""

    examples = "mlflow-resnet demo"

    output_dir: str = option("directory for the images and the scored file", "digits-demo", place=HERE)
    random_seed: int = option("seed of the split and the training", 1, at_least=0, below=MAX_SEED)
    registered_model_name: str = option("name to register the model under", "digits")
    alias: str = option("alias to set on the registered version", "champion")

    def combinations(self) -> list[str]:
        name = self.registered_model_name
        return [*alias_problems(self.alias, name), *model_name_problems(name)]
