"""Each verb does its work, and what is wrong is said without a traceback."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from taskloom.pipeline.cli import app

from .conftest import NUM_ROWS, Built, Project, make_rows

# Listed so that the command line does not grow by accident: adding here is a decision.
COMMANDS = {
    "consolidate": {"out", "model", "--json"},
    "build": {"project", "--dry-run", "--workers", "--max-errors", "--json"},
    "diff": {"old", "new", "--out", "-o", "--store"},
    "error": {"code"},
    "evaluate": {"project", "--split", "--model", "--json"},
    "explain": {"project", "--analyze", "--mode", "--passes", "--store", "--json"},
    "export-model": {"model", "task", "out", "--documents", "--source-tokens", "--json"},
    "export-checkpoint": {"model", "out", "--json"},
    "import-checkpoint": {"path", "out", "--symbols", "--biases", "--json"},
    "export": {
        "project",
        "task",
        "--out",
        "-o",
        "--format",
        "--split",
        "--columns",
        "--images",
        "--json",
    },
    "fit": {"project", "--again", "--dry-run", "--workers", "--json"},
    "graph": {"project", "--out", "-o", "--analyze", "--mode", "--store", "--samples"},
    "infer": {"model", "task", "rows", "--decode", "--weigh", "--int8", "--json"},
    "ledger": {"store", "--json"},
    "ops": set(),
    "cache": set(),
    "peek": {"project", "task", "--row", "--at", "--split", "--out", "-o", "--json"},
    "plan-run": {
        "project",
        "--kind",
        "--gpus",
        "--nodes",
        "--precision",
        "--sharding",
        "--network",
        "--json",
    },
    "replay": {"store", "row", "--pdb", "--save", "--json"},
    "report": {"run", "--out", "-o"},
    "schema": {"what"},
    "slots": {"project", "--json"},
    "train": {"project", "--steps", "--profile", "--json"},
    "verify": {"project", "--json"},
    "verify-resume": {"project", "--steps", "--json"},
    "why": {"project", "task", "--json"},
}
OPTIONS = {"--debug", "--version"}
INSTRUCTION = "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"


def spell(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} - {"--help", "-h"}


def test_commands_and_options_are_those_listed_here() -> None:
    group: Any = typer.main.get_command(app)
    assert {name: spell(command) for name, command in group.commands.items()} == COMMANDS
    assert spell(group) == OPTIONS


def test_help_names_every_command(project: Project) -> None:
    done = project.taskloom("--help")
    assert done.code == 0
    assert all(command in done.out for command in COMMANDS)
    for command in COMMANDS:
        group: Any = typer.main.get_command(app)
        assert all(parameter.help for parameter in group.commands[command].params), command


def test_help_waits_for_no_large_library(project: Project) -> None:
    code = (
        "import sys; from taskloom.pipeline.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'dask', 'polars', 'pyarrow', 'torch'} & {*sys.modules}))"
    )
    done = project.python(code, "--help")
    assert done.out.endswith("[]\n"), done.err


@pytest.mark.parametrize(
    "arguments", [["build"], ["build", "--dry-run"], ["fit", "--dry-run"], ["why"]]
)
def test_what_runs_no_model_waits_for_no_torch(built: Built, arguments: list[str]) -> None:
    code = "import sys; from taskloom.pipeline.cli import main\n"
    code += "try: main()\nfinally: print('torch' in sys.modules)"
    verb, *options = arguments
    done = built.project.python(code, verb, "project.yaml", *options)
    assert (done.code, done.out.splitlines()[-1]) == (0, "False"), done.err


def test_version_is_that_of_the_package(project: Project) -> None:
    done = project.taskloom_apart("--version")
    assert (done.code, done.out.count("."), done.err) == (0, 2, "")


def test_build_reports_what_it_built(built: Built) -> None:
    report = built.build.json
    assert report["partitions"] == 5  # two targets, the split, a filter, and one image column
    assert report["fitted"] == ["bpe-main", "closed-set-digits.label", "closed-set-parity.parity"]
    assert (report["cached"], report["rejects"], report["problems"]) == (0, 0, [])
    assert report["tasks"]["digits"] == {"rows": NUM_ROWS, "rejects": 0}


def test_a_second_build_builds_nothing_and_says_so(built: Built) -> None:
    done = built.project.taskloom("build", "project.yaml")
    assert (done.code, done.out) == (0, "")
    assert "nothing to build: all 5 column partitions are cached" in done.err


@pytest.mark.slow
def test_a_dry_run_builds_nothing(project: Project) -> None:
    done = project.taskloom("build", "project.yaml", "--dry-run")
    assert done.code == 0
    assert "5 column partitions to build, 0 cached" in done.err
    assert "fitting bpe-main, closed-set-digits.label, closed-set-parity.parity" in done.err
    assert not (project.folder / "store" / "columns").exists()


def test_fit_says_which_columns_would_follow(built: Built) -> None:
    again = ("--again", "closed-set-parity.parity", "--dry-run")
    done = built.project.taskloom("fit", "project.yaml", *again, "--json")
    assert done.code == 0, done.err
    report = done.json
    assert (report["names"], report["is_dry"]) == (["closed-set-parity.parity"], True)
    (follower,) = report["followers"]
    assert (follower["address"], follower["rows"]) == ("parity.parity/encode", NUM_ROWS)
    assert follower["bytes"] > 0


def test_train_writes_a_run(built: Built) -> None:
    assert built.train.json == {"run": str(built.project.folder / "run"), "step": 8}
    assert (built.project.folder / "run" / "step-00000008" / "manifest.json").exists()
    assert (built.project.folder / "run" / "trace.json").exists(), "as --profile asks for"


def test_report_finds_the_run_of_a_project(built: Built) -> None:
    done = built.project.taskloom("report", "project.yaml", "-o", "page.html")
    assert (done.code, done.out) == (0, "wrote page.html\n"), done.err
    assert "<title>run · taskloom</title>" in (built.project.folder / "page.html").read_text(
        "utf-8"
    )


def test_the_command_line_is_a_module_as_well(built: Built) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taskloom.pipeline.cli", "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd=built.project.folder,
    )
    assert (done.returncode, done.stdout.count("."), done.stderr) == (0, 2, "")


def test_evaluate_scores_every_task(built: Built) -> None:
    done = built.project.taskloom("evaluate", "project.yaml", "--json")
    assert done.code == 0, done.err
    scores = done.json
    assert list(scores) == ["digits", "parity"]
    assert scores["digits"]["expected"] == scores["digits"]["evaluated"] > 0
    assert 0 <= scores["parity"]["score"] <= 1


def test_infer_answers_one_line_a_row_and_returns_1_for_bad_rows(built: Built) -> None:
    rows = [*make_rows()[:2], {"image": "bm8gaW1hZ2U="}]
    (built.project.folder / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    done = built.project.taskloom("infer", "project.yaml", "digits", "asked.jsonl", "--json")
    assert done.code == 1
    *good, bad = [json.loads(line) for line in done.out.splitlines()]
    assert all(line["text"].isdigit() and line["error"] is None for line in good)
    assert bad["text"] is None
    (problem,) = bad["error"]
    assert problem["code"] == "T0301"
    assert problem["sites"][0]["text"] == INSTRUCTION


def test_infer_searches_as_the_command_line_says_and_weighs_all_answers(built: Built) -> None:
    (built.project.folder / "one.jsonl").write_text(json.dumps(make_rows()[0]), "utf-8")
    infer = ("infer", "project.yaml", "digits", "one.jsonl", "--json")
    beams = built.project.taskloom(*infer, "--decode", "beams=3", "--decode", "n_best=3", "--int8")
    weighed = built.project.taskloom(*infer, "--weigh")
    assert (beams.code, weighed.code) == (0, 0), beams.err + weighed.err
    assert len(beams.json["others"]) == 2
    answers = [weighed.json, *weighed.json["others"]]
    assert sum(math.exp(each["log_prob"]) for each in answers) == pytest.approx(1, abs=1e-4)


def test_what_weighs_every_answer_takes_no_settings_of_a_search(project: Project) -> None:
    done = project.taskloom("infer", "run", "digits", "--weigh", "--decode", "beams=3")
    assert done.code == 1
    assert "error[T0806]: --weigh weighs every answer" in done.err


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("beam=3", "T0806"),
        ("beams", "T0806"),
        ("beams=many", "T0244"),
        ("top_k=3", "T0244"),
        ("diversity=1", "T0244"),
    ],
)
def test_a_setting_of_a_search_that_there_is_not_is_refused(
    project: Project, word: str, code: str
) -> None:
    done = project.taskloom("infer", "run", "digits", "--decode", word)
    assert done.code == 1
    assert f"error[{code}]" in done.err


@pytest.mark.slow
def test_infer_reads_standard_input_and_follows_an_instruction(built: Built) -> None:
    row = json.dumps(make_rows()[0])
    done = built.project.taskloom("infer", "run", INSTRUCTION.replace(",closed_set", ""), stdin=row)
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1


@pytest.mark.slow
def test_explain_needs_no_data(project: Project) -> None:
    done = project.taskloom("explain", INSTRUCTION)
    assert done.code == 0, done.err
    assert done.out.startswith(INSTRUCTION)
    assert "decode_images" in done.out


def test_explain_tells_what_is_cached_and_shows_the_model_of_the_project(built: Built) -> None:
    view = built.project.taskloom("explain", "project.yaml", "--json").json
    states = [node["state"]["status"] for node in view["nodes"] if node["state"]]
    assert states == ["cached"] * 5
    (encoder,) = (node for node in view["nodes"] if node["op"] == "encode_streams")
    assert encoder["params"]["model_width"] == 32


def test_explain_shows_what_the_passes_did_and_what_columns_take(built: Built) -> None:
    told = built.project.taskloom("explain", "project.yaml", "--passes").out
    assert "\nfold " in told
    assert "  + digits.text@" in told
    history = built.project.taskloom("explain", "project.yaml", "--passes", "--json").json
    assert [one["name"] for one in history["passes"]] == ["plan", "fold", "prune"]
    reasons = {one["address"]: one["reason"] for one in history["stored"]}
    pixels = f"the loader reads it; 768 bytes a row as uint8, 120 KiB in {NUM_ROWS} rows"
    assert reasons["digits.image/resize"] == pixels
    # The store holds it, so nothing is guessed.
    assert "~" not in reasons["digits.label/encode"]
    assert f" in {NUM_ROWS} rows" in reasons["digits.label/encode"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["g.json", "g.html"])
def test_graph_writes_a_view_or_a_page(built: Built, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    done = built.project.taskloom("graph", "project.yaml", "-o", str(out))
    assert (done.code, done.out) == (0, f"wrote {out}\n"), done.err
    text = out.read_text("utf-8")
    if name == "g.json":
        assert json.loads(text)["title"] == "project"
    else:
        assert text.startswith("<!doctype html>")


def test_verify_names_the_file_that_is_damaged(copy_built: Callable[[], Project]) -> None:
    project = copy_built()
    assert project.taskloom("verify", "project.yaml").code == 0
    column = next((project.folder / "store" / "columns").glob("*/*/*.arrow"))
    content = bytearray(column.read_bytes())
    content[len(content) // 2] ^= 1
    column.write_bytes(content)
    done = project.taskloom("verify", "store", "--json")
    assert done.code == 1
    assert column.name.removesuffix(".arrow") in done.json["problems"][0]["message"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("build", "nowhere.yaml"), "T0801", id="no project file"),
        pytest.param(("build", "broken.yaml"), "T0803", id="unknown key"),
        pytest.param(
            ("train", "project.yaml"), "T0503", id="nothing was built", marks=pytest.mark.slow
        ),
        pytest.param(("evaluate", "project.yaml", "--split", "dev"), "T0806", id="unknown split"),
        pytest.param(("infer", "run", "digits", "nowhere.jsonl"), "T0806", id="no rows"),
        pytest.param(("infer", "run", "digits", "project.yaml"), "T0807", id="rows are not JSON"),
        pytest.param(("explain", "[IMAGES:a] -> [TEXT:b]"), "T0103", id="wrong instruction"),
        pytest.param(("explain", "project.yaml", "--mode", "both"), "T0806", id="unknown mode"),
        pytest.param(("graph", "project.yaml", "-o", "g.png"), "T0806", id="unknown suffix"),
        pytest.param(("verify", "nowhere"), "T0801", id="no store"),
    ],
)
def test_errors_are_said_without_a_traceback(
    project: Project, arguments: tuple[str, ...], code: str
) -> None:
    (project.folder / "broken.yaml").write_text("storr: s\nout: o\ntasks: {}\n", "utf-8")
    done = project.taskloom(*arguments)
    assert done.code == 1
    assert f"error[{code}]: " in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("build", "nowhere.yaml"), "T0801", id="build"),
        pytest.param(("explain", "[IMAGES:a] -> [TEXT:b]"), "T0103", id="explain"),
        pytest.param(("infer", "run", "digits", "project.yaml"), "T0807", id="infer"),
    ],
)
def test_errors_are_json_on_one_line_where_json_is_asked_for(
    project: Project, arguments: tuple[str, ...], code: str
) -> None:
    done = project.taskloom(*arguments, "--json")
    assert (done.code, done.err, done.out.count("\n")) == (1, "", 1)
    assert list(done.json) == ["error"]
    (problem,) = done.json["error"]
    assert problem["code"] == code
    assert problem["message"]
    if code == "T0103":
        (site,) = problem["sites"]
        assert site["text"][site["start"] : site["stop"]] == "IMAGES"


def test_error_prints_the_page_of_a_code(project: Project) -> None:
    done = project.taskloom("error", "t0103")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("# T0103: unknown modality\n\n## What is wrong\n")
    assert "<!--" not in done.out
    unknown = project.taskloom("error", "T0193")
    assert unknown.code == 1
    assert 'there is no error code "T0193"\n   = did you mean T0' in unknown.err


@pytest.mark.parametrize("arguments", [("--debug", "build"), ("build", "--debug")], ids=" ".join)
def test_debug_shows_the_traceback_before_and_after_the_verb(
    project: Project, arguments: tuple[str, ...]
) -> None:
    done = project.taskloom_apart(*arguments, "nowhere.yaml")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "error[T0801]" in done.err


def test_an_unknown_option_returns_2(project: Project) -> None:
    done = project.taskloom("build", "project.yaml", "--dryrun")
    assert (done.code, done.out) == (2, "")
    assert "--dry-run" in done.err


def test_an_interrupt_returns_130(project: Project) -> None:
    os.mkfifo(project.folder / "rows")
    process = project.start("infer", "run", "digits", "rows")
    with (project.folder / "rows").open("w"):  # opens when the command does
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted; the same command goes on where this one stopped\n"


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_was_saved(copy_built: Callable[[], Project]) -> None:
    project = copy_built()
    project.change("out: run", "out: long")
    project.change("steps: 8", "steps: 500")
    process = project.start("train", "project.yaml")
    log = project.folder / "long" / "log.jsonl"
    while not log.exists() or log.stat().st_size == 0:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (saved,) = (project.folder / "long").glob("step-*")
    assert int(saved.name.removeprefix("step-")) < 500
    done = project.taskloom("train", "project.yaml", "--json")
    assert done.json["step"] == 500
    steps = [json.loads(line)["step"] for line in log.read_text("utf-8").splitlines()]
    assert steps == sorted(set(steps)), "no step is taken twice"
