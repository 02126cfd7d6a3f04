"""The C++ kernels against the torch code that defines them."""

import pytest
import torch

from groundup.kernels import cpu_build, elementwise

B, T, H, D = 3, 7, 2, 16

compiles = pytest.mark.skipif(cpu_build.library() is None, reason="no C++ compiler that works here")


def angles() -> tuple[torch.Tensor, torch.Tensor]:
    each = torch.outer(torch.arange(T).float(), 10_000.0 ** -(torch.arange(0, D, 2) / D))
    return torch.cat([each.cos(), each.cos()], 1), torch.cat([each.sin(), -each.sin()], 1)


def weights(*shape: int) -> torch.Tensor:
    return 1 + 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(8))


KERNELS = {
    "rms_norm": (lambda x: (elementwise.rms_norm(x, 1e-6),), (B, T, H * D)),
    "scaled_rms_norm": (lambda x: (elementwise.scaled_rms_norm(x, weights(H * D), 1e-6),), (B, T, H * D)),
    "swiglu": (lambda x: (elementwise.swiglu(4 * x[..., :5], x[..., 5:].contiguous()),), (B, T, 10)),
    "relu_squared": (lambda x: (elementwise.relu_squared(x),), (B, T, 5)),
    "gelu_tanh": (lambda x: (elementwise.gelu_tanh(8 * x),), (B, T, 5)),
    "qk_norm_rotary": (lambda x: elementwise.qk_norm_rotary(x, weights(2, D), *angles(), H, 1e-6), (B, T, 3 * H * D)),
    "rotary_qk_norm": (lambda x: elementwise.rotary_qk_norm(x, *angles(), H, 1e-6), (B, T, 3 * H * D)),
}


