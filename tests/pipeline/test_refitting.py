"""Fitting again says what follows, replaces what is named and nothing else, and leaves columns to a build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from taskloom.graph.errors import PlanError
from taskloom.graph.view import Status
from taskloom.pipeline import FitReport, Mixture, Source, Task, fit, why
from taskloom.storage.column import read_receipt
from taskloom.storage.store import Store

from .rows import DIGITS, NUM_ROWS, WORDS, digit_rows, digits_task, mix, run, stamps

CLOSED = "closed-set-digits.label"
NOTED = DIGITS.replace("describe?", "describe? [TEXT:note]")
"""Two columns of ids, one of them of a closed set."""


def fit_again(mixture: Mixture | Task, store: Path, *again: str, **settings: Any) -> FitReport:
    """Fit without a word, by one worker."""
    return fit(mixture, store, again=again, progress=False, workers=1, **settings)


def with_labels(label: str | None = None, **more: Any) -> Mixture:
    """Return a mixture of digits, all of which have ``label`` if one is given."""
    rows = digit_rows(30 if label else NUM_ROWS)
    for row in rows:
        row["label"] = label or row["label"]
    return mix(digits_task(Source("digits", rows), NOTED), **more)


def test_what_follows_is_said_with_its_rows_and_bytes_before_anything_is_fitted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixture = with_labels()
    run(mixture, tmp_path)
    before = stamps(tmp_path)
    report = fit(mixture, tmp_path, again=["bpe-main"], dry_run=True)
    assert stamps(tmp_path) == before
    assert report.names == ("bpe-main",)
    assert [one.address for one in report.followers] == [
        "digits.note/encode",
        "digits.label/encode",
    ]
    follower = report.followers[1]
    assert (follower.tasks, follower.partitions, follower.rows) == (("digits",), 1, NUM_ROWS)
    store = Store.open(tmp_path)
    (partition,) = store.committed("digits", follower.column)
    receipt = read_receipt(store, "digits", follower.column, partition)
    assert receipt is not None
    assert follower.bytes == receipt.bytes
    told = capfd.readouterr().err
    assert str(report) in told
    assert (
        "bpe-main to fit; if it comes out different, 2 columns to compute again: 120 rows" in told
    )


def test_exactly_the_columns_that_were_foretold_are_built_afterwards(tmp_path: Path) -> None:
    run(with_labels("one"), tmp_path)
    mixture = with_labels()
    run(mixture, tmp_path)
    pinned = Store.open(tmp_path).artifacts()
    foretold = fit_again(mixture, tmp_path, CLOSED, dry_run=True).followers
    report = fit_again(mixture, tmp_path, CLOSED)
    assert report.followers == foretold
    assert [one.address for one in foretold] == ["digits.label/encode"]
    assert report.changed == report.names == (CLOSED,)
    assert "a build computes what follows" in str(report)
    now = Store.open(tmp_path).artifacts()
    assert now["bpe-main"] == pinned["bpe-main"]
    assert now[CLOSED] != pinned[CLOSED]
    stale = [column for column in why(mixture, tmp_path) if column.status is not Status.CACHED]
    assert {column.address for column in stale} == {one.address for one in foretold}
    assert {column.reason for column in stale} == {f"{CLOSED} was fitted again"}
    built = run(mixture, tmp_path)
    assert (built.partitions, built.fitted, built.rejects) == (len(foretold), (), 0)


def test_an_artifact_that_comes_out_as_it_was_changes_nothing(tmp_path: Path) -> None:
    mixture = with_labels()
    run(mixture, tmp_path)
    before = stamps(tmp_path)
    report = fit_again(mixture, tmp_path, "bpe-main")
    assert str(report).endswith("bpe-main: fitted, and as before; nothing follows")
    after = stamps(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"measures"}
    assert run(mixture, tmp_path).partitions == 0


def test_without_names_only_what_is_lacking_is_fitted(tmp_path: Path) -> None:
    mixture = with_labels()
    report = fit_again(mixture, tmp_path)
    assert report.names == ("bpe-main", CLOSED)
    assert report.followers == ()
    assert not (tmp_path / "columns").exists()
    assert str(fit_again(mixture, tmp_path)).startswith("nothing to fit")
    assert run(mixture, tmp_path).fitted == ()


def test_tasks_elsewhere_that_were_built_with_it_are_named(tmp_path: Path) -> None:
    run(mix(digits_task(Source("words", digit_rows()), WORDS, name="words")), tmp_path)
    report = fit_again(with_labels(), tmp_path, "bpe-main", dry_run=True)
    assert report.others == ("words",)
    own = fit_again(with_labels(), tmp_path, CLOSED, dry_run=True)
    assert own.others == ()


def test_fitting_again_what_nobody_fits_is_refused(digits_dir: Path) -> None:
    before = stamps(digits_dir)
    with pytest.raises(PlanError, match="did you mean bpe-main"):
        fit_again(with_labels(), digits_dir, "bpe-mian")
    with pytest.raises(PlanError, match="workers must be at least 1"):
        fit(with_labels(), digits_dir, workers=0)
    assert stamps(digits_dir) == before


def test_a_vocabulary_that_is_given_as_files_is_never_fitted(tmp_path: Path) -> None:
    run(with_labels(), tmp_path / "fitted")
    store = Store.open(tmp_path / "fitted")
    content = store.artifact_content(store.artifacts()["bpe-main"].digest)
    files = tuple(Tokenizer.from_str(content.decode()).model.save(str(tmp_path)))
    with pytest.raises(PlanError, match="fit no artifact"):
        fit_again(with_labels(bpe_files=files), tmp_path / "given", "bpe-main")


def test_a_vocabulary_too_large_for_the_mixture_can_be_fitted_again(tmp_path: Path) -> None:
    task = digits_task(Source("digits", digit_rows()), DIGITS)
    run(mix(task, bpe_size=280), tmp_path)
    with pytest.raises(PlanError, match=r"(?s)T0228.*fit PROJECT --again bpe-main"):
        run(mix(task, bpe_size=260), tmp_path)
    report = fit_again(mix(task, bpe_size=260), tmp_path, "bpe-main")
    assert report.changed == ("bpe-main",)
    record = json.loads((tmp_path / "artifacts" / "bpe-main.json").read_text())
    assert record["made_by"]["params"]["size"] == 260
    assert run(mix(task, bpe_size=260), tmp_path).partitions == len(report.followers) == 1
