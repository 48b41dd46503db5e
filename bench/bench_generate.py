"""Targets written greedily on one thread, ours and other libraries'; closed sets stepped through in two ways.

Claims, in tokens per CPU-second: at least 1.2 times transformers' `generate`, 0.85 times CTranslate2 in
single precision, and with weights in eight bits 0.6 times CTranslate2 in eight bits. A step through a closed
set takes at most a fiftieth of one through dicts in Python; the first, before which all answers are open, a
tenth.

All write with models of one shape, 6 + 6 layers of 512 channels and 8 heads, 2,048 inside, and 32,128 ids:
every matrix of a layer has the same size in all. Theirs is a T5 with random weights, ours has rotary
positions and random weights of its own. Sources have 64 tokens, targets exactly 64. Reading the source is
counted.

The closed set has 3,129 answers as those of visual question answering are long, 59,457 ids and 40 rows; timed
is what comes after the scores: mask, log softmax, ten best, next place in the tree.

Every round runs all contestants after one another; medians are told. Peers run in an environment of their
own, see `peers/README.md`, and are left out where it is not there.

    python bench/bench_generate.py [--out FILE] [--rounds N] [--peers FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskloom.graph.vocabulary import EOS
from taskloom.ops.device.automaton import build_automaton
from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.decode.few_rows import FewRowsLinear, lay_out
from taskloom.ops.device.decode.int8 import Int8Linear, shrink
from taskloom.ops.device.decode.options import Chooser
from taskloom.ops.device.decode.rotary_stack import RotaryStack
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.step import Sources
from taskloom.ops.device.decode.task import Task
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.decoder import DecodeStreams
from taskloom.ops.device.embedding import EmbedTokens
from taskloom.ops.device.encoder import EncodeStreams
from taskloom.ops.device.language import Free, OneOf, draw_languages

ROOT = Path(__file__).parents[1]
PEERS = ("transformers", "ctranslate2", "ctranslate2-int8")
FLOORS = {
    "ours over transformers": 1.2,
    "ours over ctranslate2": 0.85,
    "ours-int8 over ctranslate2-int8": 0.6,
}
TRIE_FLOORS = {"first step": 10.0, "later step": 50.0}
NUM_IDS, SOURCE, LENGTH = 32_128, 64, 64
CONFIG = ModelConfig(
    width=512, num_heads=8, num_encoder_layers=6, num_decoder_layers=6, ffn_width=2048
)
NUM_ANSWERS, TRIE_IDS, TRIE_ROWS = 3_129, 59_457, 40


class Ours:
    """Our model with random weights."""

    def __init__(self, *, int8: bool) -> None:
        torch.manual_seed(0)
        self.embed = EmbedTokens(num_ids=NUM_IDS, model_width=CONFIG.width)
        self.encode = EncodeStreams.of(CONFIG)
        self.table, self.encoder = self.embed.module(), self.encode.module().eval()
        self.decoder = DecodeStreams.of(CONFIG).module().eval()
        if int8:
            self.head = Int8Linear(self.table.weight_VC, None)
            shrink(self.decoder)
        else:
            self.head = FewRowsLinear(self.table.weight_VC)
            lay_out(self.decoder)
        diagram = draw_languages([(Free(first=4, stop=NUM_IDS),)], num_ids=NUM_IDS)
        self.automaton = build_automaton(diagram)

    @torch.no_grad()
    def write(self, batch: int) -> int:
        """Read sources and write targets; return the number of tokens."""
        index = torch.arange(batch * SOURCE)
        start = index // SOURCE * SOURCE
        memory = self.encode(
            self.encoder,
            hidden=self.embed(self.table, ids=4 + index * 31 % (NUM_IDS - 4)),
            positions=index - start,
            keys=torch.stack((start, start + SOURCE)),
        )
        keys = torch.arange(batch) * SOURCE
        written = write(
            Task(
                stack=RotaryStack(self.decoder, self.table, self.head),
                automaton=self.automaton,
                sources=Sources(memory, torch.stack((keys, keys + SOURCE)), SOURCE),
                roots_B=torch.tensor(self.automaton.roots * batch),
                max_length=LENGTH,
                search=Search(min_length=LENGTH - 1),
            )
        )
        return int((written.ids_BNL[:, 0] != 1).sum())


def time_cpu(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    result = call()
    return result, time.process_time() - began


def measure_writing(batch: int, rounds: int, python: Path, folder: Path) -> dict[str, Any]:
    """Return tokens per CPU-second of every contestant."""
    ours = {"ours": Ours(int8=False), "ours-int8": Ours(int8=True)}
    rates: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    for model in ours.values():
        model.write(batch)
    for _ in range(rounds):
        for name, model in ours.items():
            tokens, seconds = time_cpu(lambda m=model: m.write(batch))
            assert tokens == batch * LENGTH, f"{tokens} tokens"
            rates.setdefault(name, []).append(tokens / seconds)
        for peer in PEERS if python.exists() else ():
            script = ROOT / "bench" / "peers" / "generate.py"
            sizes = map(str, (batch, SOURCE, LENGTH, 1))
            done = subprocess.run(
                [str(python), str(script), peer, str(folder), *sizes],
                capture_output=True,
                text=True,
                check=True,
            )
            told = json.loads(done.stdout.splitlines()[-1])
            ((tokens, seconds),) = told["rounds"]
            rates.setdefault(peer, []).append(tokens / seconds)
            versions[peer] = told["version"]
    medians = {name: median(each) for name, each in rates.items()}
    pairs = (claim.split(" over ") for claim in FLOORS)
    ratios = {
        f"{one} over {other}": round(medians[one] / medians[other], 3)
        for one, other in pairs
        if other in medians
    }
    return {
        "tokens per CPU-second": {name: round(rate, 1) for name, rate in medians.items()},
        "all": {name: [round(rate, 1) for rate in each] for name, each in rates.items()},
        "ratios": ratios,
        "versions": versions,
        "missed": [name for name, ratio in ratios.items() if ratio < FLOORS[name]],
    }


class Trie:
    """A closed set in both forms, and rows that are somewhere in it."""

    def __init__(self, num_written: int) -> None:
        rng = np.random.default_rng(0)
        common = rng.permutation(TRIE_IDS - 4)[:3000] + 4
        lengths = rng.choice([1, 2, 3, 4], NUM_ANSWERS * 2, p=[0.35, 0.4, 0.2, 0.05])
        drawn = {tuple(common[rng.integers(0, 3000, length)].tolist()) for length in lengths}
        self.answers = sorted(drawn)[:: max(1, len(drawn) // NUM_ANSWERS)][:NUM_ANSWERS]
        diagram = draw_languages([(OneOf(sequences=tuple(self.answers)),)], num_ids=TRIE_IDS)
        self.automaton = build_automaton(diagram)
        weight = torch.zeros(TRIE_IDS, 1)
        self.chooser = Chooser(
            automaton=self.automaton,
            temperature=1.0,
            head_UC=weight[self.automaton.used_U],
        )
        self.tree: dict[int, Any] = {}
        for answer in self.answers:
            node = self.tree
            for id_ in (*answer, EOS):
                node = node.setdefault(id_, {})
        picked = [self.answers[number] for number in rng.integers(0, NUM_ANSWERS, TRIE_ROWS)]
        self.written = [list(each[:num_written]) for each in picked]
        self.fan_out = self.automaton.fan_out_of(num_written, num_written)
        self.states_R = torch.tensor(self.automaton.roots * TRIE_ROWS)
        for at in range(num_written):
            ids_R = torch.tensor([ids[at] for ids in self.written])
            self.states_R = self.automaton.advance(self.states_R, ids_R)
        generator = torch.Generator().manual_seed(0)
        self.scores_RV = torch.randn(TRIE_ROWS, TRIE_IDS, generator=generator)
        self.scores_RU = self.scores_RV[:, self.automaton.used_U].contiguous()

    def in_python(self) -> Tensor:
        """Return the ten best ids of each row, by a mask that dicts fill."""
        mask_RV = torch.full_like(self.scores_RV, -torch.inf)
        for row, ids in enumerate(self.written):
            node = self.tree
            for id_ in ids:
                node = node[id_]
            mask_RV[row, list(node)] = 0
        return (self.scores_RV + mask_RV).log_softmax(-1).topk(min(10, self.fan_out)).indices

    def on_device(self) -> Tensor:
        """Return the ten best ids of each row, by its edges, and go on by the best."""
        options = self.chooser.look_up(self.scores_RU, self.states_R, self.fan_out)
        rows_R = torch.arange(TRIE_ROWS)
        best_R10 = (options.scores_RX - options.norms_R1).topk(min(10, self.fan_out)).indices
        self.chooser.follow(options, self.states_R, rows_R, best_R10[:, 0])
        assert options.ids_RX is not None
        return options.ids_RX.gather(1, best_R10)


def measure_trie(rounds: int) -> dict[str, Any]:
    """Return milliseconds of the first step and of one after it."""
    told: dict[str, Any] = {}
    for place, floor in TRIE_FLOORS.items():
        trie = Trie(0 if place == "first step" else 1)
        assert torch.equal(trie.in_python()[:, 0], trie.on_device()[:, 0])
        steps = {"python": (trie.in_python, 5), "ours": (trie.on_device, 200)}
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, (step, times) in steps.items():
                _, seconds = time_cpu(lambda s=step, n=times: [s() for _ in range(n)])
                taken[name].append(seconds / times * 1000)
        medians = {name: median(each) for name, each in taken.items()}
        ratio = medians["python"] / medians["ours"]
        told[place] = {
            "answers": len(trie.answers),
            "most ids that may follow": trie.fan_out,
            "ms": {name: round(each, 4) for name, each in medians.items()},
            "python over ours": round(ratio, 1),
            "missed": [] if ratio >= floor else [place],
        }
    return told


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time writing.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=ROOT / "build", help="where peers are")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    python = options.peers / "generate" / "bin" / "python"
    with tempfile.TemporaryDirectory() as folder:
        if python.exists():
            script = ROOT / "bench" / "peers" / "generate.py"
            subprocess.run([str(python), str(script), "make", folder], check=True)
        cases: dict[str, Any] = {
            f"batch {batch}": measure_writing(batch, options.rounds, python, Path(folder))
            for batch in (1, 8)
        }
    cases["closed set"] = measure_trie(options.rounds)
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load average": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "torch")},
        },
        "rounds": options.rounds,
        "cases": cases,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
