"""The definitions, dense and in float64, one literal formula after another under plain autograd.

Nothing here shares code with the package: a loss is only asked for its options. Tests compare
values and gradients with these, and benchmarks time them.
"""
