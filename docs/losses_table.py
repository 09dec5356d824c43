"""Writes docs/losses.md: every public loss and miner, read from its docstring and its signature.

    python docs/losses_table.py

So the page says what the code says; `make docs` writes it anew, and a test holds it to that.
"""

import inspect
import pathlib
import re
import sys

import metric_jax as mj
from metric_jax import interface

PAGE = pathlib.Path(__file__).parent / "losses.md"

# Modules in the order in which their losses are listed; whatever is missing here follows by name.
ORDER = (
    *("contrastive", "triplet", "explicit", "structured", "tuplets", "weighting", "softmax", "neighbours"),
    *("two_views", "ranking", "continuous", "proxy", "heads", "self_supervised", "regularizers"),
)
SHARED = {
    *(*interface.BATCH, *interface.MINER, *interface.PROXY, *interface.TWO_VIEWS, *interface.ROWS),
    *("anchor", "is_same", "triplets"),
}

PML, OPTAX, TFS, OML = "pytorch-metric-learning", "optax", "TF Similarity", "OML"
# Who else has a loss or a miner, and what it is called there.
PEERS = {
    "contrastive_loss": {PML: "ContrastiveLoss"},
    "batch_contrastive_loss": {PML: "ContrastiveLoss"},
    "triplet_loss": {PML: "TripletMarginLoss", OPTAX: "triplet_margin_loss", OML: "TripletLoss"},
    "batch_triplet_loss": {PML: "TripletMarginLoss", OML: "TripletLossWithMiner"},
    "batch_all_triplet_loss": {PML: "TripletMarginLoss", OML: "AllTripletsMiner"},
    "batch_hard_triplet_loss": {PML: "BatchHardMiner", TFS: "TripletLoss", OML: "HardTripletsMiner"},
    "batch_semi_hard_triplet_loss": {TFS: "TripletLoss"},
    "lifted_structure_loss": {PML: "LiftedStructureLoss", TFS: "LiftedStructLoss"},
    "generalized_lifted_structure_loss": {PML: "GeneralizedLiftedStructureLoss"},
    "histogram_loss": {PML: "HistogramLoss"},
    "angular_loss": {PML: "AngularLoss"},
    "npairs_loss": {PML: "NPairsLoss"},
    "tuplet_margin_loss": {PML: "TupletMarginLoss"},
    "multi_similarity_loss": {PML: "MultiSimilarityLoss", TFS: "MultiSimilarityLoss"},
    "circle_loss": {PML: "CircleLoss", TFS: "CircleLoss"},
    "margin_loss": {PML: "MarginLoss"},
    "ranked_list_loss": {PML: "RankedListLoss"},
    "intra_pair_variance_loss": {PML: "IntraPairVarianceLoss"},
    "signal_to_noise_loss": {PML: "SignalToNoiseRatioContrastiveLoss"},
    "ntxent_loss": {PML: "NTXentLoss", OPTAX: "ntxent", TFS: "SimCLRLoss"},
    "supcon_loss": {PML: "SupConLoss"},
    "infonce_loss": {PML: "NTXentLoss", TFS: "MultiNegativesRankLoss"},
    "nca_loss": {PML: "NCALoss"},
    "soft_nearest_neighbor_loss": {TFS: "SoftNearestNeighborLoss"},
    "fastap_loss": {PML: "FastAPLoss"},
    "smooth_ap_loss": {PML: "SmoothAPLoss"},
    "pnp_loss": {PML: "PNPLoss"},
    "proxy_nca_loss": {PML: "ProxyNCALoss"},
    "proxy_nca_pp_loss": {PML: "ProxyNCALoss"},
    "proxy_anchor_loss": {PML: "ProxyAnchorLoss"},
    "soft_triple_loss": {PML: "SoftTripleLoss"},
    "normalized_softmax_loss": {PML: "NormalizedSoftmaxLoss"},
    "arcface_loss": {PML: "ArcFaceLoss", OML: "ArcFaceLoss"},
    "cosface_loss": {PML: "CosFaceLoss"},
    "subcenter_arcface_loss": {PML: "SubCenterArcFaceLoss"},
    "sphereface_loss": {PML: "SphereFaceLoss"},
    "large_margin_softmax_loss": {PML: "LargeMarginSoftmaxLoss"},
    "instance_loss": {PML: "InstanceLoss"},
    "p2sgrad_loss": {PML: "P2SGradLoss"},
    "vicreg_loss": {PML: "VICRegLoss", TFS: "VicReg"},
    "barlow_twins_loss": {TFS: "Barlow"},
    "embedding_norm_loss": {PML: "LpRegularizer"},
    "zero_mean_loss": {PML: "ZeroMeanRegularizer"},
    "mining.batch_hard": {PML: "BatchHardMiner", OML: "HardTripletsMiner"},
    "mining.batch_easy_hard": {PML: "BatchEasyHardMiner", OML: "NHardTripletsMiner"},
    "mining.triplet_margin": {PML: "TripletMarginMiner"},
    "mining.pair_margin": {PML: "PairMarginMiner"},
    "mining.multi_similarity": {PML: "MultiSimilarityMiner"},
    "mining.distance_weighted": {PML: "DistanceWeightedMiner"},
    "mining.angular": {PML: "AngularMiner"},
    "mining.uniform_histogram": {PML: "UniformHistogramMiner"},
}

