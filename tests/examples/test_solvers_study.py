"""The study of the solvers: rows of what is asked, and the table that they make."""

import pytest
from fixtures_studies import modules_of


@pytest.fixture(scope="module")
def study(repository):
    """The modules, by name."""
    with modules_of(repository / "examples/studies", ("common", "solvers"), ("rows", "cases", "run")) as module:
        yield module


def test_rows_and_tables_are_of_the_solvers_asked_for(study):
    run = study("run")
    found = run.measured(["burgers", "darcy"], sizes=2)
    assert {(row["kind"], row["solver"]) for row in found} == {
        (kind, solver) for kind in ("convergence", "kept") for solver in ("burgers", "darcy")
    }
    text = run.page(found)
    darcy = next(line for line in text.splitlines() if line.startswith("| darcy | a made solution"))
    assert "cells a side: 16, 32 | largest |" in darcy
    assert darcy.endswith("| 2.0 |")
    assert "sorption" not in text
    assert text.count("| burgers |") == 2


def test_every_solver_converges_and_the_committed_rows_say_so(study, repository):
    """Each problem is in the rows, with its sizes, and what is kept is kept to rounding."""
    run, cases = study("run"), study("cases")
    found = study("rows").read(repository / "examples/studies/solvers/results/solvers.json")
    for case in cases.CONVERGENCE:
        mine = [row for row in found if row["kind"] == "convergence" and row["problem"] == case.problem]
        assert [row["size"] for row in mine] == list(case.sizes), case.problem
        assert mine[-1]["error"] < max(mine[0]["error"], run.LEAST)
    kept = [row for row in found if row["kind"] == "kept"]
    assert len(kept) == len(cases.KEPT)
    assert all(row["drift"] < 1e-10 for row in kept)
    tables = (repository / "examples/studies/solvers/results/tables.md").read_text()
    assert tables.strip() == run.page(found).strip()
