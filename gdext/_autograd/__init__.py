"""One module per op: its fake kernels (shapes without data) and its torch.autograd.Function."""