INTRODUCTION = """\
# Losses and miners

Generated from docstrings and signatures by `make docs`; do not edit. The tables list what each loss has beside the
arguments of its kind, and `help(mj.supcon_loss)` says what the letters of a formula stand for. `mj.recipes` holds the
hyperparameters of the papers.

- Losses of `embeddings, labels` share `references`, `reference_labels`, `reference_where`, `with_batch`, `where`,
  `match`, `pairs`, `reduction`, `tile` and `axis_name`; miners have all of these but `pairs` and `reduction`.
- Losses of `embeddings, labels, proxies` share `proxy_labels`, `where`, `reduction`, `tile`, `axis_name`, `class_axis`.
- Losses of two views `x, y` and regularizers of `embeddings` have `where` and `axis_name`, and what `help()` says.
- `batch_triplet_loss` takes `embeddings, triplets`, and `triplet_loss` and `contrastive_loss` compare row with row.
"""

DIFFERENCES = """\
## Where pytorch-metric-learning differs

Its version 2.9.0, seen when the two were compared. Where this library differs, it does so on purpose.

- It normalises embeddings unless told otherwise. Here a distance says what it does, and only the cosine normalises.
- `TripletMarginLoss` averages over triplets that are not zero by default: `reduction="mean_active"` here.
- `ContrastiveLoss` is linear in the distance and averages positive and negative pairs apart; the paper's is neither.
- `NTXentLoss` saturates in float32 at low temperatures: 22.46 where 50.76 is true.
- `ProxyNCALoss` has the own proxy in the denominator: that is `proxy_nca_pp_loss`; the paper's ProxyNCA has not.
- `SmoothAPLoss` counts an anchor as its own first hit, and is wrong unless classes are as many as samples of each.
- `TupletMarginLoss` has a gradient of NaN where two rows coincide.
- `AngularLoss` agrees on rows that were normalised beforehand, and on no others.
- `MarginLoss` keeps its learned boundary in float32, whatever the type of the embeddings.
- The margins of `ArcFaceLoss` and `SubCenterArcFaceLoss` are in degrees; angles here are in radians.
- The gradient of its distributed wrapper is off by a third and more with `efficient=True`.
- `AccuracyCalculator` casts labels to float32, in which the classes 16777216 and 16777217 are one.
"""


def losses():
    """The public losses by module: ``{module: {name: function}}``."""
    found = {}
    for name, value in vars(mj).items():
        if name.endswith("_loss"):
            found.setdefault(value.__module__, {})[name] = value

    def place(module):
        family = module.rpartition(".")[2]
        return (ORDER.index(family) if family in ORDER else len(ORDER), family)

    return {module: dict(sorted(found[module].items())) for module in sorted(found, key=place)}


def miners():
    """The public miners: what takes embeddings and labels in `metric_jax.mining`."""
    return {
        f"mining.{name}": value
        for name, value in sorted(vars(mj.mining).items())
        if inspect.isfunction(value)
        and list(inspect.signature(value).parameters)[:2] == ["embeddings", "labels"]
    }


def formula(function):
    """The sentence of a docstring that holds its first formula, as far as a full stop, a colon or a semicolon."""
    text = inspect.getdoc(function).partition("\n")[2].partition("\nArgs:")[0]
    sentences = re.findall(r"(?:``.*?``|[^`.;:]|[.;:](?!\s|$)|`)+", text, re.DOTALL)
    found = next((sentence for sentence in sentences if "``" in sentence), "")
    return re.sub(r"``(.*?)``", lambda code: _code(code[1]), " ".join(found.split()))


def papers(function):
    """The papers of a docstring: ``[(authors and year, title, link)]``."""
    cited = " ".join(inspect.getdoc(function).partition("\nReferences:")[2].split())
    return re.findall(r"(\S.*? \(\d{4}\)), (.*?)\.? (https?://\S+)", cited)


def arguments(function):
    """The arguments of a function's own, with their defaults, as they are written in a call."""
    parameters = inspect.signature(function).parameters.values()
    return [
        p.name if p.default is p.empty else f"{p.name}={_value(p.default)}"
        for p in parameters
        if p.name not in SHARED and (p.default is not p.empty or p.kind is p.KEYWORD_ONLY)
    ]


def _value(value):
    if isinstance(value, float):
        return f"{value:g}"
    return getattr(value, "__name__", None) or repr(value)


def table(functions):
    """The lines of a Markdown table of functions by name."""
    lines = ["| | formula | arguments | paper | also in |", "| --- | --- | --- | --- | --- |"]
    for name, function in functions.items():
        cells = (
            _code(name),
            formula(function),
            ", ".join(map(_code, arguments(function))),
            "; ".join(f"{_short(authors)}, [{title}]({link})" for authors, title, link in papers(function)),
            ", ".join(f"{peer}: {_code(theirs)}" for peer, theirs in PEERS.get(name, {}).items()),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _code(text):
    """Text as code within a table, in which a bar would end the cell."""
    return f"`{text}`".replace("|", r"\|") if text else ""


def _short(authors):
    names, _, year = authors.rpartition(" (")
    listed = names.split(", ")
    return f"{listed[0]} et al. ({year}" if len(listed) > 3 else authors


def page():
    """The whole of docs/losses.md."""
    lines = [*INTRODUCTION.splitlines(), ""]
    for module, functions in losses().items():
        title = inspect.getdoc(sys.modules[module]).partition("\n")[0].rstrip(".")
        lines += [f"## {title}", "", *table(functions), ""]
    lines += ["## Miners", "", *table(miners()), "", *DIFFERENCES.splitlines()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
