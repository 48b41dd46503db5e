"""The page is one file that loads nothing, runs nothing of its users, and answers pointer and keys."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from taskloom.graph.render.fold import MAX_BOXES
from taskloom.graph.render.page import render_page
from taskloom.graph.view import State, Status, View, make_view

from .browser import Browser
from .plans import plan_like_tasks, plan_prompt, plan_two_tasks

PROMPT = "</script><script>alert(1)</script> \x1b[2J\x1b]0;owned\x07 \u202e😀 <b>&amp;\"' --> <!-- ${x} $x"
CHROMIUM = shutil.which("chromium")
BOXES = "[...document.querySelectorAll('.picture:not([hidden]) .box')]"
LIT = f"{BOXES}.filter(b => b.classList.contains('lit')).length"
HEADING = "document.querySelector('#panel h2').firstChild.textContent"


class Reader(HTMLParser):
    """Collects the elements of a page, and the attributes that could load or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in {"src", "href", "action", "data"}]
        self.handlers += [k for k, _ in attrs if k.startswith("on") or k == "style"]


def test_nothing_of_a_prompt_becomes_an_element() -> None:
    hostile = Reader(render_page(plan_prompt(PROMPT).view(PROMPT)))
    harmless = Reader(render_page(plan_prompt("what is this?").view("title")))
    assert hostile.tags == harmless.tags
    assert hostile.handlers == []


def test_page_holds_the_view_as_it_is() -> None:
    view = plan_prompt(PROMPT).view(PROMPT)
    embedded = re.search(
        r'<script type="application/json" id="view">(.*?)</script>', render_page(view)
    )
    assert embedded
    assert json.loads(embedded[1]) == view


def test_page_shows_no_control_character() -> None:
    page = render_page(plan_prompt(PROMPT).view(PROMPT))
    assert all(c.isprintable() or c == "\n" for c in page)
    assert r"\x1b[2J" in page


def test_page_loads_nothing() -> None:
    page = render_page(plan_two_tasks().view())
    assert Reader(page).links == ["data:,"]
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[\w./]+", page)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("number", [1, 3, 100])
def test_no_picture_has_more_boxes_than_can_be_read(number: int) -> None:
    planned = plan_like_tasks(number)
    view = make_view(planned.graph, title="", stages=planned.cut.stages)
    pictures = render_page(view).split('<svg class="picture"')[1:]
    counts = [picture.count('<g class="box ') for picture in pictures]
    assert counts
    assert max(counts) <= MAX_BOXES


def test_states_are_told_by_shape_and_word() -> None:
    states = {
        "resize_images": State(Status.STALE, "height 192 -> 224"),
        "decode_images": State(Status.MISSING),
        "encode_texts": State(Status.CACHED),
        "fit_bpe": State(Status.UNKNOWN),
    }
    page = render_page(plan_two_tasks().view("states", **states))
    for status in Status:
        boxes = re.findall(rf'<g class="box [^"]*{status}".*?\n</g>', page, re.DOTALL)
        assert boxes
        assert all(f'class="mark {status}"' in box for box in boxes)
        assert all(f">{status}</text>" in box for box in boxes)


