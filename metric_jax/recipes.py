"""Recipes: a loss as its paper used it.

A loss's name does not say which temperature its paper took, whether its rows had length 1, or what stood in a batch,
and results hang on these. A recipe holds all of it, and is called like its loss:

    loss = mj.recipes.get("facenet")
    loss(embeddings, labels)             # semi-hard, squared distances of unit rows, margin 0.2
    loss(embeddings, labels, margin=0.3)

Where a paper gives a loss several sets of hyperparameters, each is a recipe of its own.
"""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.distances import as_rows, normalize, squared_euclidean
from metric_jax.losses import (
    continuous,
    contrastive,
    heads,
    neighbours,
    proxy,
    ranking,
    regularizers,
    self_supervised,
    softmax,
    structured,
    triplet,
    tuplets,
    two_views,
    weighting,
)

# Arguments that hold embeddings, and the masks that go with them.
_MASKS = {"embeddings": "where", "x": "where", "y": "where", "references": "reference_where"}


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """A loss with a paper's hyperparameters and its treatment of the embeddings; called like the loss.

    Attributes:
        name: What `get` knows it by.
        loss: The loss.
        own: The paper's hyperparameters; what a call gives goes before them.
        paper: Who and when, and where to read it.
        batch: What the paper has in a batch.
        normalises: Whether embeddings are scaled to length 1 before the loss. A loss of cosines needs none of that.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> facenet = mj.recipes.get("facenet")
        >>> facenet(jnp.array([[3.0, 0.0], [0.0, 2.0], [9.0, 0.0]]), jnp.array([0, 0, 1]), reduction="none")
        Array([2.2, 0.2, 0. ], dtype=float32)
    """

    name: str
    loss: Callable[..., Array]
    own: Mapping[str, Any]
    paper: str
    batch: str
    normalises: bool = False

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.loss)

    def __call__(self, *args: Any, **options: Any) -> Array:
        """The loss, with the paper's hyperparameters where the call gives no others."""
        options = {**self.own, **options}
        try:
            bound = self.__signature__.bind(*args, **options)
        except TypeError:
            return self.loss(*args, **options)  # which says what is wrong
        given = bound.arguments
        for name, mask in _MASKS.items():
            if self.normalises and given.get(name) is not None:
                given[name] = _unit_rows(given[name], given.get(mask), name)
        return self.loss(*bound.args, **bound.kwargs)


def _unit_rows(rows: Array, where: Array | None, name: str) -> Array:
    """Rows of length 1; zero where masked out, since a gradient through the length of a row of NaN is NaN."""
    rows = as_rows(rows, name)
    if where is not None and (mask := jnp.asarray(where)).shape == rows.shape[:1]:  # the loss names any other
        rows = jnp.where(mask[:, None], rows, 0.0)
    return normalize(rows)


