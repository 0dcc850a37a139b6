"""The loops over voxels, compiled by numba: no threads, no global state, the interpreter's lock off."""
