"""`--quantize` of generate, evaluate and serve, and `quantize=` of the functions behind them."""

import json

import pytest
import torch

import groundup as package
from groundup.checkpoint.log import read_log
from groundup.errors import UsageError
from groundup.model.quantized import PackedLinear
from groundup.utils.device import is_bf16_gpu

TASK = {"context": "The small model", "choices": ["reads", "words."], "answer": 0}


def test_evaluate_prints_the_loss_and_the_tasks_of_packed_weights_and_keeps_them_out_of_the_runs_log(
    groundup, run, tmp_path
):
    (tmp_path / "mine.jsonl").write_text(json.dumps(TASK) + "\n")
    log = read_log(run / "log.jsonl")
    found = {}
    for kind in ("none", "bf16", "int8"):
        done = groundup("evaluate", run, "--tasks", "loss,mine.jsonl", "--quantize", kind, "--json")
        found[kind] = json.loads(done.out)
        assert found[kind]["quantize"] == kind
        assert ("not in the run's log" in done.err) == (kind != "none")
        assert found[kind]["loss"] == package.evaluate(run, quantize=kind, device="cpu", progress=False).loss
    assert len(read_log(run / "log.jsonl")) == len(log) + 1
    losses = {kind: values["loss"] for kind, values in found.items()}
    assert len(set(losses.values())) == 3
    assert all(abs(loss - losses["none"]) < 0.005 for loss in losses.values())
    assert "weights in int8, fp32 on cpu" in groundup("evaluate", run, "--quantize", "int8", "--no-baselines").out


def test_generate_says_how_packed_weights_are_computed(groundup, run):
    words = ("generate", run, "--prompt", "The", "--max-tokens", 5, "--temperature", 0)
    done = groundup(*words, "--quantize", "int8")
    assert done.err.startswith("note  weights packed in int8; computed by ")
    assert done.out == "".join(package.generate(run, "The", max_tokens=5, temperature=0, quantize="int8")) + "\n"
    stream = package.generate_stream(run, "The", max_tokens=5, temperature=0, quantize="int8")
    assert done.out == "The" + "".join(texts[0] for texts in stream) + "\n"
    assert groundup(*words, "--quantize", "none").err == groundup(*words).err == ""
    assert groundup(*words, "--quantize", "int8", "--quiet").err == ""


def test_generate_says_why_it_computes_more_slowly(groundup, run, monkeypatch):
    reason = "PyTorch; no C++: no C++ compiler (g++)"
    monkeypatch.setattr("groundup.generation.engine.Engine.describe", lambda engine: reason)
    words = ("generate", run, "--prompt", "The", "--max-tokens", 5)
    assert groundup(*words).err == f"note  computed by {reason}\n"
    assert groundup(*words, "--quiet").err == ""


def test_serve_loads_packed_weights(groundup, run, monkeypatch):
    app = pytest.importorskip("groundup.server.app", reason="needs the extra `serve`")
    from groundup.server.listen import Listener

    served, create_app = [], app.create_app
    monkeypatch.setattr(app, "create_app", lambda models, **rest: served.append(models) or create_app(models, **rest))
    monkeypatch.setattr(Listener, "run", lambda *_, **__: None)
    for kind, layer in (("none", torch.nn.Linear), ("int8", PackedLinear)):
        done = groundup("serve", f"mine={run}", "--port", 0, "--device", "cpu", "--quantize", kind)
        assert done.status == 0, done.err
        assert isinstance(served[-1]["mine"].model.lm_head, layer)


@pytest.mark.parametrize("command", ["generate", "evaluate", "serve"])
def test_an_unknown_kind_is_one_sentence(command, groundup, run):
    done = groundup(command, run, "--quantize", "int4")
    assert (done.status, done.out) == (2, "")
    assert "'int4'" in done.err
    assert all(kind in done.err for kind in ("none", "bf16", "int8"))


def test_an_unknown_kind_in_python_is_one_sentence(run):
    with pytest.raises(UsageError, match=r"^quantize int4: must be none, bf16 or int8$"):
        package.generate(run, "The", quantize="int4")


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_a_gpu_is_refused_with_the_remedy(command, groundup, run, monkeypatch):
    monkeypatch.setattr("groundup.checkpoint.state.choose_device", lambda _: torch.device("cuda"))
    done = groundup(command, run, "--quantize", "int8")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert "quantize int8: packed weights are for CPUs, and the device is cuda; choose device cpu" in done.err


def test_a_loaded_model_keeps_its_weights(run):
    plain, packed = (package.load(run, device="cpu", quantize=kind) for kind in ("none", "int8"))
    assert isinstance(packed.model.lm_head, PackedLinear)
    assert package.load(packed) is package.load(packed, quantize="int8") is packed
    with pytest.raises(UsageError, match=r"quantize int8: this model is in memory already; give .* groundup\.load"):
        package.evaluate(plain, quantize="int8")
    assert not any(isinstance(module, PackedLinear) for module in plain.model.modules())


@pytest.mark.parametrize(("capability", "found"), [((8, 0), True), ((7, 5), False)])
def test_gpus_before_ampere_have_no_bf16_units(capability, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert is_bf16_gpu(torch.device("cuda", 0)) is found
    assert not is_bf16_gpu(torch.device("cpu"))
