"""The models, by name: what a config calls them, and their constructors ``(image_shape, *, ..., rngs)``."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from metric_jax.models.convnet import ConvNet as ConvNet
from metric_jax.models.convnext import ConvNeXt as ConvNeXt
from metric_jax.models.network import IMAGENET_MEAN as IMAGENET_MEAN
from metric_jax.models.network import IMAGENET_STD as IMAGENET_STD
from metric_jax.models.network import Network as Network
from metric_jax.models.pretrained import load_pretrained as load_pretrained
from metric_jax.models.resnet import ResNet as ResNet
from metric_jax.models.vit import ViT as ViT

MODELS: dict[str, Callable[..., Network]] = {
    "convnet": ConvNet,
    "resnet18": functools.partial(ResNet, depths=(2, 2, 2, 2), bottleneck=False),
    "resnet50": functools.partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True),
    "vit_small": functools.partial(ViT, width=384, heads=6),
    "vit_base": functools.partial(ViT, width=768, heads=12),
    "convnext_tiny": functools.partial(ConvNeXt, depths=(3, 3, 9, 3), width=96),
}


def options(name: str) -> dict[str, Any]:
    """What can be chosen of a model, and the defaults.

    Example:
        >>> options("convnet")["width"], options("vit_base")["width"]
        (64, 768)
    """
    constructor = MODELS[name]
    preset = constructor.keywords if isinstance(constructor, functools.partial) else {}
    made = constructor.func if isinstance(constructor, functools.partial) else constructor
    parameters = inspect.signature(made.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty} | preset
