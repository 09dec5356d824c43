"""From a sampler's name to the sampler."""

from collections.abc import Mapping

from metric_jax.data.errors import DataError, unknown
from metric_jax.data.samplers.balanced import ClassBalancedSampler
from metric_jax.data.samplers.hard_classes import HardClassSampler
from metric_jax.data.samplers.hierarchical import HierarchicalSampler
from metric_jax.data.samplers.pk import PKSampler
from metric_jax.data.sources import Images

# The samplers, and what only some of them take, by the key of the config.
SAMPLERS: Mapping[str, tuple[str, ...]] = {
    "pk": (),
    "class_balanced": (),
    "hierarchical": ("super_classes",),
    "hard_classes": ("neighbours",),
}


def choose(
    images: Images,
    sampler: str = "pk",
    *,
    classes: int,
    samples: int,
    super_classes: int = 0,
    neighbours: int = 0,
    seed: int,
) -> PKSampler:
    """The sampler of that name for a training set.

    Args:
        images: The training set; of a hierarchical sampler with a column ``super``.
        sampler: ``"pk"``, ``"class_balanced"``, ``"hierarchical"`` or ``"hard_classes"``.
        classes: P, how many classes make a batch.
        samples: K, how many images of each.
        super_classes: S, how many super-classes they are of; of the hierarchical sampler alone.
        neighbours: How many of its nearest classes come with a class; of the sampler of hard classes alone.
        seed: Together with the number of the batch, all that its choice depends on.

    Raises:
        DataError: An unknown name, an option that the sampler does not take, or needs; as of the sampler.
    """
    check(sampler, super_classes=super_classes, neighbours=neighbours)
    common = {"classes": classes, "samples": samples, "seed": seed}
    names = images.class_names
    if sampler == "hierarchical":
        if "super" not in images.columns:
            raise DataError(
                "batch.sampler='hierarchical', but the training set has no super-classes: name a feature that holds "
                "them with data.super_key, or give the manifest a column 'super'"
            )
        supers = images.columns["super"]
        return HierarchicalSampler(
            images.labels, supers, super_classes=super_classes, class_names=names, **common
        )
    if sampler == "hard_classes":
        origins = images.columns.get("origin")
        return HardClassSampler(
            images.labels, neighbours=neighbours, origins=origins, class_names=names, **common
        )
    kind = ClassBalancedSampler if sampler == "class_balanced" else PKSampler
    return kind(images.labels, class_names=names, **common)


def check(sampler: str, *, super_classes: int, neighbours: int) -> None:
    """Raises a DataError for an unknown sampler, or an option that it does not take, or needs."""
    if sampler not in SAMPLERS:
        raise DataError(unknown("batch.sampler", sampler, SAMPLERS))
    for key, value in {"super_classes": super_classes, "neighbours": neighbours}.items():
        takers = [name for name, keys in SAMPLERS.items() if key in keys]
        if value and sampler not in takers:
            raise DataError(
                f"batch.{key}={value} is not for batch.sampler={sampler!r}: leave it, or set batch.sampler to "
                f"{takers[0]!r}"
            )
        if not value and sampler in takers:
            raise DataError(f"batch.sampler={sampler!r} needs batch.{key}: say how many")
