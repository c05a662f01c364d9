"""Texts, sites and people that attack: nothing runs, nothing loads, nobody reaches what is somebody else's."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path

import pytest
from rlhf_collect import release as releases
from rlhf_collect.export import write
from rlhf_collect.markup import ATTRIBUTES, TAGS, html
from rlhf_collect.page.app import site
from rlhf_collect.store import tables
from rlhf_collect.store.rows import Asked, Written
from sqlalchemy import insert
from sqlalchemy.exc import DatabaseError
from starlette.routing import Route
from starlette.testclient import TestClient
from studies import HERE, Browser, pair, prefers_good, study

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg><a xlink:href='javascript:alert(1)'><text>x</text></a></svg>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt&colon;alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "![pixel](https://tracker.example/p.png)",
    '<https://example.com/" onmouseover=alert(1)>',
    "[a]: javascript:alert(1)\n[a]",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<base href=//evil.example><link rel=stylesheet href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "</article></main><form action=//evil.example><button>",
    "<details open ontoggle=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "safe\u202egnihton\u202c \u2066hidden\u2069 \x00\x1b[2J \ud800",
    "> " * 500 + "deep",
    "[" * 5000,
    '=HYPERLINK("//evil.example")',
    "&#x202e;nihton&#x202c; &#8294;",
    "$\\text{<img src=x onerror=alert(1)>}$ $\\text{&lt;script&gt;alert(1)&lt;/script&gt;}$",
    "$\\href{javascript:alert(1)}{x} \\style{position:fixed}{y} \\class{choice}{z} \\unicode{x202e}$",
    "$$\\hspace{-999em} \\rule{999em}{999em} \\raisebox{-99em}{x}$$",
]


class Tags(HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_a_text_becomes_a_few_harmless_tags(attack: str) -> None:
    shown = html(attack)
    for tag, attributes in Tags(shown).seen:
        assert tag in TAGS
        assert attributes.keys() <= ATTRIBUTES.get(tag, set()) | {"rel"}
        assert re.match(r"(https?|mailto):|[^:]*$", attributes.get("href") or "")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\ud800-\udfff]", shown)


def test_pages_with_attacks_in_every_text_hold_one_script_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    texts = [text.replace("\ud800", "").replace("\0", "") for text in ATTACKS]
    rows = [Asked("", text + " ?", (Written(text + " a", {}), Written(text + " b", {})), text[:99]) for text in texts]
    made = study(tmp_path, rows, votes=1)
    browser, choices = Browser(made, "<b onclick=alert(1)>Eve", role="lead"), cycle((1, -1))
    while 'id="judge"' in browser.page:
        seen = Tags(browser.page).seen
        assert [attributes.get("src") for tag, attributes in seen if tag == "script"] == ["/static/collect.js"]
        assert not [name for _, attributes in seen for name in attributes if name.startswith("on") or name == "style"]
        assert "</html>" in browser.page
        browser.judge(choice=str(next(choices)), reason=ATTACKS[1])
    assert "<b onclick" not in browser.http.get("/lead").text
    assert len(releases.make(made, releases.Parameters(test_fraction=0.0)).rows) == len(ATTACKS)


def test_a_text_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    made = study(tmp_path, [])
    assert made.add([pair(1, domain="\ud800")])[1] == {"with half a character or NUL": 1}


def test_every_page_forbids_what_it_does_not_need(tmp_path: Path) -> None:
    browser = Browser(study(tmp_path, [pair(1)]), "Ada", role="lead")
    for path in ("/", "/mine", "/guidelines", "/lead", "/nothing"):
        policy = browser.http.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy


def test_no_page_of_an_annotator_tells_who_wrote_an_answer_or_that_it_is_known(tmp_path: Path) -> None:
    gold = [pair(n, purpose="gold", known="a") for n in range(3)]
    made = study(tmp_path, [pair(9), *gold], gold_share_first=1.0)
    browser = Browser(made, "Ada")
    while 'id="judge"' in browser.page:
        assert not re.search("model-|gold|known", browser.page + str(browser.http.get("/mine").text))
        browser.judge(choice="1")


@pytest.mark.parametrize(
    ("headers", "path"), [({"origin": "http://evil.example"}, "/judge"), ({"origin": ""}, "/judge"), ({}, "/leave")]
)
def test_another_site_changes_nothing(tmp_path: Path, headers: dict[str, str], path: str) -> None:
    browser = Browser(study(tmp_path, [pair(1)]), "Ada")
    form = {**browser.hidden(), "choice": "1", "csrf": "" if not headers else browser.hidden()["csrf"]}
    assert browser.http.post(path, data=form, headers=headers).status_code == 403


def test_a_name_that_points_here_is_not_served(tmp_path: Path) -> None:
    browser = Browser(study(tmp_path, [pair(1)]), "Ada")
    assert browser.http.get("/", headers={"host": "evil.example"}).status_code == 403


def test_a_link_lets_one_person_in_once(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    from rlhf_collect.store import people

    with made.database.writing() as connection:
        ticket = people.invite(connection, made.now(), "Ada")
    http = TestClient(site(made), base_url=HERE, headers={"origin": HERE})
    assert http.get("/enter", params={"ticket": ticket}).status_code == 200  # looking does not use it up
    assert http.post("/enter", data={"ticket": ticket}).status_code == 200
    http.cookies.clear()
    assert http.post("/enter", data={"ticket": ticket}).status_code == 401
    made.now.tick(25 * 3600)
    assert http.post("/enter", data={"ticket": "x" * 43}).status_code == 401


def test_nobody_without_a_session_gets_anything_from_any_route(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    http = TestClient(site(made), base_url=HERE, headers={"origin": HERE})
    for route in [route for route in site(made).routes if isinstance(route, Route) and route.path != "/enter"]:
        path = route.path.replace("{which}", "1").replace("{language}", "en")
        answer = http.request(
            "POST" if "POST" in route.methods else "GET", path, data={} if "POST" in route.methods else None
        )
        assert answer.status_code == 401, path
        assert "prompt" not in answer.text


def test_nobody_reads_or_changes_what_is_somebody_elses(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1), pair(2)])
    ada, eve = Browser(made, "Ada"), Browser(made, "Eve")
    of_ada = ada.hidden()
    ada.judge(choice="3")
    assert eve.http.get("/again/1").status_code == 404
    assert eve.http.get("/again/last").status_code == 404
    stolen = {**of_ada, "csrf": eve.hidden()["csrf"], "key": "new", "choice": "-3"}
    assert eve.http.post("/judge", data=stolen).status_code == 422
    assert eve.http.post("/judge", data={**of_ada, "choice": "-3"}).status_code == 403
    for path in ("/lead", "/lead/invite", "/lead/state"):
        form = {"csrf": eve.hidden()["csrf"], "name": "Mal", "role": "lead", "person": "1", "state": "paused"}
        answer = eve.http.get(path) if path == "/lead" else eve.http.post(path, data=form)
        assert answer.status_code == 403


def test_a_form_that_is_huge_or_none_is_refused(tmp_path: Path) -> None:
    browser = Browser(study(tmp_path, [pair(1)]), "Ada")
    assert browser.http.post("/judge", data={**browser.hidden(), "reason": "x" * 70_000}).status_code == 413
    assert browser.http.post("/judge", json=browser.hidden()).status_code == 400
    assert browser.http.post("/judge", data={**browser.hidden(), "choice": "9" * 5000}).status_code == 422


def test_no_cell_of_a_csv_file_is_a_formula(tmp_path: Path) -> None:
    rows = [Asked("", f"={n}+1", (Written(f"good@{n}", {}), Written(f"@bad{n}", {}))) for n in range(3)]
    made = study(tmp_path, rows, votes=1)
    Browser(made, "Ada").work(prefers_good)
    write(releases.make(made, releases.Parameters(test_fraction=0.0)), tmp_path, as_csv=True)
    with (tmp_path / "train.csv").open() as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=0+1" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


def test_sessions_of_two_studies_have_cookies_of_their_own(tmp_path: Path) -> None:
    """Ports of one host share their cookies: entering a second study would end the session of the first."""
    one, other = (Browser(study(tmp_path / name, []), "Ada").http for name in "ab")
    assert not set(one.cookies) & set(other.cookies)


@pytest.mark.parametrize("headers", [{"host": "[::1"}, {"origin": "http://[::1"}])
def test_an_address_that_is_none_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    browser = Browser(study(tmp_path, [pair(1)]), "Ada")
    assert browser.http.post("/judge", data=browser.hidden(), headers=headers).status_code == 403


@pytest.mark.parametrize("sign", "\uff1d\uff0b\uff0d\uff20")
def test_a_full_width_sign_begins_no_cell(tmp_path: Path, sign: str) -> None:
    made = study(tmp_path, [Asked("", f"{sign}1+1", (Written("good", {}), Written("bad", {})))], votes=1)
    Browser(made, "Ada").work(prefers_good)
    write(releases.make(made, releases.Parameters(test_fraction=0.0)), tmp_path, as_csv=True)
    assert f"'{sign}1+1" in (tmp_path / "train.csv").read_text()


def test_an_error_of_the_database_shows_no_secret(tmp_path: Path) -> None:
    made = study(tmp_path, [])
    values = {"digest": "d", "person": 7, "csrf": "secret-1", "until": 0.0}
    with pytest.raises(DatabaseError) as found, made.database.writing() as connection:
        connection.execute(insert(tables.session), [values | {"digest": "secret-2"}])
    assert "secret" not in str(found.value)
