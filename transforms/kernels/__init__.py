"""The loops over voxels. Compiled by numba: no threads, no global state, the interpreter's lock off.

In `gpu`, the same for arrays on a GPU.
"""
