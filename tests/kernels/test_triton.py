import pytest
from kernels.triton_cases import *
CASES = {
    "ragged": Case(),
    "weights": Case(log_weights=True),
    "per mesh": Case(per_mesh=True),
    "anchored": Case(num_scales=1, one_cost=True),
    "two": Case(num_scales=2, log_weights=True),
    "blocks": Case(latents=130, heads=1, num_scales=2, log_weights=True, lengths=(9,0,20)),
    "two chunks": Case(lengths=(150,), latents=16, dim=16, value_dim=16),
    "ragged chunks": Case(lengths=(2,1,300), latents=31, dim=12, value_dim=60,heads=1),
    "std40": Case(std=40.),
}
@pytest.mark.parametrize("make", CALLS)
@pytest.mark.parametrize(("case", "device", "dtype"), runs(CASES))
def test_within_budget(make, case, device, dtype):
    call, x = problem(make, case, device, dtype)
    compare(call, x, dtype)
