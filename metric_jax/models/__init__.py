"""The models, by name: what a config calls them, and their constructors ``(image_shape, *, ..., rngs)``."""

from metric_jax.models.convnet import ConvNet as ConvNet

MODELS = {"convnet": ConvNet}
