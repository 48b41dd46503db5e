"""What peers do with the rows of `epoch_data`: write them once, and read shuffled epochs in batches.

python epoch.py PEER write CASE FOLDER
python epoch.py PEER read CASE FOLDER       prints rows, CPU-seconds and wall seconds of one epoch
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from epoch_data import BATCH, NUM_ROWS, Row, collate, make_arrays, row_of, time_epoch


def rows_of(case: str) -> Iterator[Row]:
    arrays = make_arrays(case)
    return (row_of(arrays, number) for number in range(NUM_ROWS[case]))


def nth_row(number: int, case: str, _arrays: dict[str, Any] = {}) -> Row:  # noqa: B006 - once a process
    if not _arrays:
        _arrays.update(make_arrays(case))
    return row_of(_arrays, number)


def write_litdata(case: str, folder: Path) -> None:
    from litdata import optimize

    optimize(
        partial(nth_row, case=case),
        list(range(NUM_ROWS[case])),
        str(folder),
        num_workers=1,
        chunk_bytes="64MB",
        verbose=False,
    )


def read_litdata(case: str, folder: Path) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset

    del case
    data = StreamingDataset(str(folder), shuffle=True)
    return StreamingDataLoader(data, batch_size=BATCH, num_workers=0, collate_fn=collate)


def write_datasets(case: str, folder: Path) -> None:
    from datasets import Array3D, Dataset, Features, Sequence, Value

    ids = Sequence(Value("int32"))
    features = {"text": {"ids": ids, "target": ids}}
    features["images"] = {"image": Array3D((3, 128, 128), "uint8"), "ids": ids}
    made = Dataset.from_generator(
        lambda: rows_of(case), features=Features(features[case]), cache_dir=f"{folder}.cache"
    )
    made.save_to_disk(str(folder))


def read_datasets(case: str, folder: Path) -> Iterable[Any]:
    from datasets import load_from_disk
    from torch.utils.data import DataLoader

    del case
    data = load_from_disk(str(folder)).with_format("numpy")
    return DataLoader(data, batch_size=BATCH, shuffle=True, collate_fn=collate)


def import_streaming() -> Any:
    """Import it without torchvision, which it names and does not use here: no CPU build of it can be had."""
    names = ("torchvision", *(f"torchvision.{name}" for name in ("datasets", "transforms")))
    for name in (*names, "torchvision.transforms.functional"):
        module: Any = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.VisionDataset = type("VisionDataset", (), {})
        module.to_tensor = None
        sys.modules[name] = module
    import streaming

    return streaming


def write_streaming(case: str, folder: Path) -> None:
    columns = {"ids": "ndarray:int32", "target": "ndarray:int32"}
    if case == "images":
        columns = {"image": "ndarray:uint8:3,128,128", "ids": "ndarray:int32"}
    with import_streaming().MDSWriter(out=str(folder), columns=columns) as writer:
        for row in rows_of(case):
            writer.write(row)


def read_streaming(case: str, folder: Path) -> Iterable[Any]:
    from torch.utils.data import DataLoader

    del case
    data = import_streaming().StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    return DataLoader(data, batch_size=BATCH, collate_fn=collate)


def write_grain(case: str, folder: Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / "rows.array_record"), "group_size:1")
    for row in rows_of(case):
        writer.write(pickle.dumps(row))
    writer.close()


def read_grain(case: str, folder: Path) -> Iterable[Any]:
    import grain

    del case
    source = grain.sources.ArrayRecordDataSource(str(folder / "rows.array_record"))
    data = grain.MapDataset.source(source).shuffle(seed=0).map(pickle.loads)
    return data.batch(BATCH, batch_fn=collate)


PEERS: dict[str, tuple[Callable[[str, Path], None], Callable[[str, Path], Iterable[Any]]]] = {
    "litdata": (write_litdata, read_litdata),
    "datasets": (write_datasets, read_datasets),
    "mosaicml-streaming": (write_streaming, read_streaming),
    "grain": (write_grain, read_grain),
}


def main() -> None:
    peer, what, case, place = sys.argv[1:]
    write, read = PEERS[peer]
    folder = Path(place)
    if what == "write":
        shutil.rmtree(folder, ignore_errors=True)
        write(case, folder)
        return
    print(json.dumps(time_epoch(read(case, folder)) | {"version": version(peer)}))


if __name__ == "__main__":
    main()