def test_stored_columns_and_no_others_are_marked() -> None:
    view = plan_two_tasks().view()
    num_stored = sum(o["stored"] is not None for node in view["nodes"] for o in node["outputs"])
    page = render_page(view).partition('<div class="legend">')[0]
    assert page.count('class="mark stored"') == num_stored * page.count('<svg class="picture"')


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: what the page's script does was not tested")
    browser = Browser(CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def show(browser: Browser, view: View, path: Path, address: str = "") -> None:
    path = path / "plan.html"
    path.write_text(render_page(view), "utf-8")
    browser.open(path.as_uri() + address)


def test_script_runs_without_a_word_and_asks_for_nothing(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_prompt(PROMPT).view(PROMPT), tmp_path)
    for number in range(browser.run(f"{BOXES}.length")):
        browser.run(f"{BOXES}[{number}].dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    assert browser.run("document.querySelectorAll('#panel script, #panel b').length") == 0
    assert browser.errors == []
    assert [url for url in browser.urls if not url.startswith(("file:", "data:"))] == []


def test_address_in_the_url_selects_and_lights_its_slots(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_two_tasks().view(), tmp_path, "#vqa.img/resize")
    assert browser.run(HEADING) == "caption.img/resize"
    marks = browser.run("[...document.querySelectorAll('#panel mark')].map(m => m.textContent)")
    assert marks == ["[IMAGE:img]", "[IMAGE:img]"]
    lit = browser.run(f"{BOXES}.filter(b => b.matches('.lit')).map(b => b.textContent)")
    assert any("pack_documents" in text for text in lit)
    assert any("decode_images" in text for text in lit)
    assert not any("encode_texts" in text for text in lit)


@pytest.mark.parametrize("address", ["#no/such/node", "#%", "#%E0%A4%A"])
def test_unknown_address_selects_nothing(browser: Browser, tmp_path: Path, address: str) -> None:
    show(browser, plan_two_tasks().view(), tmp_path, address)
    assert browser.run(HEADING) == "Overview"
    assert browser.errors == []


def test_slots_after_an_emoji_are_lit_where_they_stand(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_prompt("😀 what?").view(), tmp_path, "#caption.answer")
    assert browser.run("document.querySelector('#panel mark').textContent") == "[TEXT:answer]"


def test_click_chooses_and_escape_lets_go(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_two_tasks().view(), tmp_path)
    browser.click("#fit")
    browser.click(".picture:not([hidden]) .box.stored .card")
    assert browser.run(LIT) > 1
    assert browser.run("document.querySelector('#panel').textContent.includes('stored: ')")
    assert browser.run(f"{BOXES}.filter(b => b.matches('.chosen')).length") == 1
    browser.press("Escape")
    assert browser.run(LIT) == 0
    assert browser.run("location.hash") == ""


def test_keys_reach_and_choose_every_neighbour(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_two_tasks().view(), tmp_path)
    browser.run("document.querySelector('.box[tabindex=\"0\"]').focus()")
    before = browser.run("document.activeElement.textContent")
    browser.press("ArrowDown")
    assert browser.run("document.activeElement.textContent") != before
    browser.press("Enter")
    assert browser.run("document.activeElement.matches('.chosen')")


def test_search_counts_hits_and_enter_opens_them(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_two_tasks().view(), tmp_path)
    browser.press("/")
    for key in "resize":
        browser.press(key)
    assert browser.run("document.getElementById('found').textContent") == "1 hit"
    browser.press("Enter")
    assert browser.run(HEADING) == "caption.img/resize"


def test_folded_box_opens_to_its_members(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_like_tasks(30).view(), tmp_path)
    browser.click(".picture:not([hidden]) .box:has(.behind) .card")
    assert browser.run("document.querySelectorAll('#panel .row').length") == 30
    browser.click("#panel li:nth-child(7) .row")
    assert browser.run(HEADING).startswith("task_006")
    browser.click("#panel .back")
    assert browser.run("document.querySelectorAll('#panel .row').length") == 30


def test_all_nodes_are_drawn_on_demand(browser: Browser, tmp_path: Path) -> None:
    view = plan_like_tasks(30).view()
    show(browser, view, tmp_path, "#task_011.img/resize")
    browser.click("#fold")
    assert browser.run(f"{BOXES}.length") == len(view["nodes"])
    assert browser.run(HEADING) == "task_011.img/resize"


def test_instruction_lights_what_computes_it(browser: Browser, tmp_path: Path) -> None:
    view = plan_two_tasks().view()
    show(browser, view, tmp_path)
    browser.click("#panel .instruction")
    sites = [[site["instruction"] for site in node["sites"]] for node in view["nodes"]]
    assert browser.run(LIT) == sum(0 in instructions for instructions in sites)


def test_wheel_and_buttons_keep_the_picture_in_sight(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_two_tasks().view(), tmp_path)
    box = "document.querySelector('.picture:not([hidden])').getAttribute('viewBox')"
    width = float(browser.run(box).split()[2])
    browser.click("#in")
    assert float(browser.run(box).split()[2]) < width
    browser.click("#fit")
    x, y, width, height = map(float, browser.run(box).split())
    size = browser.run("document.querySelector('.picture:not([hidden])').dataset.size").split()
    assert x <= 1
    assert y <= 1
    assert x + width >= float(size[2]) - 1
    assert y + height >= float(size[3]) - 1
