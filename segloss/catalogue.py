"""Every loss of the library in one table: what it computes, and when to use it.

The tests run over this table and the documentation prints it, so a loss is known by being here.
Facts that the code knows (maps, default encoding, passes) are read from the class.
"""

import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import segloss
from segloss.arguments import one_of
from segloss.compose import term_name
from segloss.encoding import Encoding
from segloss.losses.base import Loss

__all__ = ["CATALOGUE", "Entry", "Family", "Names", "list_losses"]

Family = Literal[
    "overlap",
    "soft targets",
    "contingency",
    "voxels",
    "label errors",
    "calibration",
    "centrelines",
    "surfaces",
    "instances",
    "topology",
    "trees",
    "partial labels",
]


@dataclass(frozen=True)
class Entry:
    """What there is to know of a loss.

    Args:
        loss_name: The name of its class.
        family: What it looks at.
        formula: Of one class and group, or of one voxel (the loss is then the mean); p is the
            probability, y the target, m = −log p of the true class, Σ a weighted sum over the voxels.
        source: Who proposed it.
        use: When to use it.
        beside: What to add it to, and why; nothing if it trains alone.
        low: Its least value, with the default options.
        high: Its largest.
    """

    loss_name: str
    family: Family
    formula: str
    source: str
    use: str
    beside: str = ""
    low: float = 0.0
    high: float = math.inf

    @property
    def name(self) -> str:
        """What a `segloss.CompoundLoss` calls it."""
        return term_name(self.loss_name)

    @property
    def loss(self) -> Any:
        """The class, a `segloss.Loss`."""
        return getattr(segloss, self.loss_name)

    @property
    def encoding(self) -> Encoding | None:
        """The encoding by default; None if the loss must be told, because it reads only its own."""
        default = inspect.signature(self.loss).parameters["encoding"].default
        return default if isinstance(default, Encoding) else None

    @property
    def needs(self) -> tuple[str, ...]:
        """What it must be told: its encoding, how often each class occurs; nothing, mostly."""
        parameters = inspect.signature(self.loss).parameters.values()
        optional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return tuple(p.name for p in parameters if p.default is p.empty and p.kind not in optional)

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that it needs. The losses that must be told something need none."""
        if self.needs:
            return ()
        loss: Loss = self.loss()
        return tuple(sorted(loss.request.maps | loss.reads))

    @property
    def learns(self) -> bool:
        """Whether it has parameters, for the optimiser. Those that must be told something have none."""
        return not self.needs and any(True for _ in self.loss().parameters())

    @property
    def one_pass(self) -> bool:
        """Whether the joint pass over the voxels is all it takes."""
        return self.loss.own_sums is Loss.own_sums

    @property
    def negative(self) -> bool:
        """Whether it can go below 0."""
        return self.low < 0


class Names(tuple[str, ...]):
    """Names of losses, which print as a table."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {CATALOGUE[name].use}" for name in self)


def list_losses(family: Family | None = None, *, map: str | None = None) -> Names:
    """The names of the losses, as `segloss.build` takes them; printed, with what each is for.

    Args:
        family: Only those of a family, such as ``"overlap"``.
        map: Only those that need a map, such as ``"skeleton"``.

    Raises:
        ValueError: If there is no such family or map.

    Example:
        >>> from segloss import list_losses
        >>> list_losses("instances", map="instances")
        ('connected_component_dice', 'blob')
        >>> print(list_losses("instances"))
        connected_component_dice  lesions each of which counts, with false positives charged to one
        blob                      lesions each of which counts, however small
    """
    if family is not None:
        one_of("family", family, get_args(Family))
    if map is not None:
        one_of("map", map, tuple(sorted({m for entry in CATALOGUE.values() for m in entry.maps})))
    return Names(
        name
        for name, entry in CATALOGUE.items()
        if family in (None, entry.family) and (map is None or map in entry.maps)
    )