def get(name: str) -> Recipe:
    """The recipe of that name.

    Args:
        name: One of the keys of `RECIPES`.

    Returns:
        The recipe.

    Raises:
        ValueError: There is none of that name.

    Example:
        >>> import metric_jax as mj
        >>> mj.recipes.get("proxy_anchor").own
        {'margin': 0.1, 'scale': 32.0}
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(RECIPES)}"
        raise ValueError(f"there is no recipe {name!r}{hint}")
    return RECIPES[name]


_P_BY_K = "P classes of K rows each"
_CLASSES = "a few rows of each of many classes"
_TWO_OF_EACH = "two augmented views of every item, labelled by the item"
_ANY = "any rows; proxies [classes, dim] are learned beside the network"
_VIEWS = "x and y are two augmented views of the same items"

_ALL = (
    # Pairs and triplets.
    Recipe(
        "contrastive",
        contrastive.batch_contrastive_loss,
        {"margin": 1.0},
        "Hadsell, Chopra, LeCun (2006), http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf",
        "all pairs; the margin sets the scale of the embedding, which nothing else does",
    ),
    Recipe(
        "facenet",
        triplet.batch_semi_hard_triplet_loss,
        {"margin": 0.2, "distance": squared_euclidean},
        "Schroff, Kalenichenko, Philbin (2015), https://arxiv.org/abs/1503.03832",
        "1,800 faces, about 40 of each person among them and the rest of others",
        normalises=True,
    ),
    Recipe(
        "batch_hard",
        triplet.batch_hard_triplet_loss,
        {"margin": 0.0, "penalty": jax.nn.softplus},
        "Hermans, Beyer, Leibe (2017), https://arxiv.org/abs/1703.07737",
        f"{_P_BY_K}: P = 18, K = 4",
    ),
    Recipe(
        "margin",
        weighting.margin_loss,
        {"margin": 0.2, "beta": 1.2, "reduction": "mean_active"},
        "Wu, Manmatha, Smola, Krähenbühl (2017), https://arxiv.org/abs/1706.07567",
        f"{_P_BY_K}: K = 5; pairs= from mining.distance_weighted, and beta may be learned",
        normalises=True,
    ),
    # The structure of a batch.
    Recipe(
        "lifted_structure",
        structured.lifted_structure_loss,
        {"margin": 1.0},
        "Oh Song, Xiang, Jegelka, Savarese (2016), https://arxiv.org/abs/1511.06452",
        _CLASSES,
    ),
    Recipe(
        "npairs",
        tuplets.npairs_loss,
        {},
        "Sohn (2016), "
        "https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective",
        f"{_P_BY_K}: K = 2; with a little embedding_norm_loss",
    ),
    Recipe(
        "histogram",
        structured.histogram_loss,
        {"bins": 100},
        "Ustinova, Lempitsky (2016), https://arxiv.org/abs/1611.00822",
        f"{_CLASSES}, 256 rows; the number of bins matters little",
    ),
    Recipe(
        "angular",
        structured.angular_loss,
        {"alpha": math.pi / 4},
        "Wang, Zhou, Wen, Liu, Lin (2017), https://arxiv.org/abs/1708.01682",
        f"{_P_BY_K}: K = 2",
    ),
    Recipe(
        "multi_similarity",
        weighting.multi_similarity_loss,
        {"alpha": 2.0, "beta": 50.0, "base": 1.0, "epsilon": 0.1},
        "Wang, Han, Huang, Dong, Scott (2019), https://arxiv.org/abs/1904.06627",
        f"{_P_BY_K}: K = 5",
    ),
    Recipe(
        "ranked_list",
        weighting.ranked_list_loss,
        {
            "alpha": 1.2,
            "margin": 0.4,
            "balance": 0.5,
            "positive_temperature": 0.0,
            "negative_temperature": 10.0,
        },
        "Wang, Hua, Kodirov, Hu, Garnier, Robertson (2019), https://arxiv.org/abs/1903.03238",
        _P_BY_K,
        normalises=True,
    ),
    Recipe(
        "circle_faces",
        weighting.circle_loss,
        {"margin": 0.25, "scale": 256.0},
        "Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei (2020), https://arxiv.org/abs/2002.10857",
        _CLASSES,
    ),
    Recipe(
        "circle_retrieval",
        weighting.circle_loss,
        {"margin": 0.4, "scale": 80.0},
        "Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei (2020), https://arxiv.org/abs/2002.10857",
        _P_BY_K,
    ),
    # Softmax over the batch.
    Recipe(
        "nca",
        neighbours.nca_loss,
        {},
        "Goldberger, Roweis, Hinton, Salakhutdinov (2004), "
        "https://papers.nips.cc/paper/2566-neighbourhood-components-analysis",
        "the whole training set",
    ),
    Recipe(
        "simclr",
        softmax.ntxent_loss,
        {"temperature": 0.1},
        "Chen, Kornblith, Norouzi, Hinton (2020), https://arxiv.org/abs/2002.05709",
        f"{_TWO_OF_EACH}: 4,096 images of ImageNet",
    ),
    Recipe(
        "simclr_cifar10",
        softmax.ntxent_loss,
        {"temperature": 0.5},
        "Chen, Kornblith, Norouzi, Hinton (2020), https://arxiv.org/abs/2002.05709",
        f"{_TWO_OF_EACH}: 256 to 4,096 images",
    ),
    Recipe(
        "supcon",
        softmax.supcon_loss,
        {"temperature": 0.1},
        "Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan (2020), "
        "https://arxiv.org/abs/2004.11362",
        "two augmented views of every item, labelled by its class: 6,144 rows",
    ),
    Recipe(
        "decoupled_contrastive",
        softmax.decoupled_contrastive_loss,
        {"temperature": 0.1},
        "Yeh, Hong, Hsu, Liu, Chen, LeCun (2021), https://arxiv.org/abs/2110.06848",
        f"{_TWO_OF_EACH}: as few as 256 images",
    ),
    Recipe(
        "clip",
        two_views.infonce_loss,
        {"temperature": 0.07, "symmetric": True},
        "Radford et al. (2021), https://arxiv.org/abs/2103.00020",
        "x are images and y their captions: 32,768 pairs; the temperature is learned from here on",
    ),
    Recipe(
        "siglip",
        two_views.siglip_loss,
        {"temperature": 0.1, "bias": -10.0},
        "Zhai, Mustafa, Kolesnikov, Beyer (2023), https://arxiv.org/abs/2303.15343",
        "x are images and y their captions: 32,768 pairs; temperature and bias are learned from here on",
    ),
    Recipe(
        "rank_n_contrast",
        continuous.rank_n_contrast_loss,
        {"temperature": 2.0},
        "Zha, Cao, Son, Yang, Katabi (2023), https://arxiv.org/abs/2210.01189",
        "two augmented views of every item, labelled by its number",
    ),
    # Ranks.
    Recipe(
        "fastap",
        ranking.fastap_loss,
        {"bins": 10, "largest": 2.0},
        "Cakir, He, Xia, Kulis, Sclaroff (2019), "
        "https://openaccess.thecvf.com/content_CVPR_2019/html/Cakir_Deep_Metric_Learning_to_Rank_CVPR_2019_paper.html",
        _P_BY_K,
    ),
    Recipe(
        "smooth_ap",
        ranking.smooth_ap_loss,
        {"temperature": 0.01},
        "Brown, Xie, Kalogeiton, Zisserman (2020), https://arxiv.org/abs/2007.12163",
        f"{_P_BY_K}: K = 4",
    ),
    Recipe(
        "recall_at_k",
        ranking.recall_at_k_loss,
        {"ks": (1, 2, 4, 8, 16), "rank_temperature": 1.0, "similarity_temperature": 0.01},
        "Patel, Tolias, Matas (2022), https://arxiv.org/abs/2108.11179",
        f"{_P_BY_K}: K = 4, thousands of rows",
    ),
    # Proxies.
    Recipe(
        "proxy_nca",
        proxy.proxy_nca_loss,
        {"scale": 1.0},
        "Movshovitz-Attias, Toshev, Leung, Ioffe, Singh (2017), https://arxiv.org/abs/1703.07464",
        _ANY,
    ),
    Recipe(
        "proxy_nca_pp",
        proxy.proxy_nca_pp_loss,
        {"temperature": 1.0 / 9.0},
        "Teh, DeVries, Taylor (2020), https://arxiv.org/abs/2004.01113",
        f"{_ANY}, at a far larger learning rate",
    ),
    Recipe(
        "proxy_anchor",
        proxy.proxy_anchor_loss,
        {"margin": 0.1, "scale": 32.0},
        "Kim, Kim, Cho, Kwak (2020), https://arxiv.org/abs/2003.13911",
        f"{_ANY}, at 100 times the learning rate",
    ),
    Recipe(
        "soft_triple",
        proxy.soft_triple_loss,
        {"scale": 20.0, "temperature": 0.1, "margin": 0.01, "tau": 0.2},
        "Qian, Shang, Sun, Hu, Li, Jin (2019), https://arxiv.org/abs/1909.05235",
        "any rows; proxies [classes, 10, dim] are learned beside the network",
    ),
    Recipe(
        "normalized_softmax",
        heads.normalized_softmax_loss,
        {"temperature": 0.05},
        "Zhai, Wu (2018), https://arxiv.org/abs/1811.12649",
        f"{_ANY}; embeddings from a layer norm without scale and bias",
    ),
    Recipe(
        "arcface",
        heads.arcface_loss,
        {"margin": 0.5, "scale": 64.0},
        "Deng, Guo, Xue, Zafeiriou (2019), https://arxiv.org/abs/1801.07698",
        f"{_ANY}: 512 faces",
    ),
    Recipe(
        "cosface",
        heads.cosface_loss,
        {"margin": 0.35, "scale": 64.0},
        "Wang et al. (2018), https://arxiv.org/abs/1801.09414",
        _ANY,
    ),
    # Two views without negatives, and regularizers.
    Recipe(
        "vicreg",
        self_supervised.vicreg_loss,
        {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "epsilon": 1e-4},
        "Bardes, Ponce, LeCun (2022), https://arxiv.org/abs/2105.04906",
        f"{_VIEWS}: 2,048 images, behind an expander of 8,192 dimensions",
    ),
    Recipe(
        "barlow_twins",
        self_supervised.barlow_twins_loss,
        {"offdiagonal": 5e-3},
        "Zbontar, Jing, Misra, LeCun, Deny (2021), https://arxiv.org/abs/2103.03230",
        f"{_VIEWS}: 2,048 images, behind a projector of 8,192 dimensions",
    ),
    Recipe(
        "alignment",
        self_supervised.alignment_loss,
        {"power": 2.0},
        "Wang, Isola (2020), https://arxiv.org/abs/2005.10242",
        f"{_VIEWS}; with the recipe 'uniformity' of each",
        normalises=True,
    ),
    Recipe(
        "uniformity",
        regularizers.uniformity_loss,
        {"t": 2.0},
        "Wang, Isola (2020), https://arxiv.org/abs/2005.10242",
        "one view of every item; with the recipe 'alignment'",
        normalises=True,
    ),
    Recipe(
        "koleo",
        regularizers.koleo_loss,
        {"epsilon": 1e-8},
        "Sablayrolles, Douze, Schmid, Jégou (2019), https://arxiv.org/abs/1806.03198",
        "one view of every item; DINOv2 gives it a weight of 0.1",
        normalises=True,
    ),
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
