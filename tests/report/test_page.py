"""The page: self-contained, escaped, whole with any part missing; its plots well formed and true."""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from xml.etree import ElementTree

import pytest
from html_parts import Outline, svgs

from rlhf_plugins.report.curves import reliability
from rlhf_plugins.report.page import page
from rlhf_plugins.report.plots import policy_plots
from rlhf_plugins.report.schema import Report

TEXT: dict[str, Any] = {
    **{name: [] for name in ("stages", "samples", "notes", "plugins")},
    **{name: {} for name in ("recipe", "versions", "evaluations")},
    "status": "finished",
}


@cache
def _plots(numbers: str) -> dict[str, Any]:
    """By what draws them, the plots of a report without its text: drawing takes long, and most tests read text."""
    report = Report.model_validate_json(numbers)
    return {"policy_plots": policy_plots(report), "reliability": reliability(report.measured_reward_models)}


def _page(fields: dict[str, Any], **changes: Any) -> str:
    report = Report.model_validate(fields | changes)
    plots = _plots(report.model_copy(update=TEXT).model_dump_json())
    with pytest.MonkeyPatch.context() as patch:
        for name, drawn in plots.items():
            patch.setattr(f"rlhf_plugins.report.page.{name}", lambda _, drawn=drawn: drawn)
        return page(report)


def test_nothing_is_requested_from_outside(html: str) -> None:
    html = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    assert not re.findall(r"https?:|//\w|@import|<link (?!rel=.icon. href=.data:,.)|src=|url\((?!#)", html)
    assert "default-src 'none'" in html


def test_tags_nest_and_ids_are_unique(html: str) -> None:
    outline = Outline()
    outline.feed(html)
    assert outline.open == outline.crossed == []
    assert len(outline.ids) == len(set(outline.ids)) > 100


def test_each_plot_is_well_formed_named_and_resolves_its_references(html: str) -> None:
    pictures = svgs(html)
    assert len(pictures) == 6  # scores, frontier, dimensions, reliability and two stages
    for picture in pictures:
        ids = {element.get("id") for element in picture.iter()}
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', ElementTree.tostring(picture, encoding="unicode"))
        assert picture.get("role") == "img"
        assert len(picture.get("aria-label", "")) > 40
        assert set(used) <= ids


def test_plots_take_every_colour_and_font_from_the_page(html: str) -> None:
    for picture in svgs(html):
        text = ElementTree.tostring(picture, encoding="unicode")
        bare = re.sub(r"var\([^)]*\)", "", text)
        assert not re.search(r"#[0-9a-fA-F]{6}\b|DejaVu|<ns\d:?style", bare)


def test_every_variable_of_the_style_is_set(html: str) -> None:
    assert set(re.findall(r"var\((--[\w-]+)\)", html)) <= set(re.findall(r"(--[\w-]+):", html))


def test_scores_plot_says_the_numbers(html: str) -> None:
    label = svgs(html)[0].get("aria-label")
    assert label == "Gold reward by policy: sft 0.450, best_of_16 0.730, dpo 0.680, ipo 0.640, ppo 0.710."


def test_text_is_escaped_wherever_it_stands(fields: dict[str, Any]) -> None:
    attack = '<script>alert(1)</script>"><img src=x onerror=alert(1)></pre></style>'
    fields["samples"] = [{"prompt": attack, "responses": {attack: {"text": attack}}}]
    fields["policies"][attack] = fields["policies"]["dpo"]
    fields["stages"] = [fields["stages"][0] | {"name": attack}]
    fields["recipe"]["note"] = fields["title"] = attack
    fields["data"] = {"train": 1, "test": 1, "dropped": {attack: 1}, attack: attack}
    html = _page(fields, notes=[attack], versions={attack: attack})
    assert html.count("<script") == html.count("</style>") == html.count("</pre>") == 1
    assert "<img" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_template_in_a_response_is_text(fields: dict[str, Any]) -> None:
    fields["samples"] = [{"prompt": "{{ 7 * 7 }}", "responses": {}}]
    assert "{{ 7 * 7 }}" in _page(fields, stages=[])


def test_dollars_in_a_name_are_not_mathematics(fields: dict[str, Any]) -> None:
    fields["policies"]["$dpo$ \\frac"] = fields["policies"].pop("dpo")
    assert "$dpo$ \\frac" in (svgs(_page(fields))[0].get("aria-label") or "")


