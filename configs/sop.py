r"""Stanford Online Products (Song et al. 2016, https://arxiv.org/abs/1511.06452): 22,634 products of 12 kinds.

    python -m metric_jax.data.prepare stanford_online_products --data_dir=TFDS_FOLDER
    python experiments/train.py --config=configs/sop.py --workdir=runs/sop --config.data.data_dir=TFDS_FOLDER \
        --config.model.pretrained=resnet50.safetensors --config.data.cache=CACHE_FOLDER

The set's own split: 59,551 photos of 11,318 products to train on, 60,502 of 11,316 others to test on, at 224×224. All
else is as in configs/cub.py, but that a batch is of 4 kinds of products, so that bicycles meet bicycles. With the cache
later runs map the photos into memory, 18 GB; the first one needs that much twice to decode them. The authors of
Proxy-Anchor report a recall@1 of 0.791, of an Inception network and batches of any kind. It takes a GPU, and has not
been run yet.
"""

from ml_collections import ConfigDict

from configs import cub


def get_config() -> ConfigDict:
    """Batches of 88 products × 2 photos, for many have no third; 60 epochs."""
    config = cub.get_config()
    config.steps = 20300
    config.eval_every = 2030
    config.checkpoint_every = 1015
    config.data.name = "stanford_online_products"
    config.data.split = "own"
    config.data.train_split = "train"
    config.data.label_key = "class_id"
    config.data.super_key = "super_class_id"
    config.batch.sampler = "hierarchical"
    config.batch.super_classes = 4
    config.batch.classes = 88
    config.batch.samples = 2
    config.optimizer.learning_rate = 6e-4
    config.optimizer.loss_learning_rate = 6e-2
    config.optimizer.drop = 0.25
    config.optimizer.drops = (1 / 3, 2 / 3)  # every 20 epochs
    config.optimizer.freeze_statistics = False
    return config
