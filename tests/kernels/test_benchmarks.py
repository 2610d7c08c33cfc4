"""The benchmarks of causal FLARE: what they compare with, that one failure is not the end, that the scripts run."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import flare_kernels as fk

SPEED = {"command", "commit", "date", "machine", "seed", "case", "impl", "B", "N", "H", "M", "D", "dtype"}


@pytest.fixture(autouse=True)
def _scripts(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "kernels" / "benchmarks")


def run(repository, script, out):
    """Rows of a script on a small problem."""
    done = subprocess.run(
        [sys.executable, repository / "kernels/benchmarks" / f"{script}.py", "--quick", "--out", out],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("script", ["causal", "block_causal"])
def test_speed(repository, script, tmp_path):
    rows = run(repository, script, tmp_path / "rows.json")
    assert {row["direction"] for row in rows} == {"fwd", "fwd+bwd"}
    for row in rows:
        assert row.keys() >= SPEED | {"ms", "ms_min", "ms_max", "peak_mib"}, row
    assert all(row["bound_ms"] > 0 for row in rows if row["impl"] not in ("sdpa", "sdpa_masked"))


def test_accuracy(repository, tmp_path):
    rows = run(repository, "causal_accuracy", tmp_path / "rows.json")
    assert all(row["error"] <= row["error_budget"] and row["bitwise_equal"] for row in rows if "quantity" in row)
    assert [row["not_finite"] for row in rows if "draws" in row] == [0]


def test_gated_linear_attention_is_causal_flare():
    import gated

    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((2, 5, 4), (40, 2, 4), (40, 2, 6))
    )
    queries, keys, gates = gated.gated(q, k, 0.9)
    z, y = torch.zeros(2, 5, 6, dtype=torch.float64), []
    for t in range(40):
        z = gates[t].exp()[..., None] * z + keys[t][..., None] * v[t][:, None]
        y.append(torch.einsum("hm,hmd->hd", queries[t], z))
    torch.testing.assert_close(torch.stack(y), fk.causal_mixer(q, k, v, scale=0.9, impl="reference"))


def test_mask_of_steps():
    import block_causal

    blocks = block_causal.whole_blocks(3, 256, torch.device("cpu"))
    step = torch.arange(6) // 2
    assert torch.equal(blocks.to_dense()[0, 0].bool(), step[:, None] >= step[None, :])
    assert blocks.kv_num_blocks.sum() == 0
    with pytest.raises(ValueError, match="`points` must be divisible by 128, got 100"):
        block_causal.whole_blocks(3, 100, torch.device("cpu"))


def test_attention_of_steps():
    import block_causal

    size = {"H": 2, "N": 512, "D": 16, "T": 2, "points": 256}
    work, x = block_causal.attending("sdpa_masked", size, torch.float32, torch.device("cpu"))
    first = F.scaled_dot_product_attention(*(t[:, :, :256] for t in x))
    torch.testing.assert_close(work(), torch.cat([first, F.scaled_dot_product_attention(*x)[:, :, 256:]], 2))


def test_what_fails_leaves_a_row(tmp_path):
    import trials

    leaf = torch.ones(3, requires_grad=True)
    device = torch.device("cpu")

    def broken():
        raise RuntimeError("no room\nat all")

    (row,) = trials.timings(broken, [leaf], device, 3)
    assert row == {"direction": "fwd", "graph": False, "failed": "RuntimeError: no room"}
    forward, both = trials.timings(lambda: leaf.detach() * 2, [leaf], device, 3)
    assert "ms" in forward
    assert "does not require grad" in both["failed"]

    out = tmp_path / "rows.json"
    for value in (1, 2):
        sheet = trials.Sheet(out, {"machine": "this"}, fresh=False)
        sheet.begin({"case": "causal", "impl": "ours"})
        sheet.add({"case": "causal", "impl": "ours", "ms": value})
        sheet.begin({"case": "causal", "impl": "fa2"})
        sheet.add({"case": "causal", "impl": "fa2"} | row)
    assert [(row["impl"], row.get("ms")) for row in json.loads(out.read_text())] == [("ours", 2), ("fa2", None)]


def test_a_wrong_result_is_not_timed():
    import trials

    x = {name: torch.randn(8, 2, 4) for name in "qkv"}

    def call(x, impl):
        return (x["q"] * x["k"]).sum(-1, keepdim=True) * x["v"] * (1.01 if impl == "wrong" else 1)

    _, said = trials.checked(call, "wrong", "plain", x, torch.float32)
    assert said.startswith("outside of the error budget: y ")
    columns, said = trials.checked(call, "plain", "plain", x, torch.float32)
    assert said is None
    assert columns["error"] <= columns["error_budget"]


def test_tables(tmp_path, monkeypatch):
    import table

    monkeypatch.setattr(table, "HERE", tmp_path)
    assert [*table.causal()] == [*table.block_causal()] == [*table.causal_accuracy()] == [table.NOT_YET]
    base = {"case": "causal", "N": 2048, "direction": "fwd", "machine": "a GPU", "peak_mib": 4.0, "bound_ms": 0.1}
    ours = base | {"impl": "ours", "M": 64, "scores": "std 1", "bound_by": "bytes"}
    fa2 = base | {"impl": "fa2", "M": None, "scores": None}
    rows = [
        ours | {"graph": False, "ms": 0.4}, ours | {"graph": True, "ms": 0.2, "peak_mib": None},
        fa2 | {"graph": False, "ms": 0.8}, fa2 | {"graph": True, "ms": 0.8},
        ours | {"impl": "fla", "failed": "left out", "direction": None},
    ]  # fmt: skip
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "causal_gpu.json").write_text(json.dumps(rows))
    lines = [*table.causal()]
    assert "| 64 | 2,048 | std 1 | fwd | 0.4 | 0.2 | 0.1, bytes | 50% | 4 | 2.00 | 0.8 (2×, 4×) |" in lines
    assert "- fla, M=64, N=2048, scores=std 1: left out" in lines


def test_spans_are_cut_once():
    from flare_kernels.causal.spans import cut

    segments = fk.Segments.from_lengths([200, 0, 3])
    groups, order, spans = cut(segments, 64, 2)
    assert (groups.lengths, order.lengths, spans.lengths) == ((128, 72, 3), (2, 0, 1), (2, 2, 1))
    assert cut(segments, 64, 2)[0] is groups
    assert cut(segments, 32, 2)[0].lengths == (64, 64, 64, 8, 3)
