"""The decoder of CUDA graphs, without a GPU: its step depends on nothing but the contents of fixed tensors.

`Replayed` takes the place of a CUDA graph: it notes each operation of a step with the tensors it was given, and later
repeats these operations on the same tensors. What Python decided while the step was recorded stays as it was.
"""

import inspect
import random
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groundup.errors import FallbackWarning
from groundup.generation import graph_decoder
from groundup.generation.engine import Engine, Request
from groundup.generation.graph_decoder import GraphDecoder, GraphRecorder
from groundup.generation.model_decoder import ModelDecoder
from groundup.generation.sampling import Sampling
from groundup.model import build_model
from groundup.model.gpt import GPT
from groundup.tokenizers.byte_char import ByteTokenizer

CPU, CONTEXT, SLOTS = torch.device("cpu"), 16, 5
SHAPES = ["gpt1", "gpt2", "modern", "nanochat", "fast", "fast-small"]
RNG = random.Random(0)


class Replayed(TorchDispatchMode):
    """Work that was recorded; a call repeats it."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.operations, self.calls = [], 0
        with self:
            work()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, found))
        return found

    def __call__(self) -> None:
        self.calls += 1
        for func, args, kwargs, found in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # not a view
                    old.copy_(new)


@pytest.fixture(autouse=True)
def short_graphs(monkeypatch):
    """Graphs of 4, 8 and 16 tokens."""
    monkeypatch.setattr(graph_decoder, "MIN_LENGTH", 4)


def plain(model: GPT) -> GPT:
    """The same without C++ kernels, of which `Replayed` sees nothing."""
    copy = build_model(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def decoders(model: GPT) -> tuple[GraphDecoder, ModelDecoder]:
    return GraphDecoder(model, CPU, SLOTS, record=Replayed), ModelDecoder(model, CPU, SLOTS)


def ids(n: int) -> list[int]:
    return [RNG.randrange(256) for _ in range(n)]


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_replayed_steps_give_the_logits_of_the_model(name, model_of):
    """All numbers of rows, lengths at and beside the sizes of graphs, up to the full context, after moves and cuts."""
    both = decoders(plain(model_of(name)))
    graphs, model = both
    for lengths in [(3, 1, 2, 0, 3), (3, 4, 5, 3, 4), (7, 8, 1, 9, 2), (15, 1, 14, 13, 15)]:
        for slot, length in enumerate(lengths):
            new = ids(length)
            for decoder in both:
                decoder.slots.clear(slot)
                if new:
                    decoder.extend(slot, new, 1)
        for rows in (1, 2, 5, 3, 4):
            for decoder in both:
                if max(decoder.slots.lengths[:rows]) == CONTEXT:
                    decoder.slots.move(4, 0)
                    decoder.slots.truncate(0, 6)
                    decoder.slots.truncate(2, 3)
            new = [ids(1) for _ in range(rows)]
            found, expected = (decoder.step(new) for decoder in both)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
            assert graphs.slots.lengths[:SLOTS] == model.slots.lengths
    assert {rows for rows, _ in graphs._graphs} == {1, 2, 4, 5}
    assert {length for _, length in graphs._graphs} == {4, 8, 16}


@torch.inference_mode()
def test_a_graph_is_recorded_once_and_chosen_by_rows_and_longest_sequence(model_of):
    graphs, _ = decoders(plain(model_of()))
    steps = [
        ((1,), (1, 4)),
        ((3,), (1, 4)),
        ((4,), (1, 8)),
        ((2, 7), (2, 8)),
        ((8, 1), (2, 16)),
        ((1, 1, 1), (4, 4)),
        ((2, 3, 2), (4, 4)),
    ]
    for step, (lengths, size) in enumerate(steps):
        for slot, length in enumerate(lengths):
            graphs.slots.clear(slot)
            graphs.extend(slot, ids(length), 1)
        calls = {key: graph.calls for key, graph in graphs._graphs.items()}
        graphs.step([ids(1) for _ in lengths])
        assert {key for key, graph in graphs._graphs.items() if graph.calls != calls.get(key, 0)} == {size}, step
    assert len(graphs._graphs) == 5


@torch.inference_mode()
def test_rows_that_fill_up_a_graph_change_no_other_slot(model_of):
    """Slots behind those of a step may hold prompts that are being read, full ones included."""
    both = decoders(plain(model_of()))
    for slot, length in enumerate((3, 5, 4, CONTEXT)):
        new = ids(length)
        for decoder in both:
            decoder.extend(slot, new, 1)
    before = [part.clone() for part in both[0].slots.save(3)]
    both[0].step([[1], [2], [3]])
    assert all(map(torch.equal, before, both[0].slots.save(3)))


@torch.inference_mode()
def test_several_tokens_of_a_row_and_a_full_context_go_to_the_model(model_of):
    graphs, model = decoders(plain(model_of()))
    for decoder in (graphs, model):
        decoder.extend(0, [1, 2, 3], 1)
        decoder.extend(1, [4], 1)
    new = [[5, 6, 7], [8]]
    torch.testing.assert_close(graphs.step(new), model.step(new))
    assert not graphs._graphs
    graphs.extend(0, [0] * (CONTEXT - 6), 1)
    with pytest.raises(ValueError, match="exceed the context of 16"):
        graphs.step([[1]])


@pytest.mark.parametrize("name", ["gpt2", "modern", "fast-small"])
def test_texts_are_those_of_the_model(name, model_of):
    """The engine over replayed steps: requests that join, leave, slide past the context and share a prompt."""
    model, found = plain(model_of(name)), []
    requests = [
        Request(tuple(ids(n)), 40, Sampling(t, seed=n), samples)
        for n, t, samples in [(3, 0, 1), (20, 0.8, 3), (16, 1, 1)]
    ]
    for decoder in decoders(model):
        engine = Engine(model, ByteTokenizer(), CPU, slots=SLOTS, prefill_tokens=6, decoder=decoder)
        tickets, texts = [], {}
        while requests[len(tickets) :] or not engine.idle:
            tickets += [engine.add(request) for request in requests[len(tickets) : len(tickets) + 1]]
            for piece in engine.step():
                texts.setdefault((piece.ticket, piece.sample), []).extend(piece.tokens)
        found.append(texts)
    assert found[0] == found[1]
    assert len(found[0]) == 5


class NoCopies(TorchFunctionMode):
    """Fails at operations that read tensors on the CPU, or make some from numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.tensor, torch.as_tensor), "numbers are copied from the CPU"
        for leaf in tree_leaves((args, kwargs)):
            assert not isinstance(leaf, torch.Tensor) or leaf.is_meta, f"{func} reads a tensor on the CPU"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_neither_waits_for_the_gpu_nor_copies_from_the_cpu(name, model_of):
    """Checked on the device `meta`, whose tensors have no contents that Python could ask for."""
    device = torch.device("meta")
    decoder = GraphDecoder(build_model(model_of(name).config).to(device).eval(), device, SLOTS, record=Replayed)
    with torch.inference_mode():
        decoder._compute(4, 8)  # allocates the cache
        with NoCopies():
            decoder._compute(4, 8)
        with NoCopies(), pytest.raises(AssertionError, match="numbers are copied"):
            decoder.step([[1, 2], [3]])  # as the model does it


