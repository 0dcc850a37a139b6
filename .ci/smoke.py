"""A user's first minute with the installed package, away from the checkout."""

import sys
from pathlib import Path

import numpy as np
import torch

import segloss
from segloss.data_scripts.phantom import vessel_phantom
from segloss.transforms import SignedDistanced, TubedSkeletond

assert Path(segloss.__file__).is_relative_to(sys.prefix), segloss.__file__
assert (Path(segloss.__file__).parent / "py.typed").is_file()

label = vessel_phantom((32, 32, 32), seed=0).label[None].astype(np.int16)
sample = {"label": torch.from_numpy(label)}
for transform in TubedSkeletond("label"), SignedDistanced("label", num_classes=2):
    sample = transform(sample)

loss = (
    segloss.DiceLoss()
    + segloss.CrossEntropyLoss()
    + segloss.SkeletonRecallLoss()
    + 0.01 * segloss.BoundaryLoss()
)
logits = torch.zeros(1, 2, 32, 32, 32, requires_grad=True)
maps = {"skeleton": sample["skeleton_label"][None], "distance": sample["distance_label"][None]}
loss(logits, sample["label"][None], **maps).backward()
assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.any()
print(f"segloss {segloss.__version__}:", {k: round(float(v), 4) for k, v in loss.terms.items()})
