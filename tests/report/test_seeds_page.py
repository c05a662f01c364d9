"""The page over seeds and settings: its words, its table, its links, and plots of every training."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from html_parts import Outline, svgs

from rlhf_plugins.report.schema import Report
from rlhf_plugins.report.seeds_page import NOT_EVALUATED, seeds_page
from rlhf_plugins.report.svg import SERIES

BETAS = {"beta 0.5": (0.6, 0.62, 0.64), "beta 1.0": (0.7, 0.71, 0.72)}


def _member(fields: dict[str, Any], title: str, score: float, **changes: Any) -> Report:
    around = {"low": score - 0.01, "high": score + 0.01}
    gain = {"mean": score - 0.45, "low": score - 0.46, "high": score - 0.44}
    dpo = fields["policies"]["dpo"] | {"gold": {"mean": score, **around}, "gain": gain, "kl": 10 * score}
    policies = {"sft": fields["policies"]["sft"], "dpo": dpo}
    return Report.model_validate(fields | {"title": title, "policies": policies, "stages": []} | changes)


@pytest.fixture
def swept(fields: dict[str, Any]) -> dict[str, list[Report]]:
    """Two settings with three seeds, in which dpo is clear of its start; a stage has two curves in each."""
    points = [(1, 0.7), (2, 0.5)]
    curves = {"loss": {"points": points}, "eval_loss": {"points": points}, "kl": {"points": points}}
    stages = [{"name": "dpo", "stage": "preference", "curves": curves}]
    return {
        setting: [_member(fields, f"{setting}/{seed}", score, stages=stages) for seed, score in enumerate(scores)]
        for setting, scores in BETAS.items()
    }


def test_the_page_says_which_to_take_and_has_a_row_for_each_policy(swept: dict[str, list[Report]]) -> None:
    html = seeds_page("sweep", swept)
    lead = re.search(r'class="lead">(.*?)</p>', html)
    assert lead
    assert lead[1] == "The highest gain over its start has dpo at beta 1.0."
    assert html.count("The highest gain") == 1
    table = html[html.index('id="policies"') : html.index('id="reward-models"')]
    assert re.findall(r'<th scope="row" data-value="([^"]+)"', table) == [
        *("sft at beta 0.5", "dpo at beta 0.5"),
        *("sft at beta 1.0", "dpo at beta 1.0"),
    ]
    assert re.findall(r'data-label="better" data-value="(\d*)"', table) == ["", "3", "", "3"]
    # The mean of .60, .62 and .64 is .62, its standard error .02/sqrt(3), and t with 2 degrees of freedom 4.303.
    assert '<span class="main">0.620</span> <small>[0.570, 0.670]</small>' in table


def test_the_page_is_one_whole_document(swept: dict[str, list[Report]]) -> None:
    html = seeds_page("sweep", swept)
    outline = Outline()
    outline.feed(html)
    assert outline.open == outline.crossed == []
    assert len(outline.ids) == len(set(outline.ids))
    assert "default-src 'none'" in html
    assert [picture.get("id") for picture in svgs(html)] == ["plot-scores", "plot-frontier", "plot-stage-0"]


def test_a_training_is_a_link_to_its_own_page(swept: dict[str, list[Report]]) -> None:
    links = re.findall(r'href="([^"#]+/report.html)"', seeds_page("sweep", swept))
    assert links == [f"beta%20{beta}/{seed}/report.html" for beta in ("0.5", "1.0") for seed in range(3)]


def test_every_training_is_a_line_in_the_colour_of_its_setting(swept: dict[str, list[Report]]) -> None:
    scores, _, curves = map(_strokes, svgs(seeds_page("sweep", swept)))
    assert curves == {1: 2 * 3 + 1, 2: 2 * 3 + 1}  # two panels, three seeds, and the legend; no panel for eval_loss
    assert scores.keys() == {1, 2}  # references are grey


def test_plots_hold_the_score_of_every_seed(swept: dict[str, list[Report]]) -> None:
    picture = svgs(seeds_page("sweep", swept))[0]
    markers = [element for element in picture.iter() if element.tag.endswith("use") and "series" in str(element.attrib)]
    assert len(markers) >= 2 * (3 + 1)  # the seeds and the mean of each setting


def test_of_one_setting_each_policy_has_a_colour(fields: dict[str, Any]) -> None:
    reports = [_member(fields, f"seed-{seed}", score) for seed, score in enumerate((0.6, 0.62, 0.64))]
    html = seeds_page("seeds", {"": reports})
    assert "beta" not in html
    assert '<th scope="col">setting' not in html
    assert "dpo: +0.170" in html


def test_what_is_not_finished_is_named(swept: dict[str, list[Report]]) -> None:
    assert 'class="warning"' not in seeds_page("sweep", swept)
    assert "not in any mean: seed-3, seed-4." in seeds_page("sweep", swept, ["seed-3", "seed-4"])


def test_reward_models_alone_have_a_table_and_no_plot(fields: dict[str, Any]) -> None:
    nothing = {"policies": {}, "reference": None, "ceiling": None, "samples": [], "judge": None}
    html = seeds_page("rewards", {"": [_member(fields, "seed-0", 0.6, **nothing)]})
    assert f'class="lead">{NOT_EVALUATED}' in html
    assert '<span class="main">74.2%</span>' in html
    assert svgs(html) == []


def test_text_is_escaped(fields: dict[str, Any]) -> None:
    attack = "<script>alert(1)</script>"
    policies = {name: fields["policies"][name] for name in ("sft", "dpo")} | {attack: fields["policies"]["dpo"]}
    report = _member(fields, attack, 0.6, policies=policies)
    html = seeds_page(attack, {attack: [report]}, [attack])
    assert html.count("<script") == 1


def _strokes(picture: ElementTree.Element) -> dict[int, int]:
    """By the number of its colour, how many lines a picture has."""
    styles = [element.get("style", "") for element in picture.iter() if element.tag.endswith("path")]
    numbers = [int(found[1]) for style in styles if (found := re.search(r"stroke: var\(--series-(\d)\)", style))]
    return {number: numbers.count(number) for number in range(1, len(SERIES) + 1) if number in numbers}
