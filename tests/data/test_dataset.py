"""The PyTorch dataset yields exactly the sequences of a training run, with any loader."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

import groundup
from groundup.data.shards import MANIFEST, Tokens
from groundup.data.windows import ShuffledWindows
from groundup.errors import DataError, UsageError

BLOCK, SEED, EPOCHS = 32, 5, 3

# Two worker processes are intended, also on a machine with one core.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def data(prepared):
    return groundup.data.dataset(prepared, block_size=BLOCK, seed=SEED, epochs=EPOCHS)


@pytest.fixture(scope="module")
def seen(prepared) -> np.ndarray:
    """Sequences of a run of three epochs: (sequences, BLOCK + 1)."""
    batches = ShuffledWindows(Tokens.open(prepared, "train"), BLOCK, SEED)
    return batches.read(0, EPOCHS * batches.per_epoch)


def windows(samples) -> np.ndarray:
    """Samples, or batches of samples, as sequences: (n, BLOCK + 1)."""
    pairs = [(ids.reshape(-1, BLOCK), targets.reshape(-1, BLOCK)) for ids, targets in samples]
    ids, targets = (torch.cat(part) for part in zip(*pairs, strict=True))
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    return torch.cat([ids, targets[:, -1:]], dim=1).numpy()


def in_order(rows: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in rows)


def test_it_yields_the_windows_of_a_run_in_their_order_over_all_epochs(data, seen):
    assert isinstance(data, Dataset)
    assert len(data) == len(seen)
    assert np.array_equal(windows(data[i] for i in range(len(data))), seen)


def test_items_are_int64_tensors_of_a_window(data):
    for part in data[0]:
        assert (part.dtype, part.shape) == (torch.int64, (BLOCK,))


def test_indices_work_as_a_lists_do(data, seen):
    assert np.array_equal(windows([data[-1], data[np.int64(7)], data[torch.tensor(2)]]), seen[[-1, 7, 2]])
    for beyond in (len(data), -len(data) - 1):
        with pytest.raises(IndexError, match=str(beyond)):
            data[beyond]
    assert sum(1 for _ in data) == len(data)  # the end of a loop follows from IndexError


def test_ids_and_targets_share_no_memory(data, seen):
    ids, _ = pair = data[3]
    ids[:] = 0
    assert np.array_equal(pair[1].numpy(), seen[3, 1:])
    first, second = data.__getitems__([3, 4])
    first[0][:] = first[1][:] = 0
    assert np.array_equal(windows([second, data[3]]), seen[[4, 3]])


@pytest.mark.parametrize("indices", [[4, 5, 6], [9, 2, 2, -1], [7]])
def test_several_items_at_once_equal_single_items(data, seen, indices):
    assert np.array_equal(windows(data.__getitems__(indices)), seen[indices])


def test_vocab_size_is_the_number_of_token_ids(data):
    assert data.vocab_size == 257  # bytes, and the end of text


def test_the_held_out_split_can_be_read_too(prepared):
    data = groundup.data.dataset(prepared, "val", BLOCK, SEED)
    batches = ShuffledWindows(Tokens.open(prepared, "val"), BLOCK, SEED)
    assert np.array_equal(windows(data), batches.read(0, batches.per_epoch))


@pytest.mark.parametrize("start_method", [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_loader_reads_the_same_with_and_without_workers(data, seen, start_method):
    if start_method not in (None, *multiprocessing.get_all_start_methods()):
        pytest.skip(f"this system cannot {start_method}")
    workers = {"num_workers": 2, "multiprocessing_context": start_method, "persistent_workers": True}
    loader = DataLoader(data, batch_size=48, **(workers if start_method else {}))
    for _ in range(2):  # the second time by the same workers
        assert np.array_equal(windows(loader), seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffling_loses_no_window(prepared, seen, workers):
    data = groundup.data.dataset(prepared, block_size=BLOCK, seed=SEED)
    order = torch.Generator().manual_seed(0)
    shuffled = windows(DataLoader(data, batch_size=48, shuffle=True, num_workers=workers, generator=order))
    assert not np.array_equal(shuffled, seen[: len(data)])
    assert in_order(shuffled) == in_order(seen[: len(data)])


def test_processes_of_a_group_share_each_batch_of_the_run(data, seen):
    ranks = [DistributedSampler(data, num_replicas=2, rank=rank, shuffle=False, drop_last=True) for rank in (0, 1)]
    loaders = [DataLoader(data, batch_size=4, sampler=sampler, drop_last=True) for sampler in ranks]
    for step, halves in enumerate(zip(*loaders, strict=True)):
        assert in_order(windows(halves)) == in_order(seen[8 * step : 8 * step + 8])
    assert step == len(data) // 8 - 1


def test_a_subset_resumes_where_a_run_stopped(data, seen):
    rest = Subset(data, range(500, len(data)))
    assert np.array_equal(windows(DataLoader(rest, batch_size=16)), seen[500:])


@pytest.mark.parametrize("duplicate", [lambda d: pickle.loads(pickle.dumps(d)), copy.deepcopy, copy.copy])
def test_copies_read_the_same(data, seen, duplicate):
    assert np.array_equal(windows(duplicate(data)), seen)


def test_a_pickle_holds_a_path_and_no_tokens(prepared, monkeypatch):
    monkeypatch.chdir(prepared.parent)
    pickled = pickle.dumps(groundup.data.dataset(prepared.name, block_size=BLOCK))
    assert len(pickled) < 1000
    monkeypatch.chdir("/")
    assert len(pickle.loads(pickled)) > 0


def test_opening_a_data_set_reads_no_ids(prepared, monkeypatch):
    def pread(*args):
        raise AssertionError("read")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        data = groundup.data.dataset(prepared, block_size=BLOCK)
        with pytest.raises(AssertionError, match="read"):
            data[0]


def test_a_split_shorter_than_a_window_is_refused_with_a_remedy(prepared):
    tokens = len(Tokens.open(prepared, "val"))
    groundup.data.dataset(prepared, "val", tokens - 1)  # just fits
    with pytest.raises(DataError, match=rf"the val split has {tokens:,} tokens.*block_size of {tokens} .*smaller"):
        groundup.data.dataset(prepared, "val", tokens)


def test_a_folder_without_tokens_is_refused(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}: no {MANIFEST} here; prepare its text first: groundup prepare"):
        groundup.data.dataset(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"split": "test"}, "split 'test': must be train or val"),
        ({"block_size": 0}, "block_size 0: must be a whole number, 1 or more"),
        ({"block_size": 2.5}, "block_size 2.5: must be a whole number"),
        ({"epochs": 0}, "epochs 0: must be a whole number, 1 or more"),
        ({"epochs": True}, "epochs True: must be a whole number"),
        ({"seed": -1}, "seed -1: must be a whole number, 0 or more"),
        ({"seed": 2**63}, "seed 9223372036854775808: .* below"),
    ],
)
def test_invalid_arguments_are_one_sentence(prepared, arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        groundup.data.dataset(prepared, **arguments)


def test_it_is_a_function_and_its_package_needs_no_torch():
    code = (
        "import sys, groundup.data, groundup.data.shards\nprint('torch' in sys.modules)\n"
        "from groundup.data import dataset\nimport groundup.data.torch_dataset\n"
        "print('torch' in sys.modules, dataset is groundup.data.dataset, dataset.__name__)\n"
        "print(hasattr(groundup.data, 'nonsense'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "dataset", "False"]
