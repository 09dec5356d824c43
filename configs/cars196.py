r"""Cars196 (Krause et al. 2013): 16,185 photos of 196 models of cars.

    python -m metric_jax.data.prepare cars196 --data_dir=TFDS_FOLDER
    python experiments/train.py --config=configs/cars196.py --workdir=runs/cars196 --config.data.data_dir=TFDS_FOLDER \
        --config.model.pretrained=resnet50.safetensors

The protocol of Song et al. (2016, https://arxiv.org/abs/1511.06452): trains on the first 98 models and tests on the
last 98, without bounding boxes. All else is as in configs/cub.py, with what it says of the authors' recipe; they
report a recall@1 of 0.861, of a ResNet-50 0.877. It takes a GPU, and has not been run yet.

The address that TFDS 4.9 downloads from no longer answers. Photos from elsewhere, in one folder a model, are the same
set by --config.data.source=folder --config.data.root=FOLDER --config.data.split=in_order, if the folders' names are in
the order of the models.
"""

from ml_collections import ConfigDict

from configs import cub


def get_config() -> ConfigDict:
    """Batches of 45 models × 4 photos; 60 epochs of 8,054 photos."""
    config = cub.get_config()
    config.steps = 2680
    config.eval_every = 268
    config.checkpoint_every = 268
    config.data.name = "cars196"
    config.optimizer.drops = (1 / 3, 2 / 3)  # every 20 epochs
    return config