def results(name: str, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs, and the gradient of their sum with weights that differ everywhere."""
    function, _ = KERNELS[name]
    x = x.clone().requires_grad_()
    outputs = function(x)
    weights = [torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype) for y in outputs]
    torch.stack([(y * w).float().sum() for y, w in zip(outputs, weights, strict=True)]).sum().backward()
    return [y.detach() for y in outputs] + [x.grad]


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compute_what_torch_computes(name, dtype, monkeypatch):
    x = torch.randn(KERNELS[name][1], generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = results(name, x)
    monkeypatch.setattr(elementwise, "library", lambda: None)
    exact = 1e-5 if name == "gelu_tanh" else 2e-6  # for numbers up to 30
    bound = exact if dtype == torch.float32 else 0.04  # bf16: torch rounds intermediate results
    for mine, plain in zip(ours, results(name, x), strict=True):
        assert mine.dtype == plain.dtype
        torch.testing.assert_close(mine, plain, atol=bound, rtol=bound)


@compiles
@pytest.mark.parametrize("name", KERNELS)
def test_gradients_match_finite_differences(name):
    x = torch.randn(KERNELS[name][1], generator=torch.Generator().manual_seed(2))
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))

    def score(step: float) -> torch.Tensor:
        with torch.no_grad():
            outputs = KERNELS[name][0](x + step * way)
        weights = [torch.randn(y.shape, generator=torch.Generator().manual_seed(9)) for y in outputs]
        return torch.stack([(y * w).double().sum() for y, w in zip(outputs, weights, strict=True)]).sum()

    slope = (score(1e-3) - score(-1e-3)) / 2e-3
    torch.testing.assert_close((results(name, x)[-1] * way).double().sum(), slope, rtol=2e-3, atol=2e-2)


@compiles
@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    before = torch.get_num_threads()
    x = torch.randn(64, 200, generator=torch.Generator().manual_seed(1))
    try:
        torch.set_num_threads(threads)
        y = elementwise.rms_norm(x, 1e-6)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(row, elementwise.rms_norm(one[None], 1e-6)[0]) for row, one in zip(y, x, strict=True))


@compiles
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_of_weights_do_not_depend_on_the_number_of_threads(threads):
    before = torch.get_num_threads()
    x = torch.randn(2, 150, 3 * H * D, generator=torch.Generator().manual_seed(1))
    cos, sin = (torch.ones(150, D), torch.zeros(150, D))

    def gradients() -> list[torch.Tensor]:
        w, pair = weights(x.size(-1)).requires_grad_(), weights(2, D).requires_grad_()
        q, k, _ = elementwise.qk_norm_rotary(x, pair, cos, sin, H, 1e-6)
        loss = elementwise.scaled_rms_norm(x, w, 1e-6).exp().sum() + (q * k).exp().sum()
        return list(torch.autograd.grad(loss, [w, pair]))

    try:
        torch.set_num_threads(threads)
        found = gradients()
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(found, gradients(), strict=True))
    finally:
        torch.set_num_threads(before)


@compiles
def test_swiglu_is_linear_or_zero_for_large_gates():
    gate = torch.tensor([-1e10, -1e3, -90, 90, 1e3, 1e10], requires_grad=True)
    y = elementwise.swiglu(gate, torch.full((6,), 2.0))
    y.sum().backward()
    torch.testing.assert_close(y, torch.tensor([0.0, 0, 0, 180, 2e3, 2e10]))
    torch.testing.assert_close(gate.grad, torch.tensor([0.0, 0, 0, 2, 2, 2]))
    assert elementwise.swiglu(torch.tensor([torch.nan]), torch.ones(1)).isnan()


@compiles
def test_gelu_is_as_exact_as_torch(monkeypatch):
    x = torch.linspace(-30, 30, 100_001)
    exact = results("gelu_tanh", x.double())
    ours = results("gelu_tanh", x)
    monkeypatch.setattr(elementwise, "library", lambda: None)
    for mine, plain, right in zip(ours, results("gelu_tanh", x), exact, strict=True):
        off, torchs = (float((found.double() - right).abs().max()) for found in (mine, plain))
        assert off <= 1.5 * torchs


@compiles
def test_gelu_is_linear_or_zero_for_large_inputs():
    x = torch.tensor([-1e10, -1e6, -1e3, 1e3, 1e6, 1e10], requires_grad=True)
    y = elementwise.gelu_tanh(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(y, torch.tensor([0.0, 0, 0, 1e3, 1e6, 1e10]))
    bad = torch.tensor([torch.nan], requires_grad=True)
    elementwise.gelu_tanh(bad).backward()
    assert bad.grad.isnan()


@pytest.mark.parametrize(
    "function", [elementwise.gelu_tanh, elementwise.relu_squared, lambda x: elementwise.swiglu(x, 2 * x + 1)]
)
def test_second_derivatives_and_vmap(function):
    x = torch.linspace(-2, 2, 6)
    assert torch.autograd.gradgradcheck(function, x.double().requires_grad_())
    once = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(once).sum(), once, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), once)
    exact = x.double().requires_grad_()
    (right,) = torch.autograd.grad(torch.autograd.grad(function(exact).sum(), exact, create_graph=True)[0].sum(), exact)
    torch.testing.assert_close(bend.double(), right, atol=1e-5, rtol=1e-5)
    each = torch.func.vmap(torch.func.grad(lambda one: function(one)))(x)
    torch.testing.assert_close(each, slope.detach(), atol=1e-5, rtol=1e-5)


@compiles
def test_nan_and_inf_propagate():
    x = torch.ones(2, 8)
    x[0, 3] = torch.nan
    assert elementwise.rms_norm(x, 1e-6)[0].isnan().all()
    assert torch.isnan(elementwise.rms_norm(x, 1e-6)[1]).sum() == 0
    assert elementwise.relu_squared(x)[0, 3].isnan()
    assert elementwise.gelu_tanh(x)[0, 3].isnan()
    bad = torch.full((3,), torch.inf, dtype=torch.bfloat16)
    assert elementwise.relu_squared(bad).isinf().all()


@compiles
def test_unsupported_tensors_fall_back_to_torch():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(elementwise.relu_squared(x.T), x.T.clamp(min=0).square())
    assert elementwise.rms_norm(x.double(), 1e-6).dtype == torch.float64


@compiles
def test_the_library_leaves_denormals_of_torch_alone():
    assert cpu_build.library() is not None
    assert (torch.tensor([1e-40]) * 1).item() > 0
