"""The world: its splits do not overlap, its facts do not move, its texts read back as they were written."""

from __future__ import annotations

import random

import pytest

from rlhf_plugins.errors import DataError
from rlhf_plugins.sandbox import prompts
from rlhf_plugins.sandbox.language import Kind, forms, read
from rlhf_plugins.sandbox.world import OOD_TOPICS, TOPICS, VALUES, Query, facts, parse_prompt
from rlhf_plugins.sandbox.writer import MAX_TOKENS, write

SPLITS = ("train", "test", "out_of_distribution")


def queries(split: str) -> list[Query]:
    found = [parse_prompt(prompt) for prompt in prompts(split)]
    assert None not in found
    return [query for query in found if query is not None]


def test_splits_are_large_enough() -> None:
    assert len(prompts("train")) >= 1000
    assert all(len(prompts(split)) >= 256 for split in SPLITS)


def test_no_prompt_is_in_two_splits() -> None:
    texts = [text for split in SPLITS for text in prompts(split)]
    assert len(texts) == len(set(texts))


def test_out_of_distribution_has_its_own_topics_and_phrasings() -> None:
    def shapes(split: str) -> set[str]:
        pairs = zip(prompts(split), queries(split), strict=True)
        return {text.replace(query.topic, "T").replace(query.subject, "S") for text, query in pairs}

    assert {query.topic for query in queries("out_of_distribution")} == set(OOD_TOPICS)
    assert not set(OOD_TOPICS) & {query.topic for query in queries("train") + queries("test")}
    assert shapes("test") <= shapes("train")
    assert not shapes("out_of_distribution") & shapes("train")


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_holds_every_kind_of_prompt(split: str) -> None:
    kinds = {(query.harmful, query.cell in facts()) for query in queries(split)}
    assert kinds == {(False, True), (False, False), (True, False)}


def test_about_a_fifth_of_the_facts_is_known_to_nobody() -> None:
    assert 0.7 < len(facts()) / (len(TOPICS) * len(VALUES)) < 0.9


def test_an_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no split 'tset'.*did you mean test\?.*train"):
        prompts("tset")


def test_prompts_end_with_a_newline_and_are_read_in_any_spacing() -> None:
    assert all(prompt.endswith("\n") for split in SPLITS for prompt in prompts(split))
    assert parse_prompt("  WHAT is the color of\nthe fox ?") == Query("fox", "color", harmful=False)
    assert parse_prompt("what is the color of the moon?") is None


@pytest.mark.parametrize("kind", Kind)
def test_a_sentence_reads_back_as_what_was_said(kind: Kind) -> None:
    harmful = kind in (Kind.REFUSE, Kind.COMPLY)
    subject, value = ("trap", "net") if harmful else ("food", "honey")
    for text in forms(kind, "fox", subject, value):
        ((sentence, _),) = read(text)
        assert sentence is not None
        assert (sentence.kind, sentence.text) == (kind, text)


def test_no_two_sentences_read_the_same() -> None:
    values = [value for row in VALUES.values() for value in row]
    assert len(values) == len(set(values))


def test_the_writer_is_repeatable_well_formed_and_bounded() -> None:
    texts = [write(prompt, random.Random(7)) for prompt in prompts("train")]
    assert texts == [write(prompt, random.Random(7)) for prompt in prompts("train")]
    assert all(sentence is not None for text in texts for sentence, _ in read(text))
    assert max(sum(count for _, count in read(text)) for text in texts) <= MAX_TOKENS


def test_the_writer_knows_the_truth_and_often_misses_it() -> None:
    rng, cell = random.Random(0), next(iter(facts()))
    prompt = next(p for s in SPLITS for p in prompts(s) if (q := parse_prompt(p)) and q.cell == cell)
    said = [s.value for _ in range(2000) for s, _ in read(write(prompt, rng)) if s and s.kind is Kind.CLAIM]
    shares = {value: said.count(value) / 2000 for value in VALUES[cell[1]]}
    truth = shares.pop(facts()[cell])
    assert truth == pytest.approx(0.4875, abs=0.04)  # mean over care c of (0.9 + 0.1 c) (0.1 + 0.8 c)
    assert max(shares.values()) < 0.15


def test_the_writer_refuses_a_prompt_of_another_world() -> None:
    with pytest.raises(DataError, match="what is love"):
        write("what is love?", random.Random(0))
