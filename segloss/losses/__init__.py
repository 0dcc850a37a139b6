"""The losses, a family in each file: its functions of sums, then their modules."""
