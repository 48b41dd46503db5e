"""Vocabularies give every text back, and depend on nothing but the words they were fitted on."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from functools import reduce
from pathlib import Path
from random import Random

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from taskloom.graph.errors import OpError
from taskloom.ops.host import bpe as module
from taskloom.ops.host.bpe import Bpe, EncodeTexts, FitBpe
from taskloom.ops.host.split import TEST, TRAIN, VALID

CORPUS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog", "naïve café"] * 3

words = st.text(st.sampled_from("ab é"), max_size=6)
corpora = st.lists(st.tuples(words, st.sampled_from([TRAIN, TRAIN, VALID, TEST])), max_size=12)


def texts_of(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.string())


def splits_of(splits: list[int]) -> pa.Array:
    return pa.array(splits, pa.uint8())


def observe(op: FitBpe, rows: list[tuple[str, int]]) -> Counter[str]:
    return op.observe(texts_of([t for t, _ in rows]), splits_of([s for _, s in rows]))


def fit(texts: list[str], size: int) -> Bpe:
    op = FitBpe(size=size)
    return Bpe(op.finish(observe(op, [(text, TRAIN) for text in texts])))


@pytest.fixture(scope="module")
def vocabulary() -> Bpe:
    """A vocabulary with some merges, of letters beyond ASCII as well."""
    return fit(CORPUS, 280)


@given(texts=st.lists(st.text(max_size=20), max_size=5))
def test_every_text_comes_back(vocabulary: Bpe, texts: list[str]) -> None:
    ids = vocabulary.encode(texts_of(texts)).to_pylist()
    assert [vocabulary.decode(each) for each in ids] == texts


@given(texts=st.lists(words, max_size=8), start=st.integers(0, 3))
def test_a_text_is_the_same_ids_wherever_and_however_often_it_stands(
    vocabulary: Bpe, texts: list[str], start: int
) -> None:
    column = texts_of([*texts[:2], *texts]).slice(start)
    alone = [vocabulary.encode(texts_of([text])) for text in column.to_pylist()]
    expected = pa.concat_arrays([vocabulary.encode(texts_of([])), *alone])
    assert vocabulary.encode(column).equals(expected)


@given(st.integers(0, 279), st.binary(max_size=6))
def test_any_ids_give_some_text(first: int, rest: bytes) -> None:
    vocabulary = fit(CORPUS, 280)
    text = vocabulary.decode(np.array([first, *rest]))
    assert text.encode().decode() == text


@settings(max_examples=40)
@given(corpora, st.integers(1, 12), st.randoms())
def test_the_vocabulary_is_the_same_however_rows_are_parted_and_ordered(
    rows: list[tuple[str, int]], size: int, random: Random
) -> None:
    op = FitBpe(size=262)
    whole = op.finish(observe(op, rows))
    shuffled = random.sample(rows, len(rows))
    parts = [shuffled[i : i + size] for i in range(0, len(rows), size)]
    merged = reduce(op.merge, (observe(op, part) for part in parts if len(part) != 1), Counter())
    ones = (observe(op, part) for part in parts if len(part) == 1)
    assert op.finish(reduce(op.merge, ones, merged)) == whole


@given(corpora)
def test_held_out_rows_are_not_looked_at(rows: list[tuple[str, int]]) -> None:
    op = FitBpe(size=262)
    assert observe(op, [*rows, ("zzz", VALID), ("zzz", TEST)]) == observe(op, [*rows, ("q", TEST)])


@given(words, st.lists(st.sampled_from([TRAIN, VALID]), max_size=6))
def test_a_prompt_counts_once_for_every_training_row(prompt: str, splits: list[int]) -> None:
    op = FitBpe()
    as_column = op.observe(texts_of([prompt] * len(splits)), splits_of(splits))
    assert op.observe(texts_of([prompt]), splits_of(splits)) == as_column


def test_fresh_processes_fit_the_same_bytes() -> None:
    # The library seeds its hash tables anew in every process, Python its own.
    program = (
        "import sys, json\n"
        "from collections import Counter\n"
        "from taskloom.ops.host.bpe import FitBpe\n"
        "counts = Counter(json.load(sys.stdin))\n"
        "sys.stdout.buffer.write(FitBpe(size=330).finish(counts))\n"
    )
    # All pairs are equally common, so every merge is a tie.
    counts = {left + right: 2 for left in "abcdefgh" for right in "stuvwxyz"}
    fitted = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(dict(sorted(counts.items(), reverse=bool(seed)))).encode(),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
        ).stdout
        for seed in range(2)
    }
    (content,) = fitted
    assert Bpe(content).size == 256 + len(counts)


def test_large_corpora_are_scaled_down_and_lose_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    op = FitBpe(size=280)
    counts = observe(op, [(text, TRAIN) for text in CORPUS])
    small = op.finish(counts)
    monkeypatch.setattr(module, "MAX_WORDS", sum(counts.values()))
    assert op.finish(Counter({word: 1000 * count for word, count in counts.items()})) == small


def test_common_words_become_one_id(vocabulary: Bpe) -> None:
    assert vocabulary.size == 280
    assert len(vocabulary.encode(texts_of(["the cat sat"])).to_pylist()[0]) == 3


def test_a_word_is_the_same_ids_at_the_start_and_inside(vocabulary: Bpe) -> None:
    cat, the_cat, the = vocabulary.encode(texts_of(["cat", "the cat", "the"])).to_pylist()
    assert the_cat == the + cat


def test_without_words_only_the_bytes_are_known() -> None:
    bare = fit([], 4096)
    assert bare.size == 256
    ids = bare.encode(texts_of(["é"]), dtype="uint8")
    assert ids.type == pa.list_(pa.uint8())
    assert bare.decode(ids.to_pylist()[0]) == "é"


def test_contents_are_canonical_and_open_in_the_library(vocabulary: Bpe) -> None:
    content = vocabulary.to_bytes()
    written = json.loads(content)
    text = json.dumps(written, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text.encode() == content
    theirs = Tokenizer.from_str(content.decode()).encode(" the dog").ids
    assert theirs == vocabulary.encode(texts_of(["the dog"])).to_pylist()[0]


def test_vocabularies_are_values_that_cross_process_boundaries(vocabulary: Bpe) -> None:
    returned = pickle.loads(pickle.dumps(vocabulary))
    assert returned == vocabulary
    assert hash(returned) == hash(Bpe.from_bytes(vocabulary.to_bytes()))
    assert returned.decode(returned.encode(texts_of(["café"])).to_pylist()[0]) == "café"


@given(st.lists(st.text(max_size=10), max_size=4), st.integers(1, 5))
def test_max_length_keeps_the_first_ids(texts: list[str], length: int) -> None:
    vocabulary = fit(CORPUS, 280)
    every = EncodeTexts()(texts_of(texts), vocabulary).to_pylist()
    cut = EncodeTexts(max_length=length)(texts_of(texts), vocabulary)
    assert cut.to_pylist() == [ids[:length] for ids in every]


def write_gpt2_files(vocabulary: Bpe, folder: Path) -> tuple[Path, Path]:
    """Write a vocabulary in the form that GPT-2's has."""
    model = json.loads(vocabulary.to_bytes())["model"]
    vocab_json, merges_txt = folder / "encoder.json", folder / "vocab.bpe"
    vocab_json.write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    merges_txt.write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    return vocab_json, merges_txt


