"""Inputs for tests: seeded tensors, awkward memory layouts, and shapes that hypothesis draws."""

import torch
from hypothesis import strategies as st

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# Around the sizes that kernels tile by, and primes between them.
_TILES = (6, 8, 12, 14, 16, 24, 32, 64, 96, 128, 256)
_EDGES = sorted({t + d for t in _TILES for d in (-1, 0, 1)} | {1, 2, 3, 37, 61, 101, 131, 251})
_SMALL = [n for n in _EDGES if n <= 17]
_MIDDLE = [n for n in _EDGES if n <= 65]
_WIDE = [509, 511, 512, 513, 1000, 1021, 1023, 1024, 1025, 2047, 2048, 2049, 4093, 4095, 4096]

# (B, I, O): one wide, or two around tiles, or three of middling size; any of the three may be any.
shapes = st.one_of(
    st.tuples(st.sampled_from(_WIDE), st.sampled_from(_SMALL), st.sampled_from(_SMALL)),
    st.tuples(st.sampled_from(_EDGES), st.sampled_from(_EDGES), st.sampled_from(_SMALL)),
    st.tuples(st.sampled_from(_MIDDLE), st.sampled_from(_MIDDLE), st.sampled_from(_MIDDLE)),
).flatmap(st.permutations)

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(DTYPES)


def randn(*shape: int, dtype=torch.float64, device="cpu", seed: int | None = None) -> torch.Tensor:
    """Normal numbers, rounded to `dtype`; drawn on the CPU, so that every device gets the same."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


def leaf(tensor: torch.Tensor) -> torch.Tensor:
    """The same values and strides as a leaf that requires grad."""
    return tensor.detach().requires_grad_()


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as every second element of a larger tensor, its last two axes swapped."""
    if tensor.dim() == 0:
        return tensor.clone()
    if tensor.dim() == 1:
        room = tensor.new_full((2 * tensor.shape[0],), float("nan"))[::2]
    else:
        *outer, rows, columns = tensor.shape
        room = tensor.new_full((*outer, 2 * columns, rows + 1), float("nan"))
        room = room[..., ::2, :rows].transpose(-1, -2)
    room.copy_(tensor)
    return room
