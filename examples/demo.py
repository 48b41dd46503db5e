"""The main job on three tasks of real data: build, train, evaluate, answer, and draw.

Everything is written to ``demo/`` in the working directory. Running it again rebuilds nothing that is there and
goes on with a training run that was interrupted.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

# Before torch is loaded: its threads sleep while they wait, and leave the cores to the build's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from real_data import digits, sentiment, vqa

from taskloom.graph.render.page import render_page
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Evaluation, Mixture, Model, Run, Source, Task, build, evaluate, train
from taskloom.pipeline.builder.dataset import open_dataset
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.viewer.inspection import open_plan, view_plan
from taskloom.pipeline.viewer.run_page import render_run
from taskloom.storage.store import Store

OUT = Path("demo")

# Chosen on the validation rows, with seeds 0 to 2; see bench/results.
MODEL = ModelConfig(
    width=128, num_heads=4, num_encoder_layers=3, num_decoder_layers=2, ffn_width=512
)
TRAIN = TrainConfig(steps=3000, source_tokens=1024, learning_rate=1.2e-3)


def make_mixture() -> Mixture:
    """Return the three tasks."""
    return Mixture(
        [
            Task(
                "digits",
                "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]",
                source=Source("digits", digits, version="scikit-learn"),
                holdout=0.1,
                valid=0.1,
                key="id",
                weight=0.22,
            ),
            Task(
                "vqa",
                "[IMAGE:image] [TEXT:question] -> [TEXT:answer,closed_set]",
                source=Source("easy-vqa", vqa(), version="1.0"),
                valid=0.05,
                key="picture",
                weight=0.58,
            ),
            Task(
                "sentiment",
                'is the sentiment of text " [TEXT:text] " positive or negative? -> [TEXT:label,closed_set]',
                source=Source("snippets", lambda: sentiment(OUT / "cache"), version="0.5"),
                holdout=0.2,
                valid=0.1,
                key="review",
                weight=0.2,
            ),
        ],
        slots={"IMAGE": {"size": 32, "patch": 8}},
        bpe_size=2048,
    )


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and order")
    parser.add_argument("--split", choices=("test", "valid"), default="test")
    arguments = parser.parse_args()
    began = time.perf_counter()
    OUT.mkdir(exist_ok=True)
    mixture = make_mixture()
    store = Store.create(OUT / "store")
    report = build(mixture, store)
    run = train(
        mixture,
        store,
        out=OUT / f"run-{arguments.seed}",
        model=MODEL,
        config=TRAIN,
        seed=arguments.seed,
    )
    scores = evaluate(run.model, mixture, store, split=arguments.split)
    print(f"\n{scores}\n")
    answers = answer_examples(run.model, mixture, store)
    print(answers)
    planned = open_plan(mixture, store, model=MODEL)
    view = view_plan(planned, title="demo", store=store)
    (OUT / "graph.html").write_text(render_page(view), "utf-8")
    (OUT / "run.html").write_text(render_run(run.path, OUT / "run.html"), "utf-8")
    seconds = time.perf_counter() - began
    write_report(str(report), run, scores, answers, store, seconds)
    written = ", ".join(str(OUT / name) for name in ("graph.html", "run.html", "report.md"))
    print(f"\nwrote {written} in {seconds:.0f} s")


def answer_examples(model: Model, mixture: Mixture, store: Store) -> str:
    """Return what the model says about one held-out row of each task."""
    dataset = open_dataset(mixture, store)
    questions = vqa()
    rows = {
        "digits": (digits(), "label", "label"),
        "vqa": ([*questions["train"], *questions["test"]], "question", "answer"),
        "sentiment": (sentiment(OUT / "cache"), "text", "label"),
    }
    lines = ["| task | about | true | answer | log probability |", "|---|---|---|---|---|"]
    for task, (all_rows, shown, true) in rows.items():
        row = all_rows[int(dataset.rows(task, "test").usable[0])]
        (prediction,) = model.infer(task, [row])
        about = f"a scanned {row[shown]}" if task == "digits" else row[shown]
        answer = f"{prediction.text} | {prediction.log_prob:.3f}"
        lines.append(f"| {task} | {about} | {row[true]} | {answer} |")
    return "\n".join(lines)


def write_report(
    built: str, run: Run, scores: Evaluation, answers: str, store: Store, seconds: float
) -> None:
    """Write ``report.md``."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in usage)
    disk = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    rows = sum(store.source(name).num_rows for name in store.sources())
    header = "\n".join(f"- {line}" for line in run.header)
    text = (
        f"# Demo\n\n{built}\n\nThe store takes {disk / 1e6:.0f} MB, {disk / rows:,.0f} bytes a row.\n\n"
        f"## Training\n\n{header}\n\n## Held-out rows\n\n```text\n{scores}\n```\n\n"
        f"A row that cannot be answered counts as wrong. The baseline always gives the commonest answer of the "
        f"training rows; the corrected score puts it at 0.\n\n## Three answers\n\n{answers}\n\n"
        f"## Cost\n\n{seconds:.0f} s, {cpu:.0f} CPU-seconds\n"
    )
    (OUT / "report.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
