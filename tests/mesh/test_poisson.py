"""One Poisson system: parts of a mesh that nothing holds, nothing left to solve, and every solver on every device."""

import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid
from mesh.rings import perforated_cell

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh
from flare_connect.mesh.harmonic import cell_potentials, harmonic_extension
from flare_connect.mesh.poisson import PoissonSystem


def side(mesh, axis, end):
    """Nodes of a side of a box; end 0 is low, 1 is high."""
    along = mesh.pos[:, axis]
    return (along == (along.amax() if end else along.amin())).nonzero()[:, 0]


def test_each_part_is_a_problem_of_its_own():
    """A held part, a loose one with a source, one with neither, an orphan, parts that only a flat cell joins."""
    one = grid("triangle", (6, 5))
    count = one.num_nodes
    cells = torch.cat([one.cells["triangle"] + i * count for i in range(3)])
    bridge = torch.tensor([[count - 1, count, 3 * count]])  # its third node lies between the first two
    between = (one.pos[-1:] + one.pos[:1] + torch.tensor([[9.0, 0.0]]).double()) / 2
    pos = torch.cat([one.pos, one.pos + torch.tensor([9.0, 0.0]), one.pos + 20, between])
    mesh = Mesh.from_arrays(pos, {"triangle": torch.cat([cells, bridge])})
    source = torch.zeros(mesh.num_nodes).double()
    source[count : 2 * count] = one.pos[:, 0]
    found = harmonic_extension(mesh, {side(one, 0, 0): 1.0}, {side(one, 0, 1): 2.0}, source=source)
    torch.testing.assert_close(found[:count, 0], 1 + 2 * one.pos[:, 0], rtol=0, atol=1e-10)
    alone = harmonic_extension(one, source=one.pos[:, 0])
    torch.testing.assert_close(found[count : 2 * count], alone, rtol=0, atol=1e-10)
    assert alone.abs().max() > 1
    assert not found[2 * count :].any()


@pytest.mark.parametrize("solver", ["polynomial", "multigrid"])
@pytest.mark.parametrize("case", ["held", "loose", "cell", "solid"])
def test_the_iterative_solvers_agree_with_the_direct_one(case, solver, device):
    if solver == "multigrid":
        pytest.importorskip("pyamg")
    here = {
        "held": lambda: plate(20),
        "loose": lambda: plate(20),
        "cell": lambda: perforated_cell(8, 0.3),
        "solid": lambda: grid("tetra", (9, 8, 7)),
    }[case]()
    pairs = here.periodic_pairs
    there = Mesh.from_arrays(here.pos, here.cells, sets=here.sets, periodic_pairs=pairs).to(device)

    def solve(mesh, name):
        if case == "cell":
            return cell_potentials(mesh, solver=name)
        source = mesh.pos.sin() * torch.tensor([1.0, 0.0, 2.0]).to(mesh.pos)[: mesh.dim]  # a column of nothing
        held = {} if case == "loose" else {side(mesh, 0, 0): 0.0}
        return harmonic_extension(mesh, held, source=source, solver=name)

    direct = solve(here, "direct")
    found = solve(there, solver)
    assert found.device == there.pos.device
    torch.testing.assert_close(found.cpu(), direct, rtol=0, atol=1e-7 * float(direct.abs().max()))
    torch.testing.assert_close(solve(there, "auto").cpu(), direct, rtol=0, atol=1e-7 * float(direct.abs().max()))


def test_everything_may_be_fixed():
    mesh = plate(4)
    values = torch.randn(mesh.num_nodes, 3, dtype=torch.float64)
    assert torch.equal(harmonic_extension(mesh, {torch.arange(mesh.num_nodes): values}), values)


def test_a_solver_that_is_none_is_named():
    system = PoissonSystem(plate(4))
    nodes, values = torch.tensor([0]), torch.zeros(1, 1).double()
    with pytest.raises(MeshError, match="`solver` must be one of auto, direct, polynomial, multigrid, got 'cholesky'"):
        system.solve(torch.zeros(len(plate(4).pos), 1).double(), nodes, values, "cholesky")
