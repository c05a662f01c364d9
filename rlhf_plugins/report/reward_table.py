"""The tables of reward models, for terminal and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table

from rlhf_plugins.report import words
from rlhf_plugins.report.schema import Interval, Report, RewardModelReport
from rlhf_plugins.report.table import verbatim

Models = Mapping[str, RewardModelReport]
BY_TOPIC = "accuracy_by_topic/"
BY_ANNOTATOR, LABELS = "agreement_by_annotator/", "agreement_by_annotator_labels/"
ELSEWHERE = "out of distribution"


@dataclass(frozen=True)
class Row:
    """What a row measures, and a cell a reward model."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Rows under one heading."""

    title: str
    rows: tuple[Row, ...]


def sections(models: Models) -> list[Section]:
    """What was measured of the models on held-out pairs and on those out of distribution; rows that hold a number."""
    return [section for section in (*_sections(models, ""), *_sections(_elsewhere(models), ELSEWHERE)) if section.rows]


def reward_table(report: Report) -> Table:
    """The main numbers for a terminal, a line a reward model."""
    models = report.measured_reward_models
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("reward model", overflow="fold")
    shown = [row for row in _rows(models, _MAIN) if row.label in _TERMINAL]
    shown += [Row("accuracy\nunlike training", row.cells) for row in _rows(_elsewhere(models), _MAIN)[:1]]
    for row in shown:
        table.add_column(_TERMINAL.get(row.label, row.label), justify="right", no_wrap=True)
    for index, name in enumerate(models):
        table.add_row(*map(verbatim, [name, *(row.cells[index] for row in shown)]))
    return table


def accuracy(model: RewardModelReport) -> str:
    """Accuracy as a percentage with its interval, where there is one: `74.2% [70.7, 77.7]`."""
    return _with_interval(model.accuracy, model.accuracy_interval)


def _accuracy_of_labels(model: RewardModelReport) -> str:
    return words.NONE if model.labels is None else _with_interval(model.labels.accuracy.mean, model.labels.accuracy)


def _with_interval(mean: float | None, interval: Interval | None) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return words.share(mean)
    low, high = (words.share(bound).removesuffix("%") for bound in (interval.low, interval.high))
    return f"{words.share(mean)} [{low}, {high}]"


def _sections(models: Models, where: str) -> tuple[Section, ...]:
    names = list(dict.fromkeys(name for model in models.values() for name in model.metrics))
    topics = {name: name.removeprefix(BY_TOPIC) for name in names if name.startswith(BY_TOPIC)}
    people = [name.removeprefix(BY_ANNOTATOR) for name in names if name.startswith(BY_ANNOTATOR)]
    others = {name: name for name in names if not name.startswith((BY_TOPIC, BY_ANNOTATOR, LABELS))}
    parts = {"Main measures": _rows(models, _MAIN), "Further measures": _named(models, others, words.cell)}
    parts["Accuracy by topic"] = _named(models, topics, words.share)
    parts["Agreement by annotator"] = [Row(who, tuple(_agreement(m, who) for m in models.values())) for who in people]
    return tuple(Section(f"{title}, {where}" if where else title, tuple(rows)) for title, rows in parts.items())


def _agreement(model: RewardModelReport, who: str) -> str:
    """The agreement with an annotator's labels, and their share of all labels: `71.2% of 520 labels (40.0%)`."""
    labels = model.metrics.get(LABELS + who)
    if not labels:
        return words.NONE
    return f"{words.share(model.metrics[BY_ANNOTATOR + who])} of {labels:,.0f} labels ({words.share(labels / model.n)})"


def _elsewhere(models: Models) -> Models:
    """The models where they meet pairs unlike those of training; without a number where they do not."""
    unmeasured = RewardModelReport(accuracy=None, ece=None, n=0)
    return {name: model.out_of_distribution or unmeasured for name, model in models.items()}


def _rows(models: Models, columns: Mapping[str, Callable[[RewardModelReport], str]]) -> list[Row]:
    rows = [Row(label, tuple(map(say, models.values()))) for label, say in columns.items()]
    return [row for row in rows if any(cell != words.NONE for cell in row.cells)]


def _named(models: Models, labels: Mapping[str, str], say: Callable[[float | None], str]) -> list[Row]:
    return [Row(label, tuple(say(m.metrics.get(name)) for m in models.values())) for name, label in labels.items()]


_MAIN: dict[str, Callable[[RewardModelReport], str]] = {
    "accuracy (95% CI)": accuracy,
    "longer-response baseline": lambda model: words.share(model.longer_response_accuracy),
    "calibration error (ECE)": lambda model: words.share(model.ece),
    "largest calibration error (MCE)": lambda model: words.share(model.mce),
    "Brier score": lambda model: words.number(model.brier),
    "cross-entropy (nats)": lambda model: words.number(model.cross_entropy),
    "AUC": lambda model: words.number(model.auc),
    "Spearman with gold or ratings": lambda model: words.number(model.spearman),
    "Kendall with gold or ratings": lambda model: words.number(model.kendall),
    "correlation with length": lambda model: words.number(model.length_correlation),
    "pairs": lambda model: str(model.n) if model.n else words.NONE,
    "accuracy of labels (95% CI)": _accuracy_of_labels,
    "AUC of labels": lambda model: words.number(model.labels.auc if model.labels else None),
    "cross-entropy of labels (nats)": lambda model: words.number(model.labels.cross_entropy if model.labels else None),
    "desirable responses": lambda model: words.share(model.labels.desirable if model.labels else None),
    "labelled responses": lambda model: str(model.labels.n) if model.labels else words.NONE,
    "latency of a pair (ms)": lambda model: words.number(model.latency and 1000 * model.latency, 1),
    "training (s)": lambda model: words.seconds(model.seconds),
    "peak memory of training": lambda model: words.memory(model.peak_bytes),
}
# The rows that a terminal of 80 columns has room for, and what they are called there.
_TERMINAL = {
    "accuracy (95% CI)": "accuracy\n(95% CI)",
    "calibration error (ECE)": "ECE",
    "cross-entropy (nats)": "cross-\nentropy",
    "AUC": "AUC",
    "pairs": "pairs",
    "accuracy of labels (95% CI)": "labels\n(95% CI)",
    "AUC of labels": "AUC of\nlabels",
    "labelled responses": "labels",
}
