"""Trains the toy with a spurious feature under each loss, over data sets; writes docs/benchmarks/robust.md.

python plugins/rlhf-robust/bench/spurious.py [--seeds 8]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rlhf_robust.spurious import CEILING, worst_group

from rlhf_plugins import component

OUT = Path(__file__).parents[3] / "docs" / "benchmarks" / "robust.md"
AGREE = (0.9, 0.95, 0.99)
LOSSES: dict[str, Any] = {
    "`bradley_terry`": ("bradley_terry", {}),
    "`group_dro`, eta 0.1": ("group_dro", {"eta": 0.1}),
    "`chi_square_dro`, rho 0.1": ("chi_square_dro", {"rho": 0.1}),
    "`chi_square_dro`, rho 0.5": ("chi_square_dro", {"rho": 0.5}),
    "`chi_square_dro`, rho 2": ("chi_square_dro", {"rho": 2.0}),
}


def main() -> None:
    """Parses the command line, trains and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    seeds = parser.parse_args().seeds
    lines = [
        "# A spurious feature",
        "",
        "x1 = y + N(0, 1), x2 = a + N(0, 1/4), P(a = y) as in the columns: accuracy on the worse of the groups a = y "
        f"and a != y, mean and deviation over {seeds} data sets of 2,000 rows, by "
        f"`python plugins/rlhf-robust/bench/spurious.py --seeds {seeds}` (400 steps of Adam on all rows; accuracies "
        f"are exact). x1 alone has {CEILING:.3f}.",
        "",
        f"| loss | {' | '.join(f'{agree:.2f}' for agree in AGREE)} |",
        f"|---|{'---|' * len(AGREE)}",
    ]
    for title, (name, options) in LOSSES.items():
        loss = component("reward_loss", name, **options)
        cells = [_cell([worst_group(loss, agree, seed=seed, steps=400) for seed in range(seeds)]) for agree in AGREE]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


def _cell(values: list[float]) -> str:
    return f"{fmean(values):.3f} ({stdev(values):.3f})"


if __name__ == "__main__":
    main()
