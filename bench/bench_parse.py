"""What reading an instruction costs: 1,000 tasks in less than 0.2 seconds of CPU.

The floor finds the slots of the same texts with one regular expression, as OFASys does: no attributes
are checked, nothing is refused, no place is kept. Rounds of both are interleaved, and the least of
each is reported: it is what the code costs on a machine that does nothing else.

    python bench/bench_parse.py [--out FILE] [--rounds N]
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from report import describe, tell

from taskloom.graph.errors import InstructionError
from taskloom.graph.instruction import parse_instruction
from taskloom.graph.templates import parse_instructions

NUM_TASKS: Final = 1000
CLAIM_S: Final = 0.2

SLOT: Final = re.compile(r"\[([A-Z]+)(?::([_A-Za-z0-9]+))?(?:,([_A-Za-z0-9,.=]+))?\]")
CASES: Final[Mapping[str, str]] = {
    "three slots": "[IMAGE:image{0}] [TEXT:question,max_length=20] what (exactly) is it? "
    "-> [TEXT:answer,closed_set]",
    "seven slots": '[IMAGE:img{0}] can image and text1 " [TEXT:cap] " imply text2 " [TEXT:hyp] "? '
    '-> [IMAGE:img{0},no_loss] can image and text1 " [TEXT:cap,no_loss] " imply text2 '
    '" [TEXT:hyp,no_loss] "? [TEXT:label,closed_set]',
    "a group": "[IMAGE:img{0}] what is where? -> ([BOX:boxes] [TEXT:labels,max_length=4])*",
    "three mistakes": "[IMGE:img{0}] [TEXT:q,max_lenght=8] -> [TEXT:a,loss_weight=0]",
}


def parse(text: str) -> None:
    """Parse one instruction, right or wrong."""
    try:
        parse_instruction(text)
    except InstructionError as error:
        str(error)


def find_slots(text: str) -> None:
    """Find what looks like slots, and nothing else."""
    for side in text.split("->"):
        for match in SLOT.finditer(side):
            match.groups()


def time_all(work: Callable[[str], object], texts: list[str]) -> float:
    """Return the seconds of CPU that ``work`` takes on all of ``texts``."""
    start = time.process_time()
    for text in texts:
        work(text)
    return time.process_time() - start


def measure(template: str, num_rounds: int) -> dict[str, float]:
    """Return the figures of one case."""
    texts = [template.format(number) for number in range(NUM_TASKS)]
    works = {"parse": parse, "floor": find_slots}
    best = dict.fromkeys(works, float("inf"))
    for _ in range(num_rounds):
        for name, work in works.items():
            best[name] = min(best[name], time_all(work, texts))
    return {
        "seconds for 1,000": round(best["parse"], 4),
        "floor, seconds for 1,000": round(best["floor"], 4),
        "over floor": round(best["parse"] / best["floor"], 1),
    }


def measure_templates(num_rounds: int) -> dict[str, float]:
    """Return the seconds for 1,000 tasks of three templates each."""
    texts = [CASES["three slots"].format(number) for number in range(NUM_TASKS)]
    best = min(
        time_all(lambda text: parse_instructions([text] * 3), texts) for _ in range(num_rounds)
    )
    return {"seconds for 1,000": round(best, 4)}


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time the parser against finding slots.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    cases: dict[str, Any] = {name: measure(text, options.rounds) for name, text in CASES.items()}
    right = [case["seconds for 1,000"] for name, case in cases.items() if "mistakes" not in name]
    result = {
        **describe(),
        "rounds": options.rounds,
        "cases": cases | {"three templates": measure_templates(options.rounds)},
        "holds": right[0] < CLAIM_S,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
