r"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, https://arxiv.org/abs/1708.07747): 10 kinds of clothes in MNIST's format.

    python experiments/train.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist \
        --config.data.data_dir=TFDS_FOLDER

60,000 grey images of 28×28 to train on, 10,000 to test on, of the same 10 classes. Not run yet: there is no expected
result. configs/mnist.py, of the same size, takes two minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Batches of 10 kinds × 16 images; clothes are seen upright, and either way round."""
    config = base.get_config()
    config.steps = 500
    config.data.source = "tfds"
    config.data.name = "fashion_mnist"
    config.data.split = "own"
    config.batch.samples = 16
    config.augment.flip = 0.5
    config.augment.scale = 0.1
    config.augment.translate = 0.05
    return config
