"""The kernel in Triton against PyTorch, without a GPU: Triton's interpreter computes it."""

import importlib.util
import os
import subprocess
import sys

import pytest

CODE = """
import torch
from groundup.kernels import cross_entropy_triton as kernel
from groundup.kernels.cross_entropy import nll_and_grad_

kernel.BLOCK_COLUMNS = 16
draw = torch.Generator().manual_seed(0)
for dtype, rtol in ((torch.float32, 1e-5), (torch.bfloat16, 0.01)):
    for V, P in ((37, 64), (64, 64), (5, 5)):
        for softcap in (None, 3.0):
            for gradient in (True, False):
                z = (5 * torch.randn(5, P, generator=draw)).to(dtype)
                z[1] *= 40
                targets = torch.randint(V, (10,), generator=draw)[::2]
                targets[3] = -7
                ours, theirs = z.clone(), z.clone()
                found = kernel.nll_and_grad_(ours, targets, V, softcap, -7, gradient)
                torch.testing.assert_close(found, nll_and_grad_(theirs, targets, V, softcap, -7, gradient))
                if gradient:
                    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-6)
                    assert ours[0].any() and not ours[3].any() and not ours[:, V:].any()
                else:
                    assert torch.equal(ours, z)
"""


@pytest.mark.slow
def test_the_kernel_computes_what_torch_computes():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("no triton; pip install 'groundup[dev]' on Linux")
    environ = os.environ | {"TRITON_INTERPRET": "1"}  # before Triton is imported, so in a new process
    done = subprocess.run([sys.executable, "-c", CODE], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
