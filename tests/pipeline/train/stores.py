"""Two small tasks on real rows, the sizes of a model that learns them in a second, and runs in processes.

``digits`` reads scanned digits and answers from a closed set; ``spell`` reads a number and writes it out, after
two words that the instruction gives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Run, Source, Task, train
from taskloom.pipeline.settings import TrainConfig

NUM_DIGITS = 240
MODEL = ModelConfig(
    width=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    ffn_width=32,
    dropout=0.1,
)
CONFIG = TrainConfig(
    steps=60, source_tokens=256, learning_rate=3e-3, log_every=10, checkpoint_every=20, threads=1
)

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"

_TRAIN = """
import json, sys
from pathlib import Path
from stores import continue_run, signal_at
store, out, settings, *signal = sys.argv[1:]
if signal:
    signal_at(int(signal[0]), Path(out), int(signal[1]))
continue_run(store, out, **json.loads(settings))
"""


def read_digits() -> list[dict[str, Any]]:
    """Return scanned digits: ``id``, ``image`` (uint8, 8 x 8) and ``label``."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - seconds, which processes that train do not need

    counts, labels = load_digits(return_X_y=True)
    images = np.rint(counts[:NUM_DIGITS] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return [
        {"id": number, "image": image, "label": str(label)}
        for number, (image, label) in enumerate(zip(images, labels[:NUM_DIGITS], strict=True))
    ]


def spell_numbers() -> list[dict[str, Any]]:
    """Return the numbers below 100: ``number`` in figures and in ``words``."""
    ones, tens = _ONES.split(), _TENS.split()
    words = [*ones, *(f"{ten} {one}".removesuffix(" zero") for ten in tens for one in ones[:10])]
    return [{"number": str(number), "words": text} for number, text in enumerate(words)]


def make_tasks(*, has_rows: bool = True) -> list[Task]:
    """Return both tasks; training needs no rows, only the names of their sources."""
    return [
        Task(
            "digits",
            "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]",
            source=Source("digits", read_digits() if has_rows else []),
            holdout=0.2,
            valid=0.1,
            key="id",
        ),
        Task(
            "spell",
            "write [TEXT:number] in words -> it is [TEXT:words]",
            source=Source("numbers", spell_numbers() if has_rows else []),
            holdout=0.2,
            key="number",
        ),
    ]


def make_mixture(*, has_rows: bool = True) -> Mixture:
    """Return the mixture of both."""
    slots = {"IMAGE": {"size": 16, "patch": 8}}
    return Mixture(make_tasks(has_rows=has_rows), slots=slots, bpe_size=300)


def continue_run(store: str | Path, out: str | Path, **settings: Any) -> Run:
    """Train the mixture, with `CONFIG` unless ``settings`` say otherwise."""
    mixture = make_mixture(has_rows=False)
    return train(mixture, store, out=out, model=MODEL, config=CONFIG, progress=False, **settings)


def start_training(store: Path, out: Path, **settings: Any) -> subprocess.Popen[str]:
    """Do the same in a process of its own."""
    return start_python(_TRAIN, str(store), str(out), json.dumps(settings))


def train_until_signal(
    number: int, line: int, store: Path, out: Path, **settings: Any
) -> tuple[int, str]:
    """Do the same in a process that gets signal ``number`` when its log has ``line`` lines.

    Returns:
        What the process ended with, and what it said on standard error.
    """
    words = (str(store), str(out), json.dumps(settings), str(int(number)), str(line))
    process = start_python(_TRAIN, *words)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def signal_at(number: int, out: Path, line: int) -> threading.Thread:
    """Send this process signal ``number`` when the log in ``out`` has ``line`` lines."""
    log = out / "log.jsonl"

    def watch() -> None:
        while not log.exists() or log.read_bytes().count(b"\n") < line:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def start_python(
    code: str, *arguments: str, folder: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Run ``code`` in a fresh process, which may import this module; ``env`` is added to its environment."""
    path = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **path, **(env or {})},
        cwd=folder,
    )


def are_equal(left: Any, right: Any) -> bool:
    """Return whether two nested structures of tensors are equal to the bit."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(are_equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(are_equal, left, right))
    return left == right
