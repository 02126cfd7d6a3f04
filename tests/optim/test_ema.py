"""The moving average follows its formula and leaves the weights unchanged."""

import pytest
import torch
from torch import nn

from groundup.config.model import ModelConfig
from groundup.errors import CheckpointError
from groundup.model.gpt import GPT
from groundup.optim.ema import EMA, NoEMA

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}


@pytest.fixture
def model():
    return GPT(ModelConfig(**SHAPE)).init_weights(torch.Generator().manual_seed(0))


def stir(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator))


def interrupt(model: nn.Module) -> None:
    stir(model, 2)
    raise KeyboardInterrupt


def bits(model: nn.Module) -> list[bytes]:
    return [p.detach().contiguous().view(torch.uint8).numpy().tobytes() for p in model.parameters()]


def test_first_updates_weigh_more_and_later_ones_follow_the_decay():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    average = EMA(layer, decay=0.25)
    nn.init.constant_(layer.weight, 2.0)
    expected = 1.0
    for keep in (2 / 11, 0.25, 0.25):  # the second would be 3 / 12, the third 4 / 13
        average.update()
        expected = keep * expected + (1 - keep) * 2.0
        assert average.tensors()["weight"].item() == pytest.approx(expected)
    assert average.updates == 3


def test_averages_converge_to_the_decayed_sum_of_all_weights():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)  # some others give a sum near 0, whose rounding error is relatively large
    average = EMA(layer, decay=0.9)
    average.load(average.tensors(), updates=10**6)
    expected = layer.weight.item()
    for value in (3.0, -1.0, 4.0):
        nn.init.constant_(layer.weight, value)
        average.update()
        expected = 0.9 * expected + 0.1 * value
    assert average.tensors()["weight"].item() == pytest.approx(expected)


def test_swapped_in_restores_the_weights_bit_for_bit(model):
    average = EMA(model, decay=0.9)
    stir(model, 1)
    average.update()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")  # also NaN, which is not equal to itself
    before, ids = bits(model), torch.arange(8)[None]
    addresses = [p.data_ptr() for p in model.parameters()]
    with average.swapped_in():
        for name, p in model.named_parameters():
            assert torch.equal(p, average.tensors()[name])
        model(ids)
    assert bits(model) == before
    assert [p.data_ptr() for p in model.parameters()] == addresses  # compiled code for them stays valid


def test_an_exception_restores_the_weights(model):
    average = EMA(model, decay=0.9)
    stir(model, 1)
    before, averages = bits(model), {name: t.clone() for name, t in average.tensors().items()}
    with pytest.raises(KeyboardInterrupt), average.swapped_in():
        interrupt(model)
    assert bits(model) == before
    assert all(torch.equal(t, averages[name]) for name, t in average.tensors().items())


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_weight_is_kept_once(tied):
    model = GPT(ModelConfig(**SHAPE, tie_embeddings=tied)).init_weights(torch.Generator().manual_seed(0))
    average = EMA(model, decay=0.9)
    assert average.tensors().keys() == {name for name, _ in model.named_parameters()}
    assert ("lm_head.weight" in average.tensors()) is not tied
    stir(model, 1)
    average.update()
    with average.swapped_in():
        assert (model.lm_head.weight is model.wte.weight) is tied


def test_bf16_weights_are_averaged_in_fp32_and_restored(model):
    average = EMA(model.bfloat16(), decay=0.9)
    before = {name: t.clone() for name, t in average.tensors().items()}
    stir(model, 1)
    average.update()
    weights, averages = bits(model), {name: t.clone() for name, t in average.tensors().items()}
    for name, p in model.named_parameters():
        assert averages[name].dtype == torch.float32
        torch.testing.assert_close(averages[name], before[name].lerp(p.detach().float(), 1 - 2 / 11))
    with average.swapped_in():
        pass
    assert bits(model) == weights
    assert all(torch.equal(t, averages[name]) for name, t in average.tensors().items())


def test_averages_continue_after_loading(model):
    first = EMA(model, decay=0.9)
    stir(model, 1)
    first.update()
    second = EMA(model, decay=0.9)
    second.load({name: t.clone() for name, t in first.tensors().items()}, first.updates)
    stir(model, 2)
    first.update()
    second.update()
    assert all(torch.equal(t, second.tensors()[name]) for name, t in first.tensors().items())
    assert first.updates == second.updates == 2


def test_loaded_tensors_are_copied(model):
    average = EMA(model, decay=0.9)
    kept = {name: t.clone() for name, t in average.tensors().items()}
    same = {name: t.clone() for name, t in kept.items()}
    average.load(kept, 1)
    stir(model, 1)
    average.update()
    assert all(torch.equal(t, same[name]) for name, t in kept.items())


def test_another_models_averages_are_refused(model):
    average = EMA(model, decay=0.9)
    kept = average.tensors()
    with pytest.raises(CheckpointError, match=r"wte\.weight: missing from the checkpoint's averages"):
        average.load({name: t for name, t in kept.items() if name != "wte.weight"}, 1)
    with pytest.raises(CheckpointError, match="extra: missing from the model"):
        average.load({**kept, "extra": torch.ones(1)}, 1)
    with pytest.raises(CheckpointError, match=r"wte\.weight: its average is \[1\]"):
        average.load({**kept, "wte.weight": torch.ones(1)}, 1)


def test_no_ema_is_a_no_op(model):
    none, before = NoEMA(), bits(model)
    none.update()
    none.load({}, 3)
    with none.swapped_in():
        assert bits(model) == before
    assert none.tensors() == {}
    assert none.updates == 0
