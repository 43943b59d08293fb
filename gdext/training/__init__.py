"""The MNIST trainer behind scripts/train_mnist.py.

cli         the command: options in, exit code out
options     command line, defaults, what a resumed run may change
output      which folder a run writes into, atomic writes
dataset     MNIST as scaled tensors on the device
engine      model, optimizer and loss of each --engine, and their training steps
processes   torchrun's processes, which share each step
loop        epochs, evaluation, early stop, interruption, divergence
checkpoint  saving and loading a run
report      the line per epoch, metrics.jsonl, TensorBoard, the progress bar
plots       the four pictures of a finished run
"""
