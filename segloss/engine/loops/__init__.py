"""Sums over voxels and their gradient in loops that numba compiles for the CPU.

The loops of `sums` go over a **tile** of a few hundred voxels: what belongs to it stays in the processor's
fastest memory from the first loop over it to the last. Every inner loop runs over the voxels of a
tile and, where it can, does nothing that a compiler could not do for many of them at a time: that is
why exponentials and logarithms are polynomials here, exact to the last digit or two of single
precision, and why rows are indexed by their own number alone, or by one without a sign: another
might be negative, and would be looked at one by one. The loops of `skeleton` hold planes of a volume
in the same way; those of `instances` add up by number.
"""
