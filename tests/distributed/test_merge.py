"""Two processes that hold parts of the points get what one process with all points gets, gradients included."""

import subprocess
import sys

import pytest
import torch

import flare_kernels as fk
from flare_connect.distributed import merge_across_ranks

# Rank 1 holds no points of mesh 0, so an empty part is merged too.
WORKER = """
import sys, torch, torch.distributed as dist, flare_kernels as fk
from flare_connect.distributed import merge_across_ranks

rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
data = torch.load(out + "/data.pt", weights_only=True)
rows, ptr = data["rows"][rank], data["ptr"][rank]
q = data["q"].requires_grad_()
k, v, w = (data[name][rows].requires_grad_() for name in "kvw")
z, lse = fk.gather(q, k, v, scale=1.0, ptr=ptr, return_lse=True)
z, lse = merge_across_ranks(z, lse)
y = fk.scatter(q, k, z, scale=1.0, ptr=ptr)
((y * w).sum() + 0.1 * lse.sum() / 2).backward()
torch.save({"y": y.detach(), "q": q.grad, "k": k.grad, "v": v.grad}, f"{out}/rank{rank}.pt")
dist.destroy_process_group()
"""


def test_two_ranks_equal_one(tmp_path):
    n, lengths = 50, [20, 30]
    q, k, v, w = (torch.randn(*s, dtype=torch.float64) for s in [(2, 4, 3), (n, 2, 3), (n, 2, 5), (n, 2, 5)])
    rows = [torch.cat([torch.arange(20), torch.arange(20, 33)]), torch.arange(33, 50)]
    ptr = [torch.tensor([0, 20, 33]), torch.tensor([0, 0, 17])]
    torch.save({"q": q, "k": k, "v": v, "w": w, "rows": rows, "ptr": ptr}, tmp_path / "data.pt")
    command = [sys.executable, "-c", WORKER]
    ranks = [subprocess.Popen([*command, str(r), str(tmp_path / "store"), str(tmp_path)]) for r in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]

    q, k, v = (t.requires_grad_() for t in (q, k, v))
    z, lse = fk.gather(q, k, v, scale=1.0, ptr=torch.tensor([0, *torch.tensor(lengths).cumsum(0)]), return_lse=True)
    y = fk.scatter(q, k, z, scale=1.0, ptr=torch.tensor([0, 20, 50]))
    ((y * w).sum() + 0.1 * lse.sum()).backward()
    results = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    for name, truth in (("y", y.detach()), ("k", k.grad), ("v", v.grad)):
        for rank, result in enumerate(results):
            torch.testing.assert_close(result[name], truth[rows[rank]], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(results[0]["q"] + results[1]["q"], q.grad, rtol=1e-10, atol=1e-12)


def test_without_process_group_the_error_says_so():
    with pytest.raises(RuntimeError, match="init_process_group"):
        merge_across_ranks(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1))
