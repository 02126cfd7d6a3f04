"""Decoder for GPUs from NVIDIA and AMD that launches the kernels of a step all at once, as a CUDA graph.

A step of a small model consists of hundreds of kernels of a few microseconds each, fewer than Python needs to launch
them. Recorded as a graph, they start by one call. A graph repeats the same kernels on the same memory, so that a step
must not depend on anything but the contents of tensors: its shapes are rounded up to a few sizes, each with a graph
of its own, recorded when it is first needed.

Letters: B sequences, V vocabulary.
"""

import threading
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from groundup.errors import FallbackWarning
from groundup.generation.model_decoder import ModelDecoder
from groundup.model.gpt import GPT
from groundup.utils.device import DTYPES, upload

MIN_LENGTH = 256  # tokens of a cache that the shortest graph reads

Work = Callable[[], None]
Record = Callable[[Work], Work]
"""Work on fixed tensors -> a repetition of it, on whatever those tensors then contain"""


class GraphDecoder(ModelDecoder):
    """Decoder whose steps of one token per sequence are CUDA graphs; prompts and longer steps call the model.

    The model's weights must stay where they are in memory.

    Memory: that of the cache for one more sequence, logits of B · V fp32, and intermediate results of the largest
    graph, which all graphs share.
    """

    def __init__(self, model: GPT, device: torch.device, slots: int, record: Record | None = None) -> None:
        """`record` is for tests; default: as a CUDA graph."""
        super().__init__(model, device, slots + 1)  # rows that only fill up a graph write to the last slot
        self._max_rows, self._record = slots, record or GraphRecorder(device)
        self._graphs: dict[tuple[int, int], Work] = {}  # by rows and length
        self._inputs = torch.zeros(slots, 3, dtype=torch.long, device=device)  # id, position and slot of each row
        self._outputs = torch.zeros(slots, self.vocab, device=device)
        self._failed = ""  # the reason

    @override
    def step(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """See `Decoder`; the logits are valid until the next step."""
        rows, lengths = len(ids), self.slots.lengths[: len(ids)]
        if self._failed or max(map(len, ids)) > 1 or max(lengths) == self.context:
            return super().step(ids)
        padded = _round_up(rows, 1, self._max_rows)
        inputs = [[own[0], length, slot] for slot, (own, length) in enumerate(zip(ids, lengths, strict=True))]
        inputs += [[0, 0, self._max_rows]] * (padded - rows)
        self._inputs[:padded] = upload(torch.tensor(inputs), self._device)
        graph = self._graph(padded, _round_up(max(lengths) + 1, MIN_LENGTH, self.context))
        if graph is None:
            return super().step(ids)
        graph()
        self.slots.lengths[:rows] = [length + 1 for length in lengths]
        return self._outputs[:rows]

    @override
    def describe(self) -> str:
        if self._failed:
            return f"PyTorch; no CUDA graphs: {self._failed}"
        weights = self._model.lm_head.weight.dtype
        return f"CUDA graphs, {next(name for name, dtype in DTYPES.items() if dtype == weights)}"

    def _graph(self, rows: int, length: int) -> Work | None:
        """The graph of these sizes; None where none can be recorded, which is said once."""
        if graph := self._graphs.get((rows, length)):
            return graph
        try:
            graph = self._graphs[rows, length] = self._record(lambda: self._compute(rows, length))
        except RuntimeError as error:
            self._failed = str(error).strip().partition("\n")[0] or type(error).__name__
            message = f"generation goes on without CUDA graphs, slower: {self._failed}"
            warnings.warn(message, FallbackWarning, stacklevel=2)
            return None
        return graph

    def _compute(self, rows: int, length: int) -> None:
        """One step from `_inputs` to `_outputs`, for tensors alone; repeated, it gives the same again."""
        ids, positions, slots = (self._inputs[:rows, column, None] for column in range(3))  # each (B, 1)
        self.slots.select_static(slots, positions, length)
        self._outputs[:rows] = self._logits(self._model.features(ids, self.slots)[:, 0])


class GraphRecorder:
    """Records work as CUDA graphs that share memory for intermediate results, as only one of them runs at a time.

    The rules are in PyTorch's "CUDA semantics", section "CUDA Graphs": work runs once before it is recorded, on
    another stream than the current one, so that libraries allocate what they keep; one process records one graph at a
    time; graphs that share memory are recorded on the same stream.
    """

    _lock = threading.Lock()

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """See `Record`. RuntimeError where it cannot be recorded."""
        current, graph = torch.cuda.current_stream(self._stream.device), torch.cuda.CUDAGraph()
        with self._lock, torch.cuda.stream(current):  # also restores the current stream when recording fails
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                work()
            current.wait_stream(self._stream)
            # Other threads may go on with what a recording thread must not do, such as allocating memory.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                work()
        return graph.replay


def _round_up(n: int, smallest: int, largest: int) -> int:
    """`n` up to the next of `smallest`, twice that, four times, … and `largest`."""
    size = smallest
    while size < n:
        size *= 2
    return min(size, largest)
