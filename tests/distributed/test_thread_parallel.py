"""Threads that divide a micro-batch compute the same as one pass, up to rounding, and reproducibly, bit for bit."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from groundup.config.model import ModelConfig
from groundup.config.presets import FAST_PARTS, MODERN_PARTS
from groundup.config.resolved import ResolvedConfig
from groundup.config.schema import Config
from groundup.distributed.thread_parallel import ThreadParallelLoss, thread_parallel
from groundup.errors import TrainingError
from groundup.model import build_model
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.planning import policy
from groundup.planning.memory import Machine
from groundup.utils.device import autocast

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 20}
PARTS = {"gpt2": {}, "modern": MODERN_PARTS, "fast": FAST_PARTS}


def model(parts="gpt2") -> GPT:
    gpt = build_model(ModelConfig(**SMALL | PARTS[parts])).init_weights(torch.Generator().manual_seed(0))
    return use_fused_cpu_kernels(gpt)


def resolve(threads: int, *, device="cpu", **sections) -> ResolvedConfig:
    """Config resolved for a machine with unlimited memory."""
    machine = Machine(device, "fp32", memory=None, free_disk=10**12, threads=threads)
    return policy.resolve(Config.model_validate(sections), machine, 300)


def sequences(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(20, (n, 17), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:]


def learnt(loss_sum: nn.Module, *passes: int, precision="fp32") -> list[torch.Tensor]:
    """Losses of passes over these numbers of sequences, and the summed gradients."""
    losses = []
    loss_sum.train()
    for n in passes:
        with autocast(precision, torch.device("cpu"))():
            loss = loss_sum(*sequences(n)) / 3
        losses.append(loss.detach())
        loss.backward()
    return losses + [p.grad for p in loss_sum.parameters() if p.grad is not None]


def close(a: list[torch.Tensor], b: list[torch.Tensor], tolerance: float) -> bool:
    return all(torch.allclose(x, y, rtol=tolerance, atol=tolerance) for x, y in zip(a, b, strict=True))


@pytest.fixture
def used(monkeypatch):
    """Set of the threads that computed a loss."""
    found, forward = set(), NextTokenLoss.forward

    def watched(self, ids, targets):
        found.add((threading.current_thread().name.rsplit("_")[0], len(ids)))
        return forward(self, ids, targets)

    monkeypatch.setattr(NextTokenLoss, "forward", watched)
    return found


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
@pytest.mark.parametrize("n", [2, 3])
def test_loss_and_gradients_are_those_of_one_pass_up_to_rounding(n, parts, precision, tolerance, used):
    one = learnt(NextTokenLoss(model(parts)), 6, 6, precision=precision)
    assert used == {("MainThread", 6)}
    used.clear()
    together = learnt(thread_parallel(NextTokenLoss(model(parts)), n), 6, 6, precision=precision)
    assert used == {("microbatch", 6 // n)}
    assert close(together, one, tolerance)
    assert not close(together, [2 * x for x in one], tolerance)


def test_repeated_passes_are_bitwise_equal():
    first = learnt(thread_parallel(NextTokenLoss(model("modern")), 3), 12, 12, 12)
    for _ in range(5):
        again = learnt(thread_parallel(NextTokenLoss(model("modern")), 3), 12, 12, 12)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("rows", "names"),
    [(1, {"MainThread"}), (3, {"MainThread"}), (4, {"microbatch"}), (9, {"microbatch"})],
)
def test_sequences_that_cannot_be_divided_evenly_stay_in_one_pass(rows, names, used):
    learnt(thread_parallel(NextTokenLoss(model()), 2), rows)
    assert {name for name, _ in used} == names


def test_an_evaluation_is_divided_too():
    gpt = model("modern").eval()
    for loss_sum in (NextTokenLoss(gpt), NextTokenLoss(gpt, "per_sequence")):
        with torch.inference_mode():
            one, two = loss_sum(*sequences(6)), thread_parallel(loss_sum, 2)(*sequences(6))
        assert one.shape == two.shape
        assert torch.allclose(one, two, rtol=1e-5)
        assert not two.requires_grad


def test_with_one_thread_it_is_the_loss_itself():
    loss_sum = NextTokenLoss(model())
    assert thread_parallel(loss_sum, 1) is loss_sum


def test_parameters_and_mode_are_those_of_the_loss():
    loss_sum = NextTokenLoss(model())
    both = thread_parallel(loss_sum, 2)
    assert [id(p) for p in both.parameters()] == [id(p) for p in loss_sum.parameters()]
    both.eval()
    assert not loss_sum.gpt.training


def test_torchs_number_of_threads_is_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        both = ThreadParallelLoss(NextTokenLoss(model()), 2)
        learnt(both, 4)
        assert torch.get_num_threads() == 4
        assert [both._pool.submit(torch.get_num_threads).result() for _ in range(4)] == [2] * 4
        seen = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [4]
    finally:
        torch.set_num_threads(before)


def test_a_failure_in_one_thread_is_raised_and_the_next_pass_is_complete():
    both = thread_parallel(NextTokenLoss(model()), 2)
    ids, targets = sequences(4)
    with pytest.raises(IndexError):  # an invalid id in the second thread's part
        both(ids.index_fill(0, torch.tensor([3]), 1000), targets).backward()
    both.zero_grad()
    assert close(learnt(both, 4), learnt(NextTokenLoss(model()), 4), 1e-5)


def test_frozen_parameters_get_no_gradient():
    gpt = model("fast")
    frozen = [name for name, p in gpt.named_parameters() if not p.requires_grad]
    learnt(thread_parallel(NextTokenLoss(gpt), 2), 4)
    assert frozen
    assert all((p.grad is None) == (name in frozen) for name, p in gpt.named_parameters())


@pytest.mark.parametrize(
    ("threads", "rows", "n"),
    [
        (1, 8, 1), (2, 8, 2), (3, 9, 3), (4, 8, 4), (5, 8, 1), (6, 6, 3), (8, 8, 4), (64, 8, 4),
        (2, 1, 1), (2, 3, 1), (4, 2, 2), (4, 6, 2), (4, 7, 1), (4, 17, 4),
    ],
)  # fmt: skip
def test_the_number_of_threads_divides_all_threads_and_sequences(threads, rows, n):
    config = resolve(threads, model={"block_size": 128}, train={"batch_tokens": 128 * rows})
    assert (config.train.micro_batch_size, config.train.microbatch_threads) == (rows, n)
    choices = policy.thread_choices(config.model, config.train)
    assert policy.microbatch_threads(choices, rows, processes=2) == 1


@pytest.mark.parametrize(
    ("changed", "n"),
    [
        ({}, 2),
        ({"train": {"microbatch_threads": 1}}, 1),
        ({"train": {"device": "cuda"}}, 1),
        ({"train": {"compile": "on"}}, 1),
        ({"model": {"dropout": 0.1}}, 1),
        ({"model": {"dropout": 0.1}, "train": {"microbatch_threads": 2}}, 1),
    ],
)
def test_threads_divide_micro_batches_only_where_that_helps(changed, n):
    device = changed.get("train", {}).get("device", "cpu")
    assert resolve(2, device=device, **changed).train.microbatch_threads == n


@pytest.mark.parametrize(("threads", "rows"), [(1, 7), (2, 6), (3, 6), (4, 4), (8, 4)])
def test_a_default_micro_batch_has_equally_many_sequences_for_each_thread(threads, rows):
    model = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024}
    found = resolve(threads, model=model, train={"batch_tokens": 64 * 1024})
    assert found.train.micro_batch_size == rows


def test_a_batch_that_fits_stays_one_micro_batch():
    found = resolve(2, model={"block_size": 128}, train={"batch_tokens": 9 * 128})
    assert found.train.micro_batch_size == 9


class Uneven(nn.Module):
    """Loss in which sequences that start with 0 use one parameter and all others another one."""

    def __init__(self):
        super().__init__()
        self.zero, self.other = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def forward(self, ids, targets):
        zeros = int((ids[:, 0] == 0).sum())
        loss = ids.sum() * 0.0
        loss = loss + zeros * self.zero if zeros else loss
        return loss + (len(ids) - zeros) * self.other if zeros < len(ids) else loss


@pytest.mark.parametrize("first", [0, 1])
def test_a_parameter_used_by_one_thread_only_gets_its_gradient(first):
    loss_sum = Uneven()
    ids = torch.tensor([[first], [first], [1 - first], [1 - first]])
    learnt_from = thread_parallel(loss_sum, 2)(ids, ids)
    learnt_from.backward()
    assert (float(loss_sum.zero.grad), float(loss_sum.other.grad)) == (2.0, 2.0)


def test_a_failure_releases_the_memory_of_the_other_threads():
    held = []

    class Fails(nn.Module):
        def forward(self, ids, targets):
            loss = self.weight * ids.sum()
            if int(ids[0, 0]):
                raise RuntimeError("out of memory")
            held.append(weakref.ref(loss))
            return loss

    loss_sum = Fails()
    loss_sum.weight = nn.Parameter(torch.ones(()))
    both = thread_parallel(loss_sum, 2)
    gc.collect()
    gc.disable()
    try:
        try:
            both(torch.tensor([[0], [1]]), torch.tensor([[0], [1]]))
        except RuntimeError as error:
            message = str(error)
        assert message == "out of memory"
        both._pool.submit(int).result()  # threads release their last work when they start the next
        both._pool.submit(int).result()
        assert [reference() for reference in held] == [None]
    finally:
        gc.enable()


def test_if_no_thread_can_be_started_it_is_an_error_and_none_waits(monkeypatch):
    start, started = threading.Thread.start, []

    def second_fails(self):
        started.append(self)
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    before = torch.get_num_threads()
    with pytest.raises(TrainingError, match=r"can't start new thread, of 3; give --train\.microbatch_threads 1"):
        thread_parallel(NextTokenLoss(model()), 3)
    assert torch.get_num_threads() == before
    started[0].join(10)
    assert not started[0].is_alive()
