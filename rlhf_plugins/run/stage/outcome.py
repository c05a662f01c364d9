"""The lines that the terminal shows for a finished stage: its time and memory, and the rows that it left out."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_plugins.contract.run import StageResult


def outcome(result: StageResult) -> Iterator[str]:
    """What was left out or cut, by reason, where anything was; then the time, the peak memory and the last loss."""
    left_out = ", ".join(f"{count} x {reason}" for reason, count in result.report.left_out.items() if count)
    if left_out:
        yield f"left out or cut: {left_out}"
    cost, loss = result.cost, result.curves.get("loss")
    memory = f", peak memory {cost.peak_bytes / 2**30:.2f} GiB" if cost.peak_bytes else ""
    losses = [value for _, value in loss.points if value is not None] if loss else []
    yield f"finished in {cost.seconds:.1f} s{memory}" + (f", loss {losses[-1]:.4g}" if losses else "")
