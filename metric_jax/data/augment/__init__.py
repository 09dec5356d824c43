"""Random changes of training images, on the device, inside the jitted step.

Each is a pure function ``(images, key, *, amounts) -> images`` of floating images [batch, height, width, channels] in
[0, 1] that changes every image in its own way; the same key gives the same changes, on any number of devices. With all
amounts 0 it gives the images back as they are. `random` is all of them in turn, and its amounts are the keys of
``config.augment``.
"""

from metric_jax.data.augment.chain import random as random
from metric_jax.data.augment.geometry import affine as affine
from metric_jax.data.augment.geometry import flip as flip
from metric_jax.data.augment.light import colour as colour
from metric_jax.data.augment.occlusion import cutout as cutout
from metric_jax.data.augment.occlusion import eyepatch as eyepatch
from metric_jax.data.augment.smoothing import blur as blur
