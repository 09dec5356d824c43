r"""CUB-200-2011 (Wah et al. 2011): 11,788 photos of 200 species of birds.

    python -m metric_jax.data.prepare caltech_birds2011 --data_dir=TFDS_FOLDER
    python experiments/train.py --config=configs/cub.py --workdir=runs/cub --config.data.data_dir=TFDS_FOLDER \
        --config.model.pretrained=resnet50.safetensors

The protocol of Song et al. (2016, https://arxiv.org/abs/1511.06452): trains on the first 100 species and tests on the
last 100, without bounding boxes; the middle of every photo at 224×224. A ResNet-50 with ImageNet's weights, from a
safetensors file in the layout of timm or torchvision, learns Proxy-Anchor (Kim et al. 2020,
https://arxiv.org/abs/2003.13911) by its authors' recipe for an Inception network: 60 epochs of batches of 180, AdamW,
proxies at 100 times the network's learning rate, BatchNorm as it came. Otherwise than theirs, a batch has four photos
of each of its species rather than any, no epoch is spent on the head alone first, and a gradient that is too long is
cut as a whole, not number by number. They report a recall@1 of 0.684; of a ResNet-50, by a recipe with other batches
and drops, 0.699. It takes a GPU, and has not been run yet.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Batches of 45 species × 4 photos; 60 epochs of 5,864 photos."""
    config = base.get_config()
    config.steps = 1960
    config.eval_every = 196
    config.checkpoint_every = 196
    config.data.source = "tfds"
    config.data.name = "caltech_birds2011"
    config.data.split = "in_order"
    config.data.train_split = "train+test"  # all photos: TFDS parts them, and not the species
    config.data.test_fraction = 0.5
    config.data.size = 224
    config.data.crop = True
    config.data.channels = 3
    config.batch.classes = 45
    config.batch.samples = 4
    config.augment.crop = 0.16
    config.augment.aspect = 0.33
    config.augment.flip = 0.5
    config.model.name = "resnet50"
    config.model.pretrained = "resnet50.safetensors"
    config.model.dim = 512
    config.loss.name = "proxy_anchor_loss"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.loss_learning_rate = 1e-2
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "step"
    config.optimizer.drop = 0.5
    config.optimizer.drops = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6)  # every 10 epochs
    config.optimizer.clip = 10.0
    config.optimizer.freeze_statistics = True
    return config
