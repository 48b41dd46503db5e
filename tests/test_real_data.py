"""The examples' rows are the ones the packages carry, all of them, and split as they say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import real_data


@pytest.fixture(scope="module")
def cache_dir(pytestconfig: pytest.Config) -> Path:
    """Folder that outlives the run, so that the archive is downloaded once."""
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir("real_data")


def test_digits_are_all_there_and_use_the_whole_range() -> None:
    rows = real_data.digits()
    assert len({row["id"] for row in rows}) == 1797
    images = np.stack([row["image"] for row in rows])
    assert (images.dtype, images.shape[1:]) == (np.uint8, (8, 8))
    assert (images.min(), images.max()) == (0, 255)
    assert Counter(row["label"] for row in rows)["3"] == 183


def test_vqa_shares_no_picture_between_train_and_test() -> None:
    parts = real_data.vqa()
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 38_575, "test": 9_673}
    assert len({row["id"] for rows in parts.values() for row in rows}) == 48_248
    pictures = {part: {row["picture"] for row in rows} for part, rows in parts.items()}
    assert {part: len(names) for part, names in pictures.items()} == {"train": 4000, "test": 1000}
    assert not pictures["train"] & pictures["test"]
    assert len({row["answer"] for row in parts["train"]}) == 13
    assert parts["test"][0]["image"].startswith(b"\x89PNG")


def test_sentiment_labels_are_signs_of_clear_ratings(cache_dir: Path) -> None:
    try:
        rows = real_data.sentiment(cache_dir)
    except real_data.DataError as error:
        pytest.skip(str(error))
    assert Counter(row["label"] for row in rows) == {"negative": 5076, "positive": 4996}
    assert all((row["rating"] > 0) == (row["label"] == "positive") for row in rows)
    assert min(abs(row["rating"]) for row in rows) >= 0.5
    assert len({row["id"] for row in rows}) == 10_072
    # Two snippets occur twice; a review of its own for each copy could part them.
    assert len({row["review"] for row in rows}) == 10_070
    assert rows[2]["text"] == "Effective but too tepid biopic"


def test_an_archive_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / real_data.ARCHIVE).write_bytes(b"not the archive")
    with pytest.raises(real_data.DataError, match=r"(?s)expected: sha256 5d97.*delete the file"):
        real_data.sentiment(tmp_path)


def test_a_download_that_fails_says_what_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(real_data.DataError, match=r"(?s)cannot download.*vaderSentiment.*yourself"):
        real_data.sentiment(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