@torch.inference_mode()
def test_where_nothing_can_be_recorded_the_model_computes_and_one_warning_says_why(model_of):
    def refuse(work):
        work()
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")

    decoder, model = GraphDecoder(model_of(), CPU, SLOTS, refuse), ModelDecoder(model_of(), CPU, SLOTS)
    for each in (decoder, model):
        each.extend(0, [1, 2, 3], 1)
    assert decoder.describe() == "CUDA graphs, fp32"
    with pytest.warns(FallbackWarning, match="slower: CUDA error: .* is capturing$") as warned:
        torch.testing.assert_close(decoder.step([[4]]), model.step([[4]]))
    torch.testing.assert_close(decoder.step([[5]]), model.step([[5]]))
    assert len(warned) == 1
    assert decoder.describe().startswith("PyTorch; no CUDA graphs: CUDA error: operation not permitted")


class FakeCUDA:
    """Notes what `GraphRecorder` asks of torch.cuda, and on which stream."""

    def __init__(self, monkeypatch) -> None:
        self.did, self.now, self.fails = [], "main", False
        real = inspect.signature(torch.cuda.graph.__init__)
        for name in ("Stream", "stream", "current_stream", "graph_pool_handle", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        self.graph_arguments = lambda *args, **options: dict(real.bind(None, *args, **options).arguments)

    def named(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            name=name, device="cuda:0", wait_stream=lambda other: self.did.append(f"{name} waits for {other.name}")
        )

    def Stream(self, device):  # noqa: N802
        return self.named("side")

    def current_stream(self, device):
        return self.named(self.now)

    def graph_pool_handle(self):
        return "pool"

    def CUDAGraph(self):  # noqa: N802
        return SimpleNamespace(replay=lambda: self.did.append("replay"))

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream.name
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(self, *args, **options):
        found = self.graph_arguments(*args, **options)
        self.did.append(f"record on {found['stream'].name}, {found['pool']}, {found['capture_error_mode']}")
        self.now = found["stream"].name  # stays, as with torch where recording fails
        yield
        if self.fails:
            raise RuntimeError("recording failed")
        self.now = "main"


def test_work_runs_once_on_the_stream_that_then_records_it(monkeypatch):
    cuda = FakeCUDA(monkeypatch)
    recorder = GraphRecorder(torch.device("cuda"))
    replay = recorder(lambda: cuda.did.append(f"work on {cuda.now}"))
    replay()
    assert cuda.did == [
        "side waits for main", "work on side", "main waits for side", "record on side, pool, thread_local",
        "work on side", "replay",
    ]  # fmt: skip
    cuda.fails = True
    with pytest.raises(RuntimeError, match="recording failed"):
        recorder(lambda: None)
    assert cuda.now == "main"
