"""The page: what every language says, what a screen reader is given, and how a study runs for one person."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter

import pytest
from rlhf_collect.page.words import FOLDER, LANGUAGES, words
from rlhf_collect.store import people
from sqlalchemy import event, text
from studies import Browser, pair, prefers_good, study

STATIC = FOLDER.parent / "static"
VOID = {"input", "meta", "link", "br", "hr"}


class Outline(HTMLParser):
    """What of a page matters to those who do not see it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.headings += [tag] if re.fullmatch("h[1-6]", tag) else []
        if tag == "input" and given.get("type") not in ("hidden",) and "label" not in self.open:
            self.faults.append(f"{tag} {given.get('name')} has no label")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_says_everything_with_the_same_gaps(language: str) -> None:
    gaps = {key: {name for _, name, *_ in Formatter().parse(said) if name} for key, said in words(language).items()}
    english = {key: {name for _, name, *_ in Formatter().parse(said) if name} for key, said in words("en").items()}
    assert gaps == english


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_are_whole_and_labelled_in_every_language(tmp_path: Path, language: str) -> None:
    browser = Browser(study(tmp_path, [pair(1), pair(2)]), "Ada", role="lead")
    csrf = browser.hidden()["csrf"]
    browser.page = browser.http.post("/language", data={"csrf": csrf, "language": language}).text
    browser.judge(choice="1")
    for path in ("/", "/mine", "/guidelines", "/lead", "/again/last"):
        page = browser.http.get(path).text
        assert f'<html lang="{language}" dir="{"rtl" if language == "ar" else "ltr"}">' in page
        found = Outline(page)
        assert (found.faults, found.open) == ([], []), path
        assert found.headings[0] == "h1"
        assert len(set(found.ids)) == len(found.ids)


def test_an_unknown_language_is_refused(tmp_path: Path) -> None:
    browser = Browser(study(tmp_path, [pair(1)]), "Ada")
    assert browser.http.post("/language", data={"csrf": browser.hidden()["csrf"], "language": "xx"}).status_code == 422


def test_the_script_is_small_and_comes_from_here() -> None:
    script = (STATIC / "collect.js").read_text()
    assert len(script) < 15_000
    assert not re.search("https?://|import |eval|document.write", script)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_light_and_dark_colours_have_the_contrast_of_wcag_aa() -> None:
    for theme in re.findall(r":root \{([^}]*)\}", (STATIC / "collect.css").read_text()):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for name, least in {"ink": 4.5, "link": 4.5, "good": 4.5, "line": 3.0}.items():
            for ground in ("paper", "soft"):
                bright, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
                assert (bright + 0.05) / (dark + 0.05) >= least, (name, ground)


def test_an_answer_is_changed_on_the_page(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1)
    browser = Browser(made, "Ada")
    browser.judge(choice=str(prefers_good(browser.shown())), confidence="4", reason="clear")
    browser.page = browser.http.get("/again/last").text
    assert 'aria-current="true"' in browser.page
    assert re.search('value="4" checked', browser.page)
    assert ">clear</textarea>" in browser.page
    browser.judge(choice="0")
    assert json.dumps(browser.http.get("/mine").text).count("/again/") == 1


def test_training_is_explained_at_once(tmp_path: Path) -> None:
    rows = [pair(1, purpose="training", known="b", explanation="because **so**"), pair(2)]
    browser = Browser(study(tmp_path, rows), "Ada")
    browser.judge(choice=str(prefers_good(browser.shown())))
    assert "The guidelines say otherwise." in browser.page
    assert "<strong>so</strong>" in browser.page


def test_feedback_on_known_answers_does_not_move_with_one_of_them(tmp_path: Path) -> None:
    rows = [pair(n, purpose="gold", known="ab"[n % 2]) for n in range(27)]
    browser = Browser(study(tmp_path, rows, gold_share_first=1.0, gold_share=1.0), "Ada")
    for asked in range(28):
        page = browser.http.get("/mine").text
        assert ("checked some time ago" in page) is (asked >= 25)
        assert ("Of 25 of your answers that were checked some time ago, 25 agreed" in page) is (asked >= 25)
        if shown := browser.shown():
            better = prefers_good(shown)
            browser.judge(choice=str(-better if int(shown[0].split()[1]) % 2 else better))


def test_new_guidelines_are_shown_and_kept_with_each_judgement(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1), pair(2)])
    browser = Browser(made, "Ada")
    browser.judge(choice="1")
    assert made.guide("Be **kind**.") == 2
    browser.judge(choice="-1")
    assert "<strong>kind</strong>" in browser.http.get("/guidelines").text
    with made.database.reading() as connection:
        assert connection.execute(text("SELECT guideline FROM annotation ORDER BY id")).scalars().all() == [1, 2]


def test_a_full_disk_takes_no_answer_and_says_so(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    browser = Browser(made, "Ada")
    with made.database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    event.listen(made.database.engine, "checkout", lambda c, *_: c.execute(f"PRAGMA max_page_count={pages}"))
    browser.http.post("/judge", data={**browser.hidden(), "choice": "1", "reason": "x" * 1900})
    for number in range(40):  # until the file would have to grow
        form = {**browser.hidden(), "choice": "1", "reason": "x" * 1900, "key": f"again {number}"}
        if (answer := browser.http.post("/judge", data=form)).status_code == 507:
            break
    assert "no answer can be taken at the moment" in answer.text
    assert browser.http.get("/guidelines").status_code == 200


def test_answers_wait_in_the_browser_until_they_are_committed() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    command = [node, str(Path(__file__).with_name("outbox.mjs")), str(STATIC / "collect.js")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"sent": ["key=a&csrf=new", "key=b&csrf=new"], "left": [], "page": "two", "said": "✓ Saved"}


def test_a_paused_person_is_answered_with_a_sentence(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1), pair(2)])
    browser = Browser(made, "Ada")
    with made.database.writing() as connection:
        people.set_state(connection, made.now(), 1, "paused", "too fast")
    answer = browser.http.post("/judge", data={**browser.hidden(), "choice": "1"}, headers={"x-part": "1"})
    assert (answer.status_code, answer.headers["content-type"]) == (403, "text/plain; charset=utf-8")
    assert answer.text.startswith("Your work is paused: too fast")