def test_control_characters_of_a_response_are_shown(fields: dict[str, Any]) -> None:
    fields["samples"] = [{"prompt": "a", "responses": {"dpo": {"text": "x\x00y\x1bz"}, "ppo": {"text": ""}}}]
    html = _page(fields)
    assert "x\u2400y\u241bz" in html
    assert "(empty response)" in html


@pytest.mark.parametrize(
    "changes",
    [
        {"reward_model": None},
        {"stages": []},
        {"samples": []},
        {"ceiling": None},
        {
            "policies": {},
            "reference": None,
            "reward_model": None,
            "stages": [],
            "ceiling": None,
            "samples": [],
        },
        {"score_name": "reward model score"},
        {"recipe": {}, "versions": {}, "notes": [], "plugins": []},
        {"reward_model": {"accuracy": None, "ece": None, "n": 0}},
    ],
)
def test_page_is_whole_with_a_part_missing(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    outline = Outline()
    outline.feed(html := _page(fields, **changes))
    assert outline.open == outline.crossed == []
    assert "<h2>Data</h2>" in html
    assert not re.search(r"\bNone\b|\bnan\b", html)


def test_every_number_of_every_reward_model_is_shown(rewards: Report) -> None:
    outline = Outline()
    outline.feed(html := page(rewards))
    assert outline.open == outline.crossed == []
    assert len(outline.ids) == len(set(outline.ids))
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    for row in (
        ["Main measures", "plain", "gaussian"],
        ["accuracy (95% CI)", "74.2% [70.7, 77.7]", "70.1% [66.1, 74.1]"],
        ["largest calibration error (MCE)", "8.0%", "8.0%"],
        ["certificate_lower_bound", "0.711", "-"],
        ["mine", "-", "12.500"],
        ["tea", "60.0%", "-"],
        ["accuracy (95% CI)", "-", "65.0% [60.0, 70.0]"],
    ):
        assert row in rows


def test_reliability_diagrams_stand_side_by_side(rewards: Report) -> None:
    (picture,) = [svg for svg in svgs(page(rewards)) if svg.get("id") == "plot-reliability"]
    label = picture.get("aria-label") or ""
    assert label.startswith("Reliability of the reward models: plain, 52.5% predicted, 49.0% right;")
    text = ElementTree.tostring(picture, encoding="unicode")
    assert text.count("plain</") == text.count("gaussian</") == 1


@pytest.mark.parametrize("n", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4)), 7])
def test_any_number_of_reward_models_fits(fields: dict[str, Any], n: int) -> None:
    models = {f"<model {i}>": fields["reward_model"] for i in range(n)}
    html = _page(fields, reward_models=models, stages=[])
    assert html.count("&lt;model 0&gt;</th>") == 1
    assert len(svgs(html)) == 4


