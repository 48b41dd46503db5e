"""Benches run from a clean directory and print what they promise; their figures are judged by people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def run(tmp_path: Path, bench: str, *arguments: str) -> dict[str, Any]:
    """Run a bench in ``tmp_path`` and return the JSON that it prints."""
    command = [sys.executable, str(ROOT / "bench" / bench), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_loader_bench_runs(tmp_path: Path) -> None:
    assert run(tmp_path, "bench_loader.py", "--rounds", "1")


@pytest.mark.slow
def test_the_packing_bench_tells_fill_beside_its_bound(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_packing.py", "--seeds", "1")
    for case in report["cases"].values():
        assert 0.97 < case["fill"]["source"] <= 1
        assert case["least packs of any packer"] <= case["packs"]


def test_the_parser_bench_measures_texts_right_and_wrong(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_parse.py", "--rounds", "1")
    assert {"three slots", "three mistakes", "three templates"} <= set(report["cases"])


@pytest.mark.slow
def test_the_demo_bench_scores_every_task_and_pictures_dealt_anew(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_demo.py", "--seeds", "0", "--steps", "2")
    (result,) = report["results"]
    assert set(result["scores"]) == set(report["worst"]) == {"digits", "vqa", "sentiment"}
    assert result["evaluated"] == result["expected"]
    assert not report["holds"]


@pytest.mark.slow
def test_the_bench_of_measuring_runs(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_measure.py", "--rounds", "1", "--rows", "2000")
    assert set(report["cases"]) == {"pictures", "texts"}
    assert all(case["calls of nodes"] for case in report["cases"].values())


@pytest.mark.slow
def test_the_bench_of_checksums_runs(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_touch.py", "--rounds", "1", "--scale", "1")
    assert set(report["cases"]) == {"texts", "pictures"}
    assert all(case["added to learning"] for case in report["cases"].values())


@pytest.mark.slow
def test_the_recipe_bench_tells_what_each_part_adds(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_recipe.py", "--rounds", "1", "--rows", "600")
    assert set(report["claims"]) < set(report["added to a step"])


@pytest.mark.slow
def test_the_page_bench_folds_opens_and_tells_how_it_grows(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_page.py", "--tasks", "100", "--rounds", "1")
    assert report["whole"]["boxes"] < 40
    assert report["whole"]["nodes"] > report["tenth"]["nodes"]


@pytest.mark.slow
def test_the_layout_bench_draws_what_is_given(tmp_path: Path) -> None:
    view = tmp_path / "graph.json"
    write = "from taskloom.pipeline.cli import main; main()"
    graph = ["graph", "[TEXT:a] -> [TEXT:b]", "-o", str(view)]
    subprocess.run([sys.executable, "-c", write, *graph], check=True, capture_output=True)
    report = run(tmp_path, "bench_layout.py", str(view))
    assert report["graph"]["ours"]["links_in_their_ranks"] == 1.0


@pytest.mark.slow
def test_the_planning_bench_measures_every_part(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_plan.py", "--rounds", "1", "--sizes", "10", "20")
    for seconds in report["CPU-seconds"].values():
        assert seconds["floor"] < seconds["plan"]
        assert {"parse", "of it passes", "verify anew", "view", "explain"} <= seconds.keys()


@pytest.mark.slow
def test_the_bench_of_epochs_runs_without_peers(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_epoch.py", "--rounds", "1", "--peers", str(tmp_path))
    for case in report["cases"].values():
        assert case["versions"] == {}
        assert set(case["ours over"]) >= {"raw", "ours", "ours, thread"}


@pytest.mark.slow
def test_the_bench_of_builds_compares_with_a_bare_loop(tmp_path: Path) -> None:
    arguments = ("--texts", "3200", "--rounds", "1", "--starts", "1")
    report = run(tmp_path, "bench_build.py", *arguments)
    assert report["overhead"]["build over loop, CPU-s"] > 0.5
    assert report["nothing to do, 16 partitions"]["call, s"] > 0


@pytest.mark.slow
def test_the_bench_of_decoding_compares_epochs(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_decode.py", "--pictures", "200", "--rounds", "1")
    assert report["stored over online, CPU"] > 1


@pytest.mark.slow
def test_the_bench_of_a_small_memory_reads_a_whole_epoch_in_windows(tmp_path: Path) -> None:
    bench = str(ROOT / "bench" / "bench_memory.py")
    write = f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r})\nfrom pathlib import Path\n"
    write += "from bench_memory import write_store; write_store(Path('store'), 2000)"
    subprocess.run([sys.executable, "-c", write], cwd=tmp_path, check=True)
    for window, rows in ((["--window", "500"], {2000}), ([], range(200, 300))):
        command = [sys.executable, bench, "--read", "store", "--rows", "2000", *window]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["rows"] in rows


@pytest.mark.slow
def test_the_attention_bench_times_every_way(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_attention.py", "--rounds", "1", "--length", "128")
    assert set(report["CPU seconds"]) == set(report["MB"])


@pytest.mark.slow
def test_the_bench_of_the_loss_compares_ways_that_agree(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_loss.py", "--rounds", "1", "--scale", "16")
    for case in report["cases"].values():
        assert set(case["peak, MB"]) == {"plain", "chunked"}


@pytest.mark.slow
def test_the_bench_of_compiled_code_finds_all_of_it_in_the_archive(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_compile.py", "--width", "32")
    assert not [key for key in report["warm"]["lookups"] if "miss" in key]
    assert report["warm to cold"] < 1


@pytest.mark.slow
def test_the_bench_of_writing_runs_without_peers(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_generate.py", "--rounds", "1", "--peers", str(tmp_path))
    assert set(report["cases"]) == {"batch 1", "batch 8", "closed set"}
    assert set(report["cases"]["closed set"]) == {"first step", "later step"}


@pytest.mark.slow
def test_the_bench_of_training_steps_compares_ways_that_agree(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_ofasys.py", "--rounds", "1", "--packs", "1", "--width", "32")
    (case,) = report["cases"].values()
    assert set(case["peak, MB"]) == {"OFASys", "ours, eager", "ours, compiled"}
    assert case["of all positions, ours"] > case["of all positions, OFASys"]


@pytest.mark.slow
def test_the_bench_of_useful_samples_counts_every_way(tmp_path: Path) -> None:
    report = run(tmp_path, "bench_useful.py", "--rounds", "1", "--packs", "2")
    (case,) = report["cases"].values()
    assert set(case["holds"]) == {"mixed", "bucketed"}
    shares = case["tokens of all positions"]
    assert shares["mixed"] < shares["bucketed"] < 1


TINY = ("--width", "64", "--layers", "1", "--ids", "9000", "--source-tokens", "1024")


@pytest.mark.slow
def test_the_bench_of_training_on_a_gpu_can_be_tried_without_one(tmp_path: Path) -> None:
    small = ("--device", "cpu", *TINY, "--steps", "1", "--packs", "1", "--presets", "base")
    report = run(tmp_path, "bench_training.py", *small)
    assert set(report["cases"]) == {"mfu", "profile", "memory", "eager"}
    failed = {case: told["base"].get("failed") for case, told in report["cases"].items()}
    assert not any(failed.values()), failed
    assert report["cases"]["mfu"]["base"]["documents of each pack"] == [2]
    assert report["cases"]["eager"]["base"]["compared"]["agrees"]


@pytest.mark.slow
def test_the_bench_of_layers_counts_what_steps_keep(tmp_path: Path) -> None:
    cases = run(tmp_path, "bench_layers.py", "--rounds", "1", "--width", "64")["cases"]
    assert cases["recompute"]["MB kept"] < cases["keep"]["MB kept"] / 2
    learned = {name: case["parameters that learn"] for name, case in cases.items()}
    assert learned["low-rank pairs"] < learned["keep"] < learned["per_modality"]
