"""One pass over the voxels for any number of losses. Knows sums, not losses."""
