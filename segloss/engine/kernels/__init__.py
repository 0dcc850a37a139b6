"""The sums in Triton, for CUDA tensors. Only what is in here imports Triton."""
