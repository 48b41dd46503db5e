"""What it costs to render the page of a thousand tasks, and how soon a browser shows it.

The tasks read twenty sources, image and question each, with prompts of their own. Told are the seconds
of each step from a graph to a page, for a tenth of the tasks as well, the size of the page, its boxes,
and how soon a headless Chromium, if there is one, paints it and has run its script.

    python bench/bench_page.py [--out FILE] [--tasks N] [--rounds N]
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from report import describe, tell

from taskloom.graph.reading import read_view
from taskloom.graph.render.fold import fold
from taskloom.graph.render.formats import FORMATS
from taskloom.graph.render.page import render_page
from taskloom.graph.view_form import View

ROOT = Path(__file__).parents[1]


def load(name: str) -> Any:
    """Return a module of the tests of views: their tasks, and their browser."""
    if "bench_views" not in sys.modules:
        folder = ROOT / "tests" / "graph"
        package = importlib.util.spec_from_loader("bench_views", None, is_package=True)
        assert package is not None
        package.submodule_search_locations = [str(folder)]
        sys.modules["bench_views"] = importlib.util.module_from_spec(package)
    return importlib.import_module(f"bench_views.{name}")


def make_tasks(number: int) -> list[Any]:
    """Return tasks over twenty sources, with prompts of their own."""
    plans = load("plans")
    return [
        plans.Task(
            name=f"task_{i:04}",
            source=f"source_{i % 20:02}",
            prompt=f"question number {i}",
            question="question" if i % 3 else "",
            answer=f"answer_{i % 7}",
        )
        for i in range(number)
    ]


def time_of(run: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of ``run``."""
    seconds: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return round(median(seconds), 4)


def measure(number: int, rounds: int) -> tuple[View, dict[str, Any]]:
    """Return the view of so many tasks, and what it costs to draw it."""
    planned = load("plans").Planning().plan(make_tasks(number))
    view: View = planned.view()
    text = FORMATS[".json"](view)
    return view, {
        "nodes": len(view["nodes"]),
        "boxes": len(fold(view).boxes),
        "page_bytes": len(render_page(view).encode()),
        "seconds": {
            "view": time_of(planned.view, rounds),
            "fold": time_of(lambda: fold(view), rounds),
            "page": time_of(lambda: render_page(view), rounds),
            "text": time_of(lambda: FORMATS[".txt"](view), rounds),
            "json": time_of(lambda: FORMATS[".json"](view), rounds),
            "read": time_of(lambda: read_view(text), rounds),
        },
    }


def open_page(view: View, rounds: int) -> dict[str, float] | None:
    """Return the seconds until the page's script has run, and until something is painted."""
    program = shutil.which("chromium")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(render_page(view), "utf-8")
        browser = load("browser").Browser(program, Path(folder) / "profile")
        opened: list[float] = []
        painted: list[float] = []
        for _ in range(rounds):
            browser.open(page.as_uri())
            opened.append(
                browser.run("performance.timing.loadEventEnd - performance.timing.navigationStart")
            )
            paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
            painted.append(browser.run(paint))
        assert browser.errors == [], browser.errors
        browser.close()
    return {"loaded": round(median(opened) / 1e3, 3), "painted": round(median(painted) / 1e3, 3)}


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time the page of many tasks.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    _, tenth = measure(max(options.tasks // 10, 1), options.rounds)
    view, whole = measure(options.tasks, options.rounds)
    result = {
        **describe(),
        "rounds": options.rounds,
        "tasks": options.tasks,
        "tenth": tenth,
        "whole": whole,
        "seconds_to_open": open_page(view, options.rounds),
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
