"""An item with what people made of it: the record that releases hold and rows are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlhf_collect.aggregate.votes import Verdict, Vote
from rlhf_collect.store.judged import Item


@dataclass(frozen=True)
class Labelled:
    """One item of a release."""

    item: Item
    verdicts: Mapping[str, Verdict]  # part of the item -> its verdict; a pair has the one part ""
    votes: tuple[Vote, ...]  # for a ranking or rating that was reviewed, the reviewer's alone
    split: str  # train or test
    after_suggestion: int = 0  # votes that were changed after a model's suggestion was shown
    verified: int = 0  # votes that confirm or correct a label that was shown

    @property
    def agreement(self) -> float:
        """The mean share of votes for the labels of its parts."""
        return fmean(verdict.agreement for verdict in self.verdicts.values())

    @property
    def weight(self) -> float:
        """The mean weight of its parts."""
        return fmean(verdict.weight for verdict in self.verdicts.values())

    @property
    def values(self) -> dict[int, Any]:
        """The vote of each person on the whole item."""
        return {vote.person: vote.value for vote in self.votes}

    @property
    def columns(self) -> dict[str, Any]:
        """What a group to train on says of it too."""
        return {"agreement": self.agreement, "verified": self.verified}

    def provenance(self) -> dict[str, Any]:
        """The columns that every row ends with."""
        labels = {part: Counter[str]() for part in self.verdicts}
        for vote in self.votes:
            labels[vote.part][vote.label] += 1
        votes = {part: dict(sorted(counted.items())) for part, counted in labels.items()}
        return {
            "agreement": self.agreement,
            "votes": votes.get("", votes),
            **({"topic": self.item.domain} if self.item.domain else {}),
            "reviewed": any(verdict.decided for verdict in self.verdicts.values()),
            "after_suggestion": self.after_suggestion,
            "verified": self.verified,
            "item": self.item.digest,
            "arm": self.item.arm,
        }
