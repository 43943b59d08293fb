"""Measurements that show what gradient descent, SGD and backpropagation each contribute, behind
scripts/compare_gradients.py and scripts/compare_descent.py.

update_cost.py    the time and the multiplications of one update, by each of gdext.gradients
least_squares.py  gradient descent and SGD in the plane of two parameters
mnist.py          their loss against epochs, samples and seconds
noise.py          one-sample gradients around the full gradient
compare_gradients.py, compare_descent.py                 the commands
gradients_figure.py, descent_figures.py, command.py      what they draw, and what they share
"""
