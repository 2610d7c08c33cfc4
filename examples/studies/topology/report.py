"""Tables and pictures from the results."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import contestants
import tables
from rows import Row, read
from sets import SETS
from wording import NOTHING, grid

ERRORS = {
    "rel_l2": "relative L2",
    "jump_error_untrimmed": "jump",
    "jump_error": "jump, without peaks",
    "peak_error": "peak",
    "boundary_error": "boundary",
}
SUBJECTS = {
    "plates": "Stress of plates with slits",
    "heat": "Temperature in plates with slits",
    "cells": "Stress of cells with holes",
    "wide": "Stress of cells with holes, in meshes of all sizes",
    "graded": "Stress of cells with holes, in meshes of all sizes and gradings",
}
COST = (
    "Without the harmonic inputs where a model was trained so. The learning rate is of so many that were tried. Memory "
    "is the most in training, with a CUDA graph for each batch."
)
REMOVED = (
    "Attention within the clusters around the anchors, and rounds along the coarse graph that these clusters make. "
    "Both cost time in which ours learns more without them. The commits below have the code."
)
WRITTEN = "<!-- Written by `python examples/studies/topology/run.py --report`; change that, not this. -->"


def table(rows: Iterable[Row], metric: str = "rel_l2") -> str:
    """One error of every model that was trained to the end, a column for each split."""
    lines = tables.longest(tables.trained(rows))
    return tables.errors(lines, _splits(lines), metric, ERRORS.get(metric, metric))


def write(results: Path, out: Path) -> None:
    """Every table into `<results>/tables.md` and `parts.md`, every kept mesh as a picture into `<out>/pictures`."""
    from flare_connect.files import write_atomically

    results.mkdir(parents=True, exist_ok=True)
    for name, found in {"tables": text(results), "parts": worth(results)}.items():
        if found:
            write_atomically(results / f"{name}.md", (found + "\n").encode())
            print(results / f"{name}.md")
    for picture in pictures(out):
        print(picture)


def text(results: Path) -> str:
    """Every table of a folder of results: what the documentation shows."""
    parts = [section for name in SETS if (section := _section(name, results))]
    parts += _removed(read(results / "removed.json"))
    return "\n\n".join([WRITTEN, *(parts or ["No rows yet."])])


def worth(results: Path) -> str:
    """What parts on and off are worth, a column for each data set; "" where fewer than two have any: a table says it.

    Of a set, the folder that has most of them counts: this one, or one of another machine within it.
    """
    found = {}
    for name in SETS:
        measured = [tables.times_ours(tables.trained(read(path))) for path in sorted(results.glob(f"**/{name}.json"))]
        if most := max(measured, key=len, default={}):
            found[name] = most
    parts = [part for part in contestants.PARTS if any(part in mine for mine in found.values())]
    body = [[part, *(f"{m[part]:.2f}" if part in m else NOTHING for m in found.values())] for part in parts]
    return f"{WRITTEN}\n\n{grid(['error, as a multiple of that of ours', *found], body)}" if len(found) > 1 else ""


def pictures(out: Path) -> Iterable[Path]:
    """Truth and prediction of the meshes that `kept` holds."""
    import numpy as np
    import torch

    import flare_connect as fc

    for path in sorted((out / "kept").glob("*.npz")):
        with np.load(path, allow_pickle=False) as kept:
            mesh = fc.Mesh.from_arrays(kept["pos"], {"triangle": kept["cells"]})
            guess, truth, name = torch.from_numpy(kept["guess"]), torch.from_numpy(kept["truth"]), str(kept["output"])
        target = out / "pictures" / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        fc.plot_field(mesh, guess, truth=truth, name=name.replace("_", " "), clim="robust", save=target)
        yield target


def _section(name: str, results: Path) -> str:
    """Everything of one data set; "" where nothing was measured."""
    rows = read(results / f"{name}.json")
    every = tables.trained(rows)
    longest = tables.longest(every)
    main = [line for line in longest if line.model == "ours" or tables.is_peer(line.model)]
    found: list[str] = []
    if main:
        found += [tables.caption(main, rows)]
        found += [tables.errors(main, _splits(main), m, title, compared=True) for m, title in ERRORS.items()]
        found += [tables.behind(main, _splits(main), ERRORS)]
    if changed := tables.parts(every):
        found += ["### Parts on and off", tables.caption(changed, rows)]
        found += [tables.errors(changed, _splits(changed), "rel_l2", ERRORS["rel_l2"])]
    if longest:
        found += ["### Cost", COST, tables.cost(longest, rows), tables.unfinished(rows)]
    found += _sizes([row for row in read(results / "resolution.json") if row["dataset"] == name])
    found += _ranks([row for row in read(results / "rank.json") if row["dataset"] == name])
    return "\n\n".join([f"## {SUBJECTS.get(name, name)} (`{name}`)", *filter(None, found)]) if found else ""


def _removed(rows: Sequence[Row]) -> list[str]:
    """Parts that are in the code no more, each beside ours of its time with nothing else changed."""
    found = ["## Taken out of the model", REMOVED] if rows else []
    for name in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == name]
        lines = tables.trained(mine)
        title = f"`{name}`: {ERRORS['rel_l2']}"
        found += [tables.caption(lines, mine), tables.errors(lines, _splits(lines), "rel_l2", title)]
    return found


def _sizes(rows: Sequence[Row]) -> list[str]:
    """Errors on the same geometry in other elements."""
    if not rows:
        return []
    sizes, dataset = sorted({row["nodes"] for row in rows}), rows[0]["dataset"]
    seen = {
        tables.called(model, dataset): SETS[tables.trained_on(model, dataset)].sizes()
        for model in dict.fromkeys(row["model"] for row in rows)
    }
    found = [
        "### Elements of other sizes",
        f"Columns are nodes of a mesh; models were trained on {tables.shared(seen)}. {_source(rows)}",
    ]
    for metric, title in (("rel_l2", "relative L2"), ("common_rel_l2", "relative L2 at the nodes of training size")):
        body = _by_model(rows, "nodes", sizes, metric)
        change = [max(row["truth_change"] for row in rows if row["nodes"] == nodes) for nodes in sizes]
        body.append(["*change of the truth*", *(tables.spread([each]) for each in change)])
        found.append(tables.grid([title, *(f"{nodes:,}" for nodes in sizes)], body))
    return found


def _ranks(rows: Sequence[Row]) -> list[str]:
    """Errors with the first few latents, and how many of them a tolerance asks for."""
    if not rows:
        return []
    found = ["### Fewer latents", _source(rows)]
    fixed = [row for row in rows if row["tolerance"] is None]
    for split in dict.fromkeys(row["split"] for row in fixed):
        mine = [row for row in fixed if row["split"] == split]
        ranks = sorted({row["rank"] for row in mine})
        found.append(tables.grid([f"relative L2, {split}, at rank", *ranks], _by_model(mine, "rank", ranks, "rel_l2")))
    chosen = [row for row in rows if row["tolerance"] is not None]
    if wanted := sorted({row["tolerance"] for row in chosen}):
        body = _by_model(chosen, "tolerance", wanted, "rank", lambda ranks: f"{statistics.mean(ranks):g}")
        found.append(tables.grid(["rank for a tolerance of", *wanted], body))
        body = _by_model(chosen, "tolerance", wanted, "rel_l2")
        found.append(tables.grid(["relative L2 at this rank, validation", *wanted], body))
    return found


def _by_model(
    rows: Sequence[Row],
    column: str,
    values: Sequence[Any],
    metric: str,
    cell: Callable[[list[float]], str] = tables.spread,
) -> list[list[str]]:
    """Lines of a table: a model each, a column for each value of a key."""
    body = []
    for model in dict.fromkeys(row["model"] for row in rows):
        found = [[row[metric] for row in rows if (row["model"], row[column]) == (model, value)] for value in values]
        name = tables.called(model, rows[0]["dataset"])
        body.append([name, *(cell(each) if each else tables.NOTHING for each in found)])
    return body


def _source(rows: Sequence[Row]) -> str:
    """Caption of rows that were measured with trained models."""
    seeds = {
        tables.called(model, rows[0]["dataset"]): tables.counted(row for row in rows if row["model"] == model)
        for model in dict.fromkeys(row["model"] for row in rows)
    }
    counts = sorted({row["num_meshes"] for row in rows if "num_meshes" in row})
    meshes = f"Means over {' or '.join(map(str, counts))} meshes. " if counts else ""
    return f"{meshes}{tables.shared(seeds)}. {tables.origin(rows)}: `{rows[0]['command']}`."


def _splits(lines: Iterable[tables.Line]) -> list[str]:
    """Those that lines have, in the order of the data set."""
    found = list(dict.fromkeys(row["split"] for line in lines for row in line.rows))
    known = [split for study in SETS.values() for split in study.splits.values()]
    return sorted(found, key=lambda split: known.index(split) if split in known else len(known))
