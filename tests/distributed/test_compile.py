"""torch.compile: backends are tried in turn, and a failure never ends a run."""

import signal

import pytest
import torch
import torch._dynamo
from torch import nn

from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.distributed.compile import MAX_REASON_CHARS, compile_loss, parse_compile
from groundup.errors import ConfigError, TrainingError
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.run.resolve import validate_config
from groundup.training.signals import StoppedAtOnce, StopSignals

IDS = torch.arange(16).view(2, 8) % 10


@pytest.fixture(autouse=True)
def _no_compiled_code():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def build(dropout=0.0) -> NextTokenLoss:
    gpt = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=10, dropout=dropout))
    return NextTokenLoss(gpt.init_weights(torch.Generator().manual_seed(0)))


def passes(loss_sum: nn.Module) -> None:
    loss_sum.train()
    loss_sum(IDS, IDS).backward()


def failing(monkeypatch, error: BaseException, *backends: str) -> None:
    """Make these backends raise `error` when they compile."""

    def fail(graph, inputs, **options):
        raise error

    for backend in backends:
        monkeypatch.setitem(torch._dynamo.backends.registry._COMPILER_FNS, backend, fail)
    if "inductor" in backends:  # which torch.compile calls in another way
        monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)


def graphs() -> int:
    """Number of graphs compiled since the last reset."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("wanted", "attempts"),
    [
        ("off", []),
        ("on", ["inductor"]),
        ("on,aot_eager", ["inductor", "aot_eager"]),
        ("max-autotune, reduce-overhead,off,eager", ["max-autotune", "reduce-overhead"]),
    ],
)
def test_backends_are_separated_by_commas(wanted, attempts):
    assert parse_compile(wanted) == attempts


@pytest.mark.parametrize("wanted", ["fast", "on,quick", "", "on,"])
def test_an_unknown_backend_is_refused_with_the_known_ones(wanted):
    with pytest.raises(ConfigError, match=r"train.compile: '\w*' is not one of off, on, reduce-overhead, .*eager"):
        compile_loss(build(), wanted, pytest.fail, passes)


def test_an_unknown_backend_is_refused_before_a_run_starts():
    config = Config.model_validate({"train": {"compile": "quick", "device": "cpu", "precision": "fp32"}})
    with pytest.raises(ConfigError, match="'quick' is not one of"):
        validate_config(config)


def test_modes_and_backends_reach_torch(monkeypatch):
    requests = []
    monkeypatch.setattr(
        torch, "compile", lambda module, **how: requests.append((how["mode"], how["backend"])) or module
    )
    for wanted in ("on", "max-autotune", "cudagraphs"):
        compile_loss(build(), wanted, pytest.fail, passes)
    assert requests == [(None, "inductor"), ("max-autotune", "inductor"), (None, "cudagraphs")]


def test_off_returns_the_module_unchanged():
    loss_sum = build()
    assert compile_loss(loss_sum, "off", pytest.fail, lambda _: pytest.fail("tried")) is loss_sum


def gradients(module: nn.Module) -> list[torch.Tensor]:
    module.zero_grad()
    module(IDS, IDS).backward()
    return [p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize("backend", ["aot_eager", "eager", pytest.param("on", marks=pytest.mark.slow)])
def test_the_compiled_model_computes_the_same(backend):
    loss_sum = build()
    plain, names, tried = gradients(loss_sum), list(loss_sum.state_dict()), []
    found = compile_loss(loss_sum, backend, pytest.fail, lambda module: tried.append(passes(module)))
    assert found is not loss_sum
    assert len(tried) == 1
    assert all(p.grad is None for p in loss_sum.parameters())
    assert [id(p) for p in found.parameters()] == [id(p) for p in loss_sum.parameters()]
    assert list(loss_sum.state_dict()) == names
    for a, b in zip(gradients(found), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_mode_is_shared_and_evaluations_of_other_shapes_compile_nothing():
    loss_sum = build(dropout=0.5)
    found = compile_loss(loss_sum, "eager", pytest.fail, passes)
    before, losses = graphs(), set()
    for rows in (1, 2, 1, 2):
        found.train()
        assert loss_sum.gpt.drop.training
        torch.manual_seed(0)
        losses.add(found(IDS, IDS).item())
        loss_sum.eval()
        with torch.inference_mode():
            loss_sum(IDS[:rows, : 3 + rows], IDS[:rows, : 3 + rows])
            assert loss_sum(IDS, IDS).item() not in losses
    assert len(losses) == 1
    assert graphs() == before == 1


def test_many_models_in_one_process_are_each_compiled():
    with torch._dynamo.config.patch(recompile_limit=2):
        kept = []
        for n in range(1, 5):
            kept.append(compile_loss(build(), "eager", pytest.fail, passes))
            assert graphs() == n


def test_each_failure_is_one_message_and_the_next_backend_is_tried(monkeypatch):
    failing(monkeypatch, ValueError("\n  no compiler here\nat line 3"), "inductor", "cudagraphs")
    messages = []
    found = compile_loss(build(), "on,cudagraphs,aot_eager", messages.append, passes)
    assert isinstance(found, torch._dynamo.OptimizedModule)
    assert messages == [
        "compile: inductor failed (ValueError: no compiler here); trying cudagraphs",
        "compile: cudagraphs failed (ValueError: no compiler here); trying aot_eager",
    ]


def test_if_every_backend_fails_the_loss_stays_uncompiled(monkeypatch):
    failing(monkeypatch, AssertionError(), "aot_eager")
    loss_sum, messages = build(), []
    assert compile_loss(loss_sum, "aot_eager", messages.append, passes) is loss_sum
    assert messages == ["compile: aot_eager failed (AssertionError); training without"]
    passes(loss_sum)


def test_a_failure_in_the_backward_pass_counts_and_leaves_no_gradient():
    loss_sum, messages = build(), []

    def half(module):
        passes(module)
        raise NotImplementedError("in the second piece" + "!" * 1000)

    assert compile_loss(loss_sum, "eager", messages.append, half) is loss_sum
    assert all(p.grad is None for p in loss_sum.parameters())
    assert "NotImplementedError: in the second piece!" in messages[0]
    assert len(messages[0]) < MAX_REASON_CHARS + 60


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), torch.OutOfMemoryError("CUDA out of memory"), TrainingError("ours")]
)
def test_signals_and_out_of_memory_are_raised(error):
    def interrupted(module):
        raise error

    with pytest.raises(type(error)):
        compile_loss(build(), "eager", pytest.fail, interrupted)


def test_what_c_code_raises_in_place_of_a_signal_is_raised():
    def interrupted(module):
        try:
            signal.raise_signal(signal.SIGTERM)
        except StoppedAtOnce:
            raise ValueError("a shape") from None

    with StopSignals() as stop, pytest.raises(StoppedAtOnce), stop.at_once():
        compile_loss(build(), "eager", pytest.fail, interrupted)


def test_a_signal_while_compiling_is_raised(monkeypatch):
    failing(monkeypatch, KeyboardInterrupt(), "aot_eager")
    with pytest.raises(KeyboardInterrupt):
        compile_loss(build(), "aot_eager", pytest.fail, passes)
