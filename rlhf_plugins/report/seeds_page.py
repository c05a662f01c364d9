"""The page of several seeds and settings; its numbers come from `over_seeds`, its plots from `seeds_plots`."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_plugins.report.document import document
from rlhf_plugins.report.over_seeds import Groups, accuracies, conclusion, rows, sentences
from rlhf_plugins.report.seeds_plots import seeds_plots

NOT_EVALUATED = "No policy was evaluated."


def seeds_page(title: str, groups: Groups, unfinished: Sequence[str] = ()) -> str:
    """One HTML document with no external request; all text of the reports is escaped.

    Args:
        title: the title of the folder that holds the runs.
        groups: the reports of finished runs, by setting.
        unfinished: the names of the other runs.
    """
    found = rows(groups)
    lead = next(iter([*conclusion(groups), *sentences(groups)]), NOT_EVALUATED)
    return document(
        "seeds.html.j2",
        title,
        groups=groups,
        unfinished=unfinished,
        lead=lead,
        sentences=[sentence for sentence in sentences(groups) if sentence != lead],
        rows=found,
        swept=any(groups),
        accuracies=list(accuracies(groups)),
        plots=seeds_plots(groups),
    )
