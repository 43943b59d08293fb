"""The benchmark behind scripts/benchmark.py.

networks.py      what is trained: networks, batches, inputs
contestants.py   who trains it: gdext, PyTorch; jax_peer.py, jax_worker.py: JAX, beside this process
precision.py     float32, tf32, bfloat16: numbers and products
rounds.py        how time is taken: everyone in turn, several rounds
results.py       what is kept of it, and the arithmetic done with it
limits.py, gpu.py  what the machine, or a GPU, can do at most
steps.py, ops.py, optimizer.py, memory.py, accuracy.py, targets.py   the sections
tables.py, plot.py, machine.py, cli.py                   what is shown and written
"""
