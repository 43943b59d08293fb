"""A pytest plugin: the op, optimizer and trainer suites with the CUDA kernels under them.

In the module that tests/test_cuda_on_cpu.py builds, tensors of the CPU are computed on by the CUDA
kernels, run as in the rest of tests/cuda_on_cpu: these suites pass through gdext from its Python to
the kernels' launches. Only what asks a tensor whether it is on a GPU is told that it is not.

The suites are those of what csrc/torch calls kernels for. Not here: what is Python above them
(modules' options, schedules, instruments), is slow (what differentiates numerically, more than once
or in batches), or concerns the processor (instruction sets, threads, signals).
"""

import pytest

import gdext

# By file: tests, by how their names begin, of what does not hold for these kernels, and why.
DESELECTED = {
    "test_cross_entropy_edges.py": {
        "test_backward_ops_check_the_class_indices": "the CPU's alone, as its docstring says",
    },
    "test_fused_devices.py": {
        "test_float32[cpu-[200, 256, 130, 10]-1-": "slow; smaller and larger ones have its form",
        "test_float32[cpu-[200, 256, 130, 10]-5-": "slow; smaller and larger ones have its form",
        "test_a_network_that_fills_a_cluster[cpu-0.9]": "more threads than a process may map",
        "test_bits_are_the_same_again_and_step_by_step[cpu-4": "CUDA wants equal batches",
        "test_bits_are_the_same_again_and_step_by_step[cpu-20": "CUDA wants equal batches",
    },
    "test_fused_state.py": {
        "test_threads_at_the_same_time": "the emulated device is for one thread",
        "test_one_trainer_in_two_threads_does_not_crash": "the emulated device is for one thread",
        "test_the_gil_is_released": "the emulated device is for one thread",
    },
    "test_mlp_op.py": {
        "test_too_little_workspace_does_nothing": "a form that needs none",
        "test_a_call_gives_back_control_in_time": "a launch cannot end early",
    },
}


def pytest_configure() -> None:
    """Makes sure whose kernels these are."""
    if gdext.build_info()["cpu"]["compiled"] != ["none"]:
        raise pytest.UsageError("this gdext has CPU kernels: not the module of the CUDA kernels")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, and refuses a name that no test has."""
    of_file: dict[str, list[pytest.Item]] = {}
    for item in items:
        of_file.setdefault(item.path.name, []).append(item)
    out = []
    for file in of_file.keys() & DESELECTED.keys():
        for start in DESELECTED[file]:
            named = [item for item in of_file[file] if item.name.startswith(start)]
            if not named:
                raise pytest.UsageError(f"DESELECTED: {file} has no test {start}")
            out += named
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
