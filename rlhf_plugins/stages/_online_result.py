"""Saves the result of online training: the policy, its critic, and the state of the KL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_plugins.engine.backbone import Backbone
    from rlhf_plugins.trainers.online.trainer import OnlineTrainer


def save_result(trainer: OnlineTrainer, backbone: Backbone | None, folder: Path) -> None:
    """Writes the critic, the KL's state, and the policy without a critic; in several processes all must call it."""
    from safetensors.torch import save_file

    from rlhf_plugins.contract import processes
    from rlhf_plugins.data.file_names import VALUE_HEAD, VALUE_NETWORK
    from rlhf_plugins.engine.weights.end_tokens import note_ends
    from rlhf_plugins.engine.weights.shards import to_save, whole
    from rlhf_plugins.trainers.online.engine_or_trl import ends_asked

    network = trainer.value_network
    options: dict[str, Any] = {} if network is None else to_save(network)
    head = {name: each.detach().cpu().contiguous() for name, each in whole(trainer.take_value_head()).items()}
    policy = to_save(trainer.model)

    def save() -> None:
        if network is not None:
            network.save_pretrained(folder / VALUE_NETWORK, **options)
        if head:
            save_file(head, folder / VALUE_HEAD)
        trainer.keep_kl(folder)
        if backbone:
            backbone.save_policy(folder / "model", **policy)
            if ends_asked(trainer.args):
                note_ends(folder / "model", trainer.eos_token_ids)
        else:
            trainer.model.save_pretrained(folder / "model", **policy)
        trainer.processing_class.save_pretrained(folder / "model")

    processes.on_main(save)