_ENTRIES = (
    Entry(
        "DiceLoss",
        "overlap",
        "1 − 2 Σpy / (Σp + Σy)",
        "Milletari et al., 3DV 2016",
        "the first choice; with cross entropy the default of the field",
        high=1,
    ),
    Entry(
        "JaccardLoss",
        "overlap",
        "1 − Σpy / (Σp + Σy − Σpy)",
        "Rahman and Wang, ISVC 2016",
        "where intersection over union is what is reported",
        high=1,
    ),
    Entry(
        "TverskyLoss",
        "overlap",
        "1 − Σpy / (Σpy + α Σp(1−y) + β Σ(1−p)y)",
        "Salehi et al., MLMI 2017",
        "where misses cost more than false alarms, or less",
        high=1,
    ),
    Entry(
        "GeneralizedDiceLoss",
        "overlap",
        "1 − 2 Σ_k a_k Σpy / Σ_k a_k (Σp + Σy), a = 1/(Σy)²",
        "Sudre et al., DLMIA 2017",
        "classes of very different sizes, all in one ratio",
        high=1,
    ),
    Entry(
        "LovaszLoss",
        "overlap",
        "Jaccard loss of hard predictions, continued convexly to |p − y|",
        "Berman et al., CVPR 2018",
        "to fine-tune for intersection over union",
        high=1,
    ),
    Entry(
        "FocalTverskyLoss",
        "overlap",
        "(1 − Tversky index)^γ",
        "Abraham and Khan, ISBI 2019",
        "small lesions; γ below 1 keeps pulling where overlap is nearly good",
        high=1,
    ),
    Entry(
        "LogCoshDiceLoss",
        "overlap",
        "log cosh(Dice loss)",
        "Jadon, CIBCB 2020",
        "a Dice whose gradient fades as the overlap becomes good",
        high=math.log(math.cosh(1)),
    ),
    Entry(
        "ExponentialLogarithmicLoss",
        "overlap",
        "a (−log Dice)^γ + b mean m^γ",
        "Wong et al., MICCAI 2018",
        "structures of very different sizes",
    ),
    Entry(
        "UnifiedFocalLoss",
        "overlap",
        "½ (1 − T)^(1−γ) + ½ δ m, T the Tversky index; background ½ (1 − T), ½ (1−δ) (1−p)^γ m",
        "Yeung et al., CMIG 2022",
        "little foreground: easy background is let go of, in both terms",
    ),
    Entry(
        "DiceSemimetricLoss",
        "soft targets",
        "1 − 2 Σmin(p, y) / (Σp + Σy)",
        "Wang et al., MICCAI 2023",
        "soft targets: distillation, several raters, mixed images",
        high=1,
    ),
    Entry(
        "JaccardMetricLoss",
        "soft targets",
        "1 − Σmin(p, y) / Σmax(p, y)",
        "Wang et al., NeurIPS 2023",
        "soft targets, where intersection over union is what is reported",
        high=1,
    ),
    Entry(
        "CompatibleTverskyLoss",
        "soft targets",
        "1 − Σmin / (Σmin + α Σ(p−y)⁺ + β Σ(y−p)⁺)",
        "Wang et al., MICCAI 2023",
        "soft targets, with prices on both kinds of error",
        high=1,
    ),
    Entry(
        "SquaredDiceLoss",
        "soft targets",
        "1 − 2 Σpy / (Σp² + Σy²)",
        "Milletari et al., 3DV 2016",
        "soft targets; slow to find small structures",
        high=1,
    ),
    Entry(
        "DicePlusPlusLoss",
        "soft targets",
        "1 − 2 Σpy / (2 Σpy + Σ|p−y|^γ)",
        "Yeung et al., J. Digit. Imaging 2023",
        "calibrated probabilities from an overlap loss",
        high=1,
    ),
    Entry(
        "MCCLoss",
        "contingency",
        "1 − Matthews correlation coefficient",
        "Abhishek and Hamarneh, ISBI 2021",
        "where right rejections should count too",
        high=2,
    ),
    Entry(
        "SensitivitySpecificityLoss",
        "contingency",
        "λ Σ(p−y)²y / Σy + (1−λ) Σ(p−y)²(1−y) / Σ(1−y)",
        "Brosch et al., MICCAI 2015",
        "one price inside the class and one outside, whatever its size",
        beside="hardly pulls where it is confidently wrong: add a cross entropy",
        high=1,
    ),
    Entry(
        "RegionProportionLoss",
        "contingency",
        "|mean p − mean y|",
        "Liu et al., 2021",
        "against the bias of cross entropy in the sizes of rare classes",
        beside="says how large a class is, not where: add it to a cross entropy",
        high=1,
    ),
    Entry(
        "CrossEntropyLoss",
        "voxels",
        "m",
        "",
        "beside an overlap loss, always; soft targets and calibrated probabilities",
    ),
    Entry(
        "FocalLoss",
        "voxels",
        "(1−p)^γ m",
        "Lin et al., ICCV 2017",
        "many easy voxels and few hard ones",
    ),
    Entry(
        "TopKCrossEntropyLoss",
        "voxels",
        "the mean of the largest k % of all m",
        "Wu et al., 2016",
        "large easy backgrounds: only the hardest voxels pull",
    ),
    Entry(
        "SquentropyLoss",
        "voxels",
        "m + mean_{k≠y} f_k², f the logits",
        "Hui et al., ICML 2023",
        "in place of cross entropy: calibrated, with nothing to choose",
    ),
    Entry(
        "SparsemaxLoss",
        "voxels",
        "½(1 − |p*|²) + p*·f − f_y, p* the distribution nearest to the logits f",
        "Martins and Astudillo, ICML 2016",
        "in place of cross entropy: voxels that are right by a margin no longer count",
    ),
    Entry(
        "Poly1CrossEntropyLoss",
        "voxels",
        "m + ε (1−p)",
        "Leng et al., ICLR 2022",
        "in place of cross entropy, with one number to tune for the data",
    ),
    Entry(
        "Poly1FocalLoss",
        "voxels",
        "(1−p)^γ m + ε (1−p)^(γ+1)",
        "Leng et al., ICLR 2022",
        "in place of the focal loss, with one number more to tune",
    ),
    Entry(
        "AsymmetricLoss",
        "voxels",
        "−y (1−p)^γ₊ log p − (1−y) u^γ₋ log(1−u), u = max(p − s, 0)",
        "Ridnik et al., ICCV 2021",
        "regions that overlap, of which few voxels are part, or some are not labelled",
    ),
    Entry(
        "LogitAdjustedCrossEntropyLoss",
        "voxels",
        "m of the logits + τ log π, π how often each class occurs",
        "Menon et al., ICLR 2021",
        "rare classes that should be found as often as frequent ones",
    ),
    Entry(
        "VectorScalingLoss",
        "voxels",
        "m of the logits · Δ + τ log π, Δ ∝ π^γ",
        "Kini et al., NeurIPS 2021",
        "rare classes, where training ends with every voxel right",
    ),
    Entry(
        "LDAMLoss",
        "voxels",
        "m of s · logits, the label's less s · margin ∝ π^−¼",
        "Cao et al., NeurIPS 2019",
        "rare classes that should keep their distance from the others",
    ),
    Entry(
        "GeneralizedCrossEntropyLoss",
        "label errors",
        "(1 − p^q) / q",
        "Zhang and Sabuncu, NeurIPS 2018",
        "labels with errors, on classes that are not rare",
        high=1 / 0.7,
    ),
    Entry(
        "CompSumLoss",
        "label errors",
        "(p^(τ−1) − 1) / (1 − τ)",
        "Mao et al., ICML 2023",
        "one dial from cross entropy (τ = 1) to the absolute error (τ = 2)",
    ),
    Entry(
        "ReverseCrossEntropyLoss",
        "label errors",
        "−A (1−p), A < 0",
        "Wang et al., ICCV 2019",
        "the robust half of a pair; see `active_passive`",
        beside="slow where it is wrong, and lets rare classes go: add a loss that learns",
        high=-math.log(1e-4),
    ),
    Entry(
        "SymmetricCrossEntropyLoss",
        "label errors",
        "α m − β A (1−p)",
        "Wang et al., ICCV 2019",
        "labels with errors: one term learns, the other is robust",
    ),
    Entry(
        "NormalizedCrossEntropyLoss",
        "label errors",
        "m / Σ_k −log p_k",
        "Ma et al., ICML 2020",
        "the half of a pair that learns; see `active_passive`",
        beside="slow alone, the more classes the slower: add a passive loss",
        high=1,
    ),
    Entry(
        "LDRKLLoss",
        "label errors",
        "λ log Σ_k exp((f_k − f_y + c[k≠y]) / λ)",
        "Zhu et al., ICML 2023",
        "labels with errors, classes that are mistaken for each other",
    ),
    Entry(
        "NoiseRobustDiceLoss",
        "label errors",
        "Σ|p−y|^γ / (Σp + Σy)",
        "Wang et al., TMI 2020",
        "labels with errors along the borders of lesions",
        high=1,
    ),
    Entry(
        "TLoss",
        "label errors",
        "−log t-density of all p − y, per voxel",
        "Gonzalez-Jimenez et al., MICCAI 2023",
        "whole images labelled badly; its parameter goes to the optimiser",
        low=-math.inf,
    ),
    Entry(
        "CalibrationErrorLoss",
        "calibration",
        "mean over the bins of p of |mean p − mean y|",
        "Barfoot et al., MICCAI 2024",
        "where probabilities are read as such: thresholds, referrals, volumes",
        beside="says how probable, not where: add it to Dice and cross entropy",
        high=1,
    ),
    Entry(
        "MarginSmoothingLoss",
        "calibration",
        "mean_k max(0, max f − f_k − M), f the logits",
        "Liu et al., CVPR 2022",
        "against overconfidence: smooths only where logits are far apart",
        beside="does not look at the label: add 0.1 of it to cross entropy",
    ),
    Entry(
        "NeighbourAwareCalibrationLoss",
        "calibration",
        "|f − τ|, f the logit, τ the share of the class around the voxel",
        "Murugesan et al., MICCAI 2023",
        "calibrated boundaries: labels are less certain where they change",
        beside="bounds the logits: add 0.1 of it to cross entropy",
    ),
    Entry(
        "LogSumExpLoss",
        "calibration",
        "(log Σ_k e^f_k)², f the logits",
        "Chowdhery et al., JMLR 2023",
        "keeps logits near 0, where half precision has digits",
        beside="does not look at the label: add 1e-4 of it to cross entropy",
    ),
    Entry(
        "SkeletonRecallLoss",
        "centrelines",
        "1 − Σps / Σs, s the tubed skeleton",
        "Kirchhoff et al., ECCV 2024",
        "thin structures that must stay connected, at the cost of one more sum",
        beside="false positives cost nothing: add it to Dice or cross entropy",
        high=1,
    ),
    Entry(
        "CenterlineDiceLoss",
        "centrelines",
        "1 − 2 Tp Ts / (Tp + Ts), precision and recall of centrelines",
        "Shit et al., CVPR 2021",
        "thin structures, where gaps and false branches should cost alike",
        beside="says little of the width: add it to Dice",
        high=1,
    ),
    Entry(
        "CenterlineBoundaryDiceLoss",
        "centrelines",
        "1 − 2PR / (P + R), P and R of centrelines, each voxel by its radius",
        "Shi et al., MICCAI 2024",
        "trees of thick and thin vessels, all of which should count alike",
        beside="pulls nothing while nothing is found: add it to Dice",
        low=-math.inf,
        high=1,
    ),
    Entry(
        "BoundaryLoss",
        "surfaces",
        "mean pφ, φ the signed distance",
        "Kervadec et al., MIDL 2019",
        "small structures in large backgrounds; see `rebalanced`",
        beside="collapses to an empty prediction: add it to a region loss, with a growing weight",
        low=-math.inf,
    ),
    Entry(
        "GeneralizedSurfaceLoss",
        "surfaces",
        "1 − Σ_k a_k Σφ²(1−|p−y|)² / Σ_k a_k Σφ², a = 1/(Σy)²",
        "Celaya et al., 2023",
        "the first choice for surfaces: bounded, and 0 at the target",
        beside="flat where it is confidently wrong: add it to a cross entropy",
        high=1,
    ),
    Entry(
        "HausdorffLoss",
        "surfaces",
        "mean (p−y)² |φ|^α",
        "Karimi and Salcudean, TMI 2020",
        "where the farthest errors matter most, at the cost of one more sum",
        beside="sees no class that is absent: add it to a region loss",
    ),
    Entry(
        "HausdorffDTLoss",
        "surfaces",
        "mean (p−y)² (|φ|^α + |φ_p|^α), φ_p the distance to the prediction's boundary",
        "Karimi and Salcudean, TMI 2020",
        "as published; it measures a distance at every step",
        beside="blind where neither target nor prediction has a boundary: add it to a region loss",
    ),
    Entry(
        "RegionWiseLoss",
        "surfaces",
        "mean |p−y| z, z = 1 outside, depth / largest depth inside",
        "Valverde and Tohka, 2023",
        "labels that are least sure at their borders",
        beside="hardly pulls where it is confidently wrong: add it to a region loss",
        high=1,
    ),
    Entry(
        "BoundaryDoULoss",
        "surfaces",
        "1 − (1−α) Σpy / (Σp² + Σy² − (1+α) Σpy), α = min(1 − 2 boundary / volume, 0.8)",
        "Sun et al., MICCAI 2023",
        "an overlap for boundaries that needs no map",
        high=1,
    ),
    Entry(
        "ConnectedComponentDiceLoss",
        "instances",
        "mean over components r of the Dice loss within r's own region",
        "CC-DiceCE, arXiv 2511.17146",
        "lesions each of which counts, with false positives charged to one",
        beside="regions without the class cost nothing: add a cross entropy",
        high=1,
    ),
    Entry(
        "BlobLoss",
        "instances",
        "mean over components r of the Dice loss outside the others",
        "Kofler et al., IPMI 2023",
        "lesions each of which counts, however small",
        beside="images without a component cost nothing: add it to a loss of the whole image",
        high=1,
    ),
    Entry(
        "BettiMatchingLoss",
        "topology",
        "2 Σ squared distance of matched births and deaths + Σ lifetime² of the unmatched",
        "Stucki et al., ICML 2023",
        "the right pieces and loops in the right place; on a crop, every so many steps",
        beside="says little of shape: add a little of it, late, to a loss of every voxel",
    ),
    Entry(
        "TopographLoss",
        "topology",
        "Σ mean p of each wrong region that changes the topology",
        "Lux et al., arXiv 2411.03228",
        "pictures (two axes) whose pieces and holes must be right; on a crop, every so many steps",
        beside="sees the topology only: add it to a loss of every voxel",
    ),
    Entry(
        "HierarchicalDiceCELoss",
        "trees",
        "mean Dice loss of the nodes + Σ −log p(node | parent)",
        "",
        "nested classes: the first choice",
    ),
    Entry(
        "HierarchicalCrossEntropyLoss",
        "trees",
        "Σ_u e^(−α h(u)) · −log p(u | parent)",
        "Bertinetto et al., CVPR 2020",
        "which child it is should count more than in which part of the tree",
    ),
    Entry(
        "GeneralizedWassersteinDiceLoss",
        "trees",
        "1 − 2 Σα(1−W) / (2 Σα(1−W) + ΣW), W = Σ_l M_yl p_l",
        "Fidon et al., BrainLes 2017",
        "mistakes between near classes should cost less",
        beside="linear in p: add a cross entropy",
        high=1,
    ),
    Entry(
        "MultiLevelLoss",
        "trees",
        "−log p(level), or another distance of levels",
        "",
        "nested levels from a single channel",
    ),
    Entry(
        "TreeMinLoss",
        "trees",
        "focal loss of the least ancestor and the largest descendant",
        "Li et al., CVPR 2022",
        "sigmoids of a tree's nodes that should agree",
    ),
    Entry(
        "MaxConstraintLoss",
        "trees",
        "binary cross entropy of the maxima over (true) descendants",
        "Giunchiglia and Lukasiewicz, NeurIPS 2020",
        "sigmoids of a tree's nodes, nested by a maximum",
    ),
    Entry(
        "ExclusionLoss",
        "partial labels",
        "−log(1 − p) of the classes that a label excludes",
        "Shi et al., MedIA 2021",
        "data sets that label different organs: weighs what is ruled out",
        beside="says only what is not there: add a cross entropy",
    ),
    Entry(
        "NullBCELoss",
        "partial labels",
        "binary cross entropy of the classes a data set labels",
        "Kim et al., ECCV 2022",
        "data sets that label different, or overlapping, organs; a sigmoid each",
    ),
)
CATALOGUE = {entry.name: entry for entry in _ENTRIES}
"""The entries by name."""
