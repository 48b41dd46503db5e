"""Take the pictures that the pages about views show, of the plans that the demo and the tests make.

The demo is built first, so that states and costs are real ones; that takes a few minutes once, and
nothing when it is run again. Pictures go to docs/images, through a headless Chromium.

    python docs/screenshots.py [--work FOLDER] [NAME…]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Before torch is loaded: its threads sleep while they wait, and leave the cores to the build's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from PIL import Image

from taskloom.graph.diff import compare
from taskloom.graph.render.page import render_page
from taskloom.graph.view_form import View
from taskloom.pipeline import build
from taskloom.pipeline.viewer.analysis import analyze
from taskloom.pipeline.viewer.inspection import open_plan, view_plan
from taskloom.storage.store import Store

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture.

    Attributes:
        view: What it is of.
        width: Width of the window, in px.
        height: Height of the window, in px.
        is_dark: Whether the reader's system is dark.
        address: The node that is selected.
        script: What is done to the page before.
    """

    view: str
    width: int = 1600
    height: int = 1000
    is_dark: bool = False
    address: str = ""
    script: str = ""


CLICK = "document.querySelector({!r}).dispatchEvent(new MouseEvent('click', {{bubbles: true}}))"
SHOTS = {
    "demo": Shot(view="demo", width=1840, height=1180),
    "demo-dark": Shot(
        view="demo", width=1840, height=1180, is_dark=True, address="vqa.image/resize"
    ),
    "thirty-tasks": Shot(view="thirty", height=1040),
    "thirty-tasks-open": Shot(
        view="thirty",
        height=1040,
        script=CLICK.format(".picture:not([hidden]) .box[aria-expanded] .card"),
    ),
    "diff": Shot(view="diff", width=1840, height=1120, address=""),
}


def load(name: str) -> Any:
    """Return a module of the tests of views: their tasks, and their browser."""
    if "shown" not in sys.modules:
        package = importlib.util.spec_from_loader("shown", None, is_package=True)
        assert package is not None
        package.submodule_search_locations = [str(ROOT / "tests" / "graph")]
        sys.modules["shown"] = importlib.util.module_from_spec(package)
    return importlib.import_module(f"shown.{name}")


def make_views(work: Path) -> dict[str, View]:
    """Return the views: the demo as it was built and trained, thirty tasks, and a change of the demo."""
    sys.path.insert(0, str(ROOT / "examples"))
    demo: Any = importlib.import_module("demo")
    os.chdir(work)
    mixture = demo.make_mixture()
    store = Store.create(work / "store")
    build(mixture, store)
    planned = open_plan(mixture, store, "train", demo.MODEL)
    config = replace(demo.TRAIN, compile="off")
    analysis = analyze(planned, mixture, store, run=Path("run"), model=demo.MODEL, config=config)
    shown = view_plan(planned, title="demo", store=store, project="demo.yaml", analysis=analysis)
    mixture.slots["IMAGE"]["size"] = 64
    changed = view_plan(
        open_plan(mixture, store, "train", demo.MODEL), title="demo, larger images", store=store
    )
    before = view_plan(planned, title="demo", store=store)
    holdings: Any = importlib.import_module("taskloom.pipeline.viewer.compared").read_holdings(
        before, store
    )
    plans = load("plans")
    return {
        "demo": shown,
        "thirty": plans.plan_like_tasks(30).view("thirty tasks"),
        "diff": compare(before, changed, holdings=holdings),
    }


def main() -> None:
    """Take all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description="Take the pictures of docs/images.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SHOTS)}")
    parser.add_argument("--work", type=Path, default=Path("demo"), help="where the demo is built")
    options = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        sys.exit("chromium is not installed")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "views.json"
    if not kept.exists():
        kept.write_text(json.dumps(make_views(work)), "utf-8")
    views: dict[str, View] = json.loads(kept.read_text("utf-8"))
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        browser = load("browser").Browser(program, Path(folder) / "profile")
        for name in options.names or SHOTS:
            shot = SHOTS[name]
            page = Path(folder) / f"{name}.html"
            page.write_text(render_page(views[shot.view]), "utf-8")
            browser.look(shot.width, shot.height, is_dark=shot.is_dark)
            browser.open(page.as_uri() + (f"#{shot.address}" if shot.address else ""))
            if shot.script:
                browser.run(shot.script)
            time.sleep(0.5)  # colours and arrows turn in a moment
            assert browser.errors == [], browser.errors
            path = IMAGES / f"{name}.png"
            # A palette takes a third of the bytes; this one keeps colours that are rare.
            picture = Image.open(io.BytesIO(browser.take_picture())).convert("RGB")
            picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                path, optimize=True
            )
            print(f"{path}: {path.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
