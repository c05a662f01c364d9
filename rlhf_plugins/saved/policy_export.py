"""A policy in a form that the ecosystem opens: PEFT's adapter, or one model of transformers. With its card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.data.file_names import ADAPTER
from rlhf_plugins.data.files import read_json
from rlhf_plugins.data.stage_outputs import BASE
from rlhf_plugins.engine.weights.matching import ADAPTER_WEIGHTS
from rlhf_plugins.errors import RunError
from rlhf_plugins.saved.card import Form, write_card
from rlhf_plugins.saved.export_target import dtype_of, empty_folder
from rlhf_plugins.saved.run_reference import Made, start_of_run

if TYPE_CHECKING:
    import torch

    from rlhf_plugins.contract.run import Base
    from rlhf_plugins.saved.merging import Rounding

PROMPTS, TOKENS = 4, 64  # on which logits are compared
SENTENCES = ("The capital of France is", "To make bread, first", "She looked out of the window and", "2 + 2 =")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        needs: the base that an adapter is opened with; None of a whole model.
        rounding: the rounding of a whole model.
        notes: sentences to be read.
    """

    needs: str | None = None
    rounding: Rounding | None = None
    notes: Sequence[str] = ()


def export_policy(found: Made, out: Path, merge: bool = False, dtype: str | None = None) -> Exported:
    """Writes a policy with its tokenizer and a card: an adapter as PEFT has it, or a whole model.

    Args:
        found: a policy that is saved in a folder.
        out: where to; a new or an empty folder.
        merge: write an adapter and its base as one model.
        dtype: `bf16`, `fp16` or `fp32`; None keeps that of the base, or of the policy where all weights were trained.

    Raises:
        RunError: it is no saved policy, `out` is not empty, or the model cannot be merged.
    """
    from rlhf_plugins.engine.policy import saved_base
    from rlhf_plugins.engine.prompt_form import copy_note
    from rlhf_plugins.engine.weights.end_tokens import hand_on_ends
    from rlhf_plugins.engine.weights.loading import load_tokenizer

    if found.folder is None:
        raise RunError(f"{found.label}: {_unsaved(found)}")
    precision = dtype_of(dtype)
    found.check()
    empty_folder(out)
    base, folder = saved_base(found.folder), found.folder
    own = replace(base, path=str(folder)) if (folder / "tokenizer_config.json").exists() else base
    tokenizer = load_tokenizer(own)
    if (folder / ADAPTER).exists() and not merge:
        _write_adapter(folder, base, out, precision)
        done = Exported(base.path)
        form = Form("adapter", base.path, bool(tokenizer.chat_template))
    else:
        done = _write_whole(found, base, out, precision, tokenizer)
        form = Form("model", base.path, bool(tokenizer.chat_template))
    tokenizer.save_pretrained(out)
    copy_note(folder, out)
    hand_on_ends(folder, out)
    write_card(
        found,
        out,
        form,
        [*done.notes, *([f"Against the model in training, {done.rounding}."] if done.rounding else [])],
    )
    return done


def _unsaved(found: Made) -> str:
    """Why there is no folder to export, and what to do instead where it is the base of a run."""
    if found.run is None or found.stage != BASE:
        return f"is not saved as a model in a folder: {dict(found.spec)}"
    start = start_of_run(found.run)
    if start.folder is not None:
        return f"is the policy that the run started from: `rlhf export {start.folder} OUT` writes that one"
    return f"is the model that the run started from, {start.base.path}, which transformers opens as it is"


def _write_adapter(folder: Path, base: Base, out: Path, dtype: torch.dtype | None) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    from rlhf_plugins.engine.weights.base_paths import whole_path

    try:
        config = read_json(folder / ADAPTER)
        weights = load_file(folder / ADAPTER_WEIGHTS)
        out.mkdir(parents=True, exist_ok=True)
        config["base_model_name_or_path"] = whole_path(base.path)
        (out / ADAPTER).write_text(json.dumps(config, indent=2) + "\n")
        cast = {name: value.to(dtype) if dtype else value for name, value in weights.items()}
        save_file(cast, out / ADAPTER_WEIGHTS, {"format": "pt"})
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{folder}: its adapter cannot be copied to {out}: {error}") from error


def _write_whole(found: Made, base: Base, out: Path, dtype: torch.dtype | None, tokenizer: Any) -> Exported:
    from rlhf_plugins.engine.sampling import end_tokens
    from rlhf_plugins.saved.merging import whole_policy

    assert found.folder is not None
    whole = whole_policy(found.folder, replace(base, quantization=None), dtype, _rows(found, tokenizer))
    whole.model.generation_config.eos_token_id = end_tokens(whole.model, tokenizer)
    try:
        whole.model.save_pretrained(out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error}") from error
    notes = []
    if base.quantization and (found.folder / ADAPTER).exists():
        notes.append(
            f"Trained on the base in {base.quantization}, it is merged into the unquantized one: answers differ."
        )
    if whole.untied:
        notes.append(
            "The output layer has weights of its own: it was tied to the embeddings, and one of them was trained."
        )
    return Exported(rounding=whole.rounding, notes=notes)


def _rows(found: Made, tokenizer: Any) -> list[list[int]]:
    """Token ids of a few prompts that the run was evaluated on, or of sentences."""
    from rlhf_plugins.data.batches.tokens import encode_prompt

    results = found.run.finished() if found.run else []
    asked = [prompt for result in results if result.evaluation for prompt in result.evaluation.prompts]
    rows = [encode_prompt(tokenizer, prompt)[:TOKENS] for prompt in (asked or SENTENCES)[:PROMPTS]]
    return [row for row in rows if row] or [[int(tokenizer.eos_token_id)]]
