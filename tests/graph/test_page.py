"""The page is one file that loads nothing, runs nothing of its users, and answers pointer and keys."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from taskloom.graph.diff import Holdings, compare
from taskloom.graph.preview import PreviewView
from taskloom.graph.render.fold import MAX_BOXES
from taskloom.graph.render.page import render_page
from taskloom.graph.view import State, Status, View, make_view

from .browser import Browser
from .plans import plan_like_tasks, plan_prompt, plan_two_tasks
from .test_view import measured

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


def test_what_is_chosen_since_does_not_give_way_to_an_address_that_is_told_of_late(
    browser: Browser, tmp_path: Path
) -> None:
    show(browser, plan_like_tasks(30).view(), tmp_path)
    browser.click(".picture:not([hidden]) .box:has(.behind) .card")
    browser.run(
        "document.querySelector('#panel li:nth-child(7) .row').click(),"
        " document.querySelector('#panel .back').click(),"
        " new Promise((done) => setTimeout(done, 100))"
    )
    assert browser.run("document.querySelectorAll('#panel .row').length") == 30
    browser.run(
        "location.hash = location.hash.replace('task_006', 'task_003'),"
        " new Promise((done) => setTimeout(done, 100))"
    )
    assert browser.run(HEADING).startswith("task_003")


OPEN = ".picture:not([hidden]) .box[aria-expanded='true']"
EXPANDABLE = ".picture:not([hidden]) .box[aria-expanded] .card"
TOPS = f"{BOXES}.map(b => Number(b.getAttribute('transform').match(/ ([-\\d.]+)\\)/)[1]))"


def test_folded_box_opens_in_place_and_moves_what_is_below(
    browser: Browser, tmp_path: Path
) -> None:
    show(browser, plan_like_tasks(30).view(), tmp_path)
    before = browser.run(TOPS)
    routes = "[...document.querySelectorAll('.picture:not([hidden]) .edge')].map(e => e.getAttribute('d'))"
    lines = browser.run(routes)
    browser.click(EXPANDABLE)
    assert browser.run(f'document.querySelectorAll("{OPEN} .member:not(.turn)").length') == 12
    after = browser.run(TOPS)
    moved = {round(b - a, 1) for a, b in zip(before, after, strict=True)}
    assert len(moved) == 2
    assert min(moved) == 0
    assert max(moved) > 200
    top = before[browser.run(f"{BOXES}.findIndex(b => b.matches('[aria-expanded=true]'))")]
    assert all((b > a) == (a > top) for a, b in zip(before, after, strict=True))
    assert browser.run(routes) != lines
    browser.click(f"{OPEN} .address")
    assert browser.run(TOPS) == before
    assert [re.sub(r"\.0\b", "", d) for d in browser.run(routes)] == [
        re.sub(r"\.0\b", "", d) for d in lines
    ]
    assert browser.errors == []


def test_open_box_is_paged_and_walked_by_keys(browser: Browser, tmp_path: Path) -> None:
    show(browser, plan_like_tasks(30).view(), tmp_path)
    browser.run(f"{BOXES}[0].focus()")
    browser.press("Enter")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    browser.press("Enter")
    assert browser.run(HEADING).startswith("task_001")
    assert browser.run("document.activeElement.matches('.member.chosen')")
    browser.run("document.querySelector('.turn:last-of-type').focus()")
    browser.press("Enter")
    first = "document.querySelector('.member title').textContent"
    assert browser.run(first).startswith("task_012")
    browser.press("Escape")
    assert browser.run(f'document.querySelectorAll("{OPEN}").length') == 0


def test_cheap_chain_opens_to_its_ops(browser: Browser, tmp_path: Path) -> None:
    view = measured(plan_two_tasks())
    for node in view["nodes"]:
        assert node["measure"]
        node["measure"] = {**node["measure"], "share": 0.0001, "rejects": 0}
    show(browser, view, tmp_path)
    chain = ".picture:not([hidden]) .box[data-ops]"
    assert "low-impact chain" in browser.run(f"document.querySelector('{chain}').textContent")
    browser.click("#fit")
    browser.click(f"{chain} .card")
    assert browser.run(HEADING).startswith("low-impact chain, ")
    assert browser.run(f"document.querySelectorAll('{chain} .member').length") >= 3
    assert browser.errors == []


def test_boxes_and_panel_tell_what_a_node_cost(browser: Browser, tmp_path: Path) -> None:
    view = measured(plan_two_tasks())
    show(browser, view, tmp_path, "#caption.img/decode")
    panel = browser.run("document.getElementById('panel').textContent")
    assert "9 → 8" in panel
    assert "640 B, 80 B a row" in panel
    box = browser.run(f"{BOXES}.find(b => b.matches('.chosen')).textContent")
    assert "9 → 8 rows" in box
    assert "1 rejected" in box
    assert "640 B" in box
    assert "rows rejected" in browser.run("document.querySelector('.legend').textContent")


def test_edges_are_as_wide_as_their_bytes_and_bars_as_long_as_their_share() -> None:
    view = measured(plan_two_tasks())
    for number, node in enumerate(view["nodes"]):
        assert node["measure"]
        node["measure"] = {**node["measure"], "bytes": 4**number, "share": number / 100}
    picture = render_page(view).partition('id="full"')[2]
    widths = dict(
        re.findall(r'data-ends="(\d+) \d+" stroke-width="([\d.]+)"', picture.partition("</svg>")[0])
    )
    ordered = [float(widths[maker]) for maker in sorted(widths, key=int)]
    assert ordered == sorted(ordered)
    assert ordered[0] < ordered[-1]
    bars = [float(w) for w in re.findall(r'class="heat" x="16" y="66" width="([\d.]+)"', picture)]
    assert bars == sorted(bars)


def test_samples_are_shown_as_what_they_are(browser: Browser, tmp_path: Path) -> None:
    view = plan_two_tasks().view()
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    node = next(node for node in view["nodes"] if node["address"] == "caption.img/decode")
    plain = PreviewView(row="0", kind="text", text=PROMPT, image=None, waveform=None, tokens=None)
    node["previews"] = [
        plain,
        {**plain, "kind": "image", "image": f"data:image/png;base64,{pixel}"},
        {**plain, "kind": "image", "image": "https://example.org/spy.png"},
        {**plain, "kind": "image", "image": "data:image/svg+xml,<svg onload=alert(1)>"},
        {**plain, "kind": "waveform", "waveform": [0.0, 1.0, -1.0]},
        {
            **plain,
            "kind": "tokens",
            "tokens": [
                {"id": 7, "text": PROMPT, "weight": 0.0},
                {"id": 8, "text": "", "weight": 1.0},
            ],
        },
    ]
    show(browser, view, tmp_path, "#caption.img/decode")
    assert browser.run("[...document.querySelectorAll('#panel img')].map(i => i.src)") == [
        f"data:image/png;base64,{pixel}"
    ]
    assert browser.run(
        "document.querySelector('#panel .waveform path:last-child').getAttribute('d')"
    ) == ("M0.0 32.0L150.0 2.0L300.0 62.0")
    tokens = "[...document.querySelectorAll('#panel .token')]"
    assert browser.run(f"{tokens}.map(t => t.className)") == ["token w0", "token w4"]
    colours = browser.run(f"{tokens}.map(t => getComputedStyle(t).backgroundColor)")
    assert colours[0] != colours[1]
    assert browser.run("document.querySelectorAll('#panel script, #panel b').length") == 0
    assert browser.errors == []
    assert [url for url in browser.urls if not url.startswith(("file:", "data:"))] == []


def test_commands_can_be_pasted_and_hold_nothing_else(browser: Browser, tmp_path: Path) -> None:
    view = plan_two_tasks().view(resize_images=State(Status.CACHED))
    view["project"] = "it's mine.yaml"
    show(browser, view, tmp_path, "#caption.img/resize")
    commands = "[...document.querySelectorAll('#panel .command code')].map(c => c.textContent)"
    assert browser.run(commands) == [
        "taskloom peek 'it'\\''s mine.yaml' caption --row 0 --at caption.img/resize",
        "taskloom why 'it'\\''s mine.yaml' caption",
        'plan["caption.img/resize"].head("coco", 3)',
    ]
    view["project"] = "a\nrm -rf ~"
    show(browser, view, tmp_path, "#caption.img/resize")
    assert browser.run(commands) == ['plan["caption.img/resize"].head("coco", 3)']


def test_diff_page_says_what_changed_and_what_a_build_computes(
    browser: Browser, tmp_path: Path
) -> None:
    old, new = plan_prompt(PROMPT).view("old"), plan_two_tasks().view("new")
    for node in new["nodes"]:
        if node["op"] == "resize_images":
            node["params"] = {**node["params"], "height": "</script><b>\x1b[2J"}
            node["key"] = "f" * 32
    show(browser, compare(old, new, holdings=Holdings(rows={"coco": 7})), tmp_path)
    panel = browser.run("document.getElementById('panel').textContent")
    assert "What changed" in panel
    assert "A build computes" in panel
    assert "changed (" in panel
    for kind in ("added", "changed", "follows"):
        boxes = browser.run(f"{BOXES}.filter(b => b.matches('.{kind}')).map(b => b.textContent)")
        assert boxes
        assert all(kind in text for text in boxes)
    browser.run("location.hash = '#caption.img/resize'")
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert (
        browser.run("document.querySelector('#panel ins').textContent")
        == r'"</script><b>\u001b[2J"'
    )
    assert browser.run("document.querySelectorAll('#panel b').length") == 0
    assert browser.errors == []


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