@pytest.mark.parametrize(
    "changes", [{}, {"kl": None, "gold": {"mean": None, "low": None, "high": None}, "dimensions": {}}]
)
def test_page_of_one_policy(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    fields["policies"] = {"sft": fields["policies"]["sft"] | changes}
    assert len(svgs(_page(fields, reward_model=None, stages=[]))) == (0 if changes else 2)


def test_what_a_policy_said_in_training_is_shown_with_its_numbers(fields: dict[str, Any]) -> None:
    early = {"step": 0, "prompt": "Hi <b>", "response": "No\x00.", "reward": -0.5, "gold": 1.25, "kl": 0.5, "tokens": 3}
    late = {"step": 76, "prompt": "Hi", "response": " ", "reward": float("nan")}
    ppo = {"name": "ppo", "stage": "online", "rollouts": [early, late]}
    html = _page(fields, stages=[fields["stages"][0], ppo])
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    start = rows.index(["step", "prompt", "response", "reward", "gold", "KL, nats", "tokens", "advantage"])
    assert rows[start + 1] == ["0", "Hi &lt;b&gt;", "No\u2400.", "-0.500", "1.250", "0.500", "3", "-"]
    assert rows[start + 2] == ["76", "Hi", " ", *"-----"]
    assert re.findall(r"<summary>Responses of (\w+) during training", html) == ["ppo"]


def test_an_empty_response_in_training_is_said_to_be_one(fields: dict[str, Any]) -> None:
    rollout = {"step": 0, "prompt": "Hi", "response": "", "reward": 0.0}
    stage = {"name": "ppo", "stage": "online", "rollouts": [rollout]}
    assert "(empty response)" in _page(fields, stages=[stage])


def test_a_response_in_training_has_the_parts_of_its_reward_and_what_became_of_it(fields: dict[str, Any]) -> None:
    said = {"step": 3, "prompt": "p", "response": "r", "reward": 1.5, "advantage": -0.25}
    learned = said | {"parts": {"format": 0.5, "right": 1.0}}
    left_out = said | {"parts": {"right": 0.125}, "left_out": "truncated"}
    stage = {"name": "ppo", "stage": "online", "rollouts": [learned, left_out]}
    rows = re.findall(r"<tr>(<td>3</td>.*?)</tr>", _page(fields, stages=[stage]))
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
    assert [row[1:4] + row[-1:] for row in cells] == [
        ["1.500", "0.500", "1.000", "-0.250"],
        ["1.500", "-", "0.125", '<span class="muted">left out: truncated</span>'],
    ]


def test_a_response_in_training_has_what_functions_logged_of_it(fields: dict[str, Any]) -> None:
    said = {"step": 3, "prompt": "p", "response": "r", "reward": 1.5}
    rollouts = [said | {"extra": {"parsed": "<b>4"}}, said | {"extra": {"count": 2}}]
    html = _page(fields, stages=[{"name": "ppo", "stage": "online", "rollouts": rollouts}])
    assert '<th scope="col">advantage</th><th scope="col">parsed</th><th scope="col">count</th></tr>' in html
    rows = re.findall(r"<tr>(<td>3</td>.*?)</tr>", html)
    cells = [re.findall(r'<td class="wrap" dir="auto">(.*?)</td>', row)[2:] for row in rows]
    assert cells == [["&lt;b&gt;4", "-"], ["-", "2"]]


def test_a_curve_with_gaps_and_one_point_are_drawn(fields: dict[str, Any]) -> None:
    loss = [(1, 0.5), (2, float("nan")), (3, 0.25)]
    curves = {"loss": {"points": loss}, "kl": {"points": [(1, 0.1)]}, "train_loss": {"points": [(9, 0.4)]}}
    html = _page(
        fields,
        stages=[{"name": "dpo", "stage": "preference", "curves": curves}],
    )
    assert svgs(html)[-1].get("aria-label") == "Training curves: dpo. loss from 0.500 to 0.250; kl 0.100."


@pytest.mark.parametrize(("status", "said"), [("interrupted", "was interrupted"), ("failed", "This run failed")])
def test_an_unfinished_run_says_so(fields: dict[str, Any], html: str, status: str, said: str) -> None:
    assert said in _page(fields, status=status, stages=[])
    assert said not in html


def test_the_same_report_is_the_same_page(report: Report, html: str) -> None:
    assert page(report) == html


def _cells(html: str) -> list[list[str]]:
    return [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_a_section_of_a_stage_shows_its_text_and_table(html: str) -> None:
    assert '<h2>Principles<span class="tag">evaluate</span></h2>' in html
    assert html.index('<p class="text" dir="auto">Of the constitution.</p>') < html.index(
        "Judged by the policy itself.</p>"
    )
    rows = _cells(html)
    start = rows.index(["principle", "kept", "n", "gate"])
    assert rows[start + 1 : start + 3] == [["brief", "0.750", "1,200", "-"], ["kind", "-", "-", "yes"]]


def test_stages_show_their_costs_and_what_they_opened(html: str) -> None:
    rows = _cells(html)
    costs = ["time", "FLOPs", "tokens trained", "tokens generated", "reward calls", "peak memory"]
    start = rows.index(["name", "stage", *costs, "starts from", "KL to", "opened"])
    assert rows[start + 1] == ["reward", "reward", "58 s", "3.20e12", "41,000", "-", "-", "700 MiB", "-", "-", "-"]
    last = [
        "ppo",
        "online",
        "2 min 8 s",
        "-",
        "-",
        "90,000",
        "5,120",
        "900 MiB",
        "sft",
        "base",
        "reward model reward",
    ]
    assert rows[start + 2] == last


def test_nested_numbers_of_a_stage_are_a_table(fields: dict[str, Any]) -> None:
    tasks = {"answers": {"base": {"mean": 0.5, "n": 10}, "dpo": {"mean": 0.75, "n": 10}}}
    stage = {"name": "evaluate", "stage": "evaluate", "metrics": {"tasks": tasks, "loss": 0.5}}
    html = _page(fields, stages=[stage])
    rows = _cells(html)
    start = rows.index(["of", "mean", "n"])
    assert rows[start + 1 : start + 3] == [["answers, base", "0.500", "10"], ["answers, dpo", "0.750", "10"]]
    assert "<dt>loss</dt><dd>0.500</dd>" in html
    assert "<dt>tasks</dt>" not in html


def test_a_cost_that_nothing_counted_has_no_column(fields: dict[str, Any]) -> None:
    html = _page(fields, stages=[{"name": "a", "stage": "sft", "cost": {"seconds": 1.0}}])
    assert ["name", "stage", "time", "starts from", "KL to", "opened"] in _cells(html)


def test_a_curve_shows_its_unit_and_which_direction_is_better(fields: dict[str, Any]) -> None:
    points = [(1, 2.0), (2, 3.0)]
    curves = {"gate": {"points": points, "unit": "pairs", "better": "higher"}, "kl": {"points": points}}
    html = _page(fields, stages=[{"name": "a", "stage": "b", "curves": curves}])
    assert "gate (pairs) \u2191" in html
    assert "kl (nats)<" in html
    assert "An arrow shows which direction is better." in html


def test_an_earlier_evaluation_has_a_table_of_its_own(fields: dict[str, Any]) -> None:
    judged = {"a": {"gold": {"mean": 1.5, "low": 1.0, "high": 2.0}, "n": 4}}
    evaluation = {"policies": judged, "reference": "a", "score_name": "judge of round 1"}
    html = _page(fields, evaluations={"round1": evaluation})
    assert '<h2>Earlier evaluation<span class="tag">round1</span></h2>' in html
    assert '<th scope="col">judge of round 1 (mean, 95% CI)</th>' in html


def test_numbers_on_held_out_rows_are_in_the_panel_of_training(fields: dict[str, Any]) -> None:
    curves = {"loss": {"points": [(1, 2.0), (2, 1.0)]}, "eval_loss": {"points": [(2, 1.5), (4, 1.75)]}}
    html = _page(fields, stages=[{"name": "dpo", "stage": "preference", "curves": curves}])
    assert "loss from 2.000 to 1.000; eval_loss from 1.500 to 1.750" in html
    assert "The points are on held-out rows." in html
    assert ">eval_loss<" not in html


def test_percentiles_are_bands_in_the_panel_of_their_mean(fields: dict[str, Any]) -> None:
    values = {"reward": 1.0} | {f"reward_p{rank}": rank / 50 for rank in (5, 25, 50, 75, 95)}
    curves = {name: {"points": [(1, value), (2, value)]} for name, value in values.items()}
    html = _page(fields, stages=[{"name": "ppo", "stage": "online", "curves": curves}])
    assert "The bands hold 50% and 90% of the responses." in html
    assert "reward_p" not in re.sub("<script.*?</script>", "", html, flags=re.DOTALL)
    alone = _page(fields, stages=[{"name": "ppo", "stage": "online", "curves": {"reward": curves["reward"]}}])
    assert html.count("fill-opacity: 0.18") == 2
    assert "fill-opacity: 0.18" not in alone


def test_each_cell_that_a_phone_shows_as_a_line_has_its_columns_name(html: str) -> None:
    tables = re.findall(r'<table class="[^"]*\bcards\b.*?</table>', html, re.DOTALL)
    assert len(tables) == 4  # policies, further measures, a section of a stage, the stages
    for table in tables:
        headers = [re.sub(r"<[^>]*>|\u2011", "", name) for name in re.findall(r"<th scope=.col.>(.*?)</th>", table)]
        labels = re.findall(r'<td[^>]* data-label="([^"]*)"|<td[^>]*(>)', table)
        assert {label for label, _ in labels} <= {*headers, "distinct-1", "distinct-2"}
        assert not any(bare for _, bare in labels)


def test_whole_numbers_of_a_stage_are_counts(fields: dict[str, Any]) -> None:
    fields["stages"][0]["metrics"] = {"pairs": 268.0, "share": 1.0}
    html = page(Report.model_validate(fields))
    assert "<dt>pairs</dt><dd>268</dd><dt>share</dt><dd>1.000</dd>" in html


@pytest.mark.filterwarnings("error")
def test_long_names_of_policies_leave_plots_their_room(fields: dict[str, Any]) -> None:
    names = {name: f"{name} with-the-best-of-{'very-' * 30}many-options-{name}" for name in fields["policies"]}
    fields["policies"] = {names[name]: policy for name, policy in fields["policies"].items()}
    fields |= {"reference": names[fields["reference"]], "samples": []}
    page(Report.model_validate(fields))