def test_gpt2_files_give_the_vocabulary_they_hold(vocabulary: Bpe, tmp_path: Path) -> None:
    vocab_json, merges_txt = write_gpt2_files(vocabulary, tmp_path)
    loaded = Bpe.from_files(vocab_json, merges_txt)
    assert loaded == vocabulary
    # The same files, read by the library in the way that GPT-2 is set up there.
    theirs = Tokenizer(models.BPE.from_file(str(vocab_json), str(merges_txt)))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    theirs.decoder = decoders.ByteLevel()
    assert loaded.encode(texts_of(["the café"])).to_pylist() == [theirs.encode("the café").ids]


@pytest.mark.parametrize(
    ("vocab", "merges", "reason"),
    [
        pytest.param("{", "", "Expecting property name", id="no JSON"),
        pytest.param("[]", "", "has no attribute", id="no object"),
        pytest.param('{"a": 0}', "", "255 of the 256 bytes have no id", id="bytes left out"),
        pytest.param('{"a": 1}', "", "the ids are not 0, 1, 2", id="ids left out"),
        pytest.param('{"a": 0}', "a b c", "a merge is two tokens, got 'a b c'", id="three"),
        pytest.param('{"a": 0}', "a b", "out of vocabulary", id="an unknown token"),
    ],
)
def test_files_that_are_no_vocabulary_are_named(
    tmp_path: Path, vocab: str, merges: str, reason: str
) -> None:
    vocab_json, merges_txt = tmp_path / "v.json", tmp_path / "m.txt"
    vocab_json.write_text(vocab)
    merges_txt.write_text(merges)
    with pytest.raises(OpError, match=rf"(?s)v\.json and .*m\.txt are no byte-level.*{reason}"):
        Bpe.from_files(vocab_json, merges_txt)


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(OpError, match=r"(?s)v\.json and .*No such file"):
        Bpe.from_files(tmp_path / "v.json", tmp_path / "m.txt")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}'])
def test_damaged_contents_are_refused(content: bytes) -> None:
    with pytest.raises(OpError, match=r"T0309.*no BPE vocabulary"):
        Bpe(content)


def test_a_vocabulary_too_large_for_the_ids_is_refused_even_for_no_rows(vocabulary: Bpe) -> None:
    with pytest.raises(OpError, match="a vocabulary of 280 ids does not fit uint8"):
        EncodeTexts(dtype="uint8")(texts_of([]), vocabulary)


@pytest.mark.parametrize("outside", [280, -1])
def test_ids_outside_the_vocabulary_are_refused(vocabulary: Bpe, outside: int) -> None:
    with pytest.raises(OpError, match=f"id {outside} is outside a vocabulary of 280"):
        vocabulary.decode([1, outside])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FitBpe(size=255), "at least 256 ids, got 255"),
        (lambda: EncodeTexts(dtype="int64"), "got int64"),
        (lambda: EncodeTexts(max_length=0), "max_length must be at least 1, got 0"),
    ],
    ids=["too small", "another type", "no length"],
)
def test_impossible_parameters_are_refused(make: type, message: str) -> None:
    with pytest.raises(OpError, match=message):
        make()
