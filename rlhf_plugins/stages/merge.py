"""The stage `merge`: makes a whole model of an adapter and the base that it is on, and later stages' base of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run import Run, StageResult
from rlhf_plugins.contract.run_kinds import Stage
from rlhf_plugins.errors import RunError
from rlhf_plugins.stages._training_options import From


@dataclass(frozen=True)
class Merge(Stage, makes={"base", "policy"}, processes="several"):
    """W + (alpha / r) B A for each layer with an adapter (Hu et al. 2021, section 4.1).

    Later stages start from the result and call it `base`. A quantized base is merged unquantized, and quantized again
    where later stages load it, so that the policy changes a little.
    """

    from_: From = "previous"
    name: str = "merge"

    def run(self, run: Run) -> StageResult:
        """Leaves a whole model and its tokenizer in `model/`."""
        from rlhf_plugins.contract import processes
        from rlhf_plugins.engine.weights.loading import load_tokenizer
        from rlhf_plugins.engine.weights.starting import load_whole

        start, folder = run.weights("start"), run.folder / "model"
        if start.folder is None:
            raise RunError(f"{self.name}: {start.name} is a whole model, so that there is no adapter to merge")

        def save() -> None:
            whole = load_whole(replace(start, base=replace(start.base, quantization=None)))
            whole.save_pretrained(folder)
            load_tokenizer(start.base).save_pretrained(folder)

        processes.on_main(save)
        policy = {"use": "trained", "path": str(folder), "base": str(folder)}
        return StageResult(policies={self.name: policy}, base=folder)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"merge": Merge}
