"""A data set made small enough to travel to where it is trained on: about 80 kB for a mesh of 5,000 nodes.

    python examples/studies/topology/packing.py pack cells --out runs/studies/topology --to packed
    python examples/studies/topology/packing.py unpack packed/cells-*.pack --out runs/studies/topology

Positions and fields become numbers of 16 bits between their least and largest, so that they move by less than 1/100,000
of the size of the mesh, and of what a field spans on it. Nodes are put in order along a curve, and stored is the
difference from one to the next. What no model of the study reads is left out. `run.py` takes the unpacked file as its
own.
"""

import argparse
import json
import lzma
import os
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sets import SETS, StudySet
from tqdm import tqdm

from flare_connect.files import replacing
from flare_connect.mesh import Mesh, MeshStore, NamedSet, write_store

_STEPS = 2**16 - 1
_LENGTH = struct.Struct("<I")
_FORMAT = "flare_connect.study.packed 1"


def pack(store: MeshStore, study: StudySet, folder: Path, part_bytes: int, workers: int) -> list[Path]:
    """Write a data set into files of at most about `part_bytes`; the first says what it is."""
    head = {
        "format": _FORMAT, "set": study.name, "count": len(store), "attrs": store.attrs,
        "splits": {name: ids.tolist() for name, ids in store.splits.items()},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    block: list[bytes] = [json.dumps(head).encode()]

    def flush() -> None:
        paths.append(folder / f"{study.name}-{len(paths):02d}.pack")
        with replacing(paths[-1]) as temporary:
            temporary.write_bytes(b"".join(_LENGTH.pack(len(each)) + each for each in block))
        block.clear()

    with ProcessPoolExecutor(workers) as pool:
        fields = {study.output, study.measured, *study.inputs}
        done = pool.map(partial(_encoded, store, fields), range(len(store)), chunksize=8)
        for each in tqdm(done, total=len(store), desc=f"{study.name}: packing", unit="mesh"):
            if block and sum(map(len, block)) + len(each) > part_bytes:
                flush()
            block.append(each)
    flush()
    return paths


def unpack(parts: Iterable[Path], folder: Path, workers: int) -> Path:
    """Write the data set that `pack` made into `parts`, and return where.

    Raises:
        SystemExit: parts are missing, or of something else.
    """
    blocks = [block for path in sorted(parts) for block in _blocks(path)]
    try:
        head = json.loads(blocks[0])
        found = head["format"]
    except (ValueError, IndexError, KeyError, TypeError):
        found = None
    if found != _FORMAT:
        raise SystemExit("the first part is missing, or was not written by `pack`")
    if len(blocks) != head["count"] + 1:
        raise SystemExit(f"parts hold {len(blocks) - 1} of {head['count']} meshes: give all of them")
    attrs, path = head["attrs"], folder / f"{head['set']}.h5"
    with ProcessPoolExecutor(workers) as pool:
        meshes = pool.map(partial(_decoded, attrs["units"]), blocks[1:], chunksize=8)
        write_store(
            path, meshes, splits=head["splits"], generator=attrs["generator"],
            generator_version=attrs["generator_version"], seed=attrs["seed"], parameters=attrs["parameters"],
            progress=True,
        )  # fmt: skip
    return path


def _blocks(path: Path) -> Iterator[bytes]:
    whole, place = path.read_bytes(), 0
    while place < len(whole):
        (length,) = _LENGTH.unpack_from(whole, place)
        place += _LENGTH.size
        if place + length > len(whole):
            raise SystemExit(f"{path} is cut off: copy it again")
        yield whole[place : place + length]
        place += length


def _encoded(store: MeshStore, fields: set[str], index: int) -> bytes:
    mesh = store[index]
    pos = mesh.pos.numpy()
    if len(pos) > _STEPS:
        raise SystemExit(f"mesh {index} has {len(pos)} nodes, packed can be {_STEPS}")
    low, step = pos.min(axis=0), float(np.ptp(pos, axis=0).max()) / _STEPS
    grid = np.round((pos - low) / step).astype(np.int64)
    order = np.argsort(_interleaved(grid), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    triangles = place[mesh.cells["triangle"].numpy()]
    turn = (triangles.argmin(axis=1)[:, None] + np.arange(3)) % 3  # the least corner first, the sense of rotation kept
    triangles = np.take_along_axis(triangles, turn, axis=1)
    triangles = triangles[np.lexsort(triangles.T[::-1])]
    columns = [*grid[order].T, triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 1]]
    ranges: dict[str, list[list[float]]] = {}
    for name in sorted(fields):
        values = mesh.point_data[name].numpy().astype(np.float64).reshape(len(pos), -1)
        least, span = values.min(axis=0), np.maximum(np.ptp(values, axis=0), np.finfo(np.float32).tiny)
        ranges[name] = [least.tolist(), (span / _STEPS).tolist(), list(mesh.point_data[name].shape[1:])]
        columns += list(np.round((values - least) / (span / _STEPS)).astype(np.int64)[order].T)
    pairs = mesh.periodic_pairs
    known = {
        "nodes": len(pos), "triangles": len(triangles), "low": low.tolist(), "step": step, "ranges": ranges,
        "globals": {name: values.tolist() for name, values in mesh.global_data.items()},
        "sets": {name: np.sort(place[s.ids.numpy()]).tolist() for name, s in mesh.sets.items() if s.entity == "node"},
        "pairs": None if pairs is None else place[pairs.numpy()].tolist(),
    }  # fmt: skip
    text = json.dumps(known).encode()
    return lzma.compress(_LENGTH.pack(len(text)) + text + b"".join(map(_column, columns)))


def _decoded(units: dict[str, str], block: bytes) -> Mesh:
    whole = lzma.decompress(block)
    (length,) = _LENGTH.unpack_from(whole)
    known, place = json.loads(whole[_LENGTH.size : _LENGTH.size + length]), _LENGTH.size + length

    def take(count: int, rows: int) -> np.ndarray:
        nonlocal place
        place += 2 * count * rows
        return np.stack([_values(part) for part in np.split(_bytes(whole, place - 2 * count * rows, place), rows)], 1)

    grid = take(known["nodes"], 2)
    first, second, third = take(known["triangles"], 3).T
    fields = {}
    for name, (least, step, shape) in known["ranges"].items():
        values = np.array(least) + np.array(step) * take(known["nodes"], len(least))
        fields[name] = values.astype(np.float32).reshape(-1, *shape)
    return Mesh.from_arrays(
        np.array(known["low"]) + known["step"] * grid,
        {"triangle": np.stack([first, first + second, first + second + third], axis=1) % (_STEPS + 1)},
        point_data=fields,
        global_data={name: np.array(values, dtype=np.float32) for name, values in known["globals"].items()},
        sets={name: NamedSet("node", _ids(ids)) for name, ids in known["sets"].items()},
        periodic_pairs=None if known["pairs"] is None else np.array(known["pairs"], dtype=np.int64),
        units={name: unit for name, unit in units.items() if name in {"pos", *fields, *known["globals"]}},
    )


def _ids(ids: list[int]) -> Any:
    from torch import tensor

    return tensor(ids)


def _bytes(whole: bytes, start: int, stop: int) -> np.ndarray:
    return np.frombuffer(whole, np.uint8, stop - start, start)


def _column(values: np.ndarray) -> bytes:
    """Differences of 16 bits, those below 0 among the odd numbers, high bytes before low ones."""
    difference = np.diff(values, prepend=0).astype(np.int16).astype(np.int32)
    folded = ((difference << 1) ^ (difference >> 31)).astype(np.uint16)
    return (folded >> 8).astype(np.uint8).tobytes() + folded.astype(np.uint8).tobytes()


def _values(planes: np.ndarray) -> np.ndarray:
    high, low = np.split(planes.astype(np.int64), 2)
    folded = (high << 8) | low
    difference = (folded >> 1) ^ -(folded & 1)
    # The difference was taken modulo 2¹⁶, and values are below that: so they come back whole.
    return np.cumsum(difference) % (_STEPS + 1)


def _interleaved(grid: np.ndarray) -> np.ndarray:
    """Places along Morton's curve."""
    found = np.zeros(len(grid), dtype=np.int64)
    for bit in range(16):
        for axis in range(grid.shape[1]):
            found |= ((grid[:, axis] >> bit) & 1) << (grid.shape[1] * bit + axis)
    return found


def main(args: argparse.Namespace) -> None:
    if args.what == "pack":
        for name in args.names:
            with MeshStore(args.out / f"{name}.h5") as store:
                for path in pack(store, SETS[name], args.to, args.part_mib << 20, args.workers):
                    print(path, f"{path.stat().st_size / 2**20:.1f} MiB")
    else:
        print(unpack(args.names, args.out, args.workers))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for what, of in (("pack", "data sets by name"), ("unpack", "all parts of one data set")):
        command = commands.add_parser(what)
        if what == "pack":
            command.add_argument("names", nargs="+", choices=list(SETS), help=of)
            command.add_argument("--to", type=Path, required=True, help="folder for the parts")
            command.add_argument("--part_mib", type=int, default=50, help="size of a part, in MiB")
        else:
            command.add_argument("names", nargs="+", type=Path, help=of)
        command.add_argument("--out", type=Path, default=Path("runs/studies/topology"), help="folder of the data sets")
        command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
