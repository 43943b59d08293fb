"""Fixtures that every test shares: the devices present, seeds, and hypothesis' profile."""

import gc
import os
import signal

import hypothesis
import pytest
import torch

import gdext

# Derandomized: the same examples in every run, so that a red run can be repeated.
hypothesis.settings.register_profile(
    "gdext",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("gdext")


# A shell's background job ignores Ctrl-C, and so would the programs that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def cuda_missing() -> str | None:
    """Why the CUDA tests cannot run here, or None where they can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if not gdext.build_info()["cuda"]["compiled"]:
        return "gdext built without CUDA"
    return None


_CUDA_MISSING = cuda_missing()
# For who runs the tests because of the GPU: skipping what concerns it would look like success.
if _CUDA_MISSING and os.environ.get("GDEXT_REQUIRE_CUDA") == "1":
    raise RuntimeError(f"GDEXT_REQUIRE_CUDA=1: {_CUDA_MISSING}")
_SKIP_CUDA = pytest.mark.skipif(_CUDA_MISSING is not None, reason=str(_CUDA_MISSING))


def pytest_collection_finish() -> None:
    # What lasts to the end, PyTorch's modules and thousands of tests, need not be searched again
    # at every collection of garbage.
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=_SKIP_CUDA)], scope="session")
def device(request) -> str:
    """Each device present: a test that takes it runs once per device."""
    return request.param


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20240229)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two processes that have a process group (process_pair.py)."""
    from process_pair import Pair

    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.close()


@pytest.fixture
def rates(monkeypatch):
    """A machine of 10 GFLOP/s and 1 GB/s."""
    monkeypatch.setattr(torch.ops.gdext, "_fma_peak", lambda dtype, seconds: 1e10)
    monkeypatch.setattr(torch.ops.gdext, "_bandwidth", lambda size, seconds: 1e9)
