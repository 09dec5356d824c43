"""Labeled Faces in the Wild (Huang et al. 2007): 13,233 photos of 5,749 people, of whom 1,680 have two or more.

    python experiments/train.py --config=configs/lfw.py --workdir=runs/lfw --config.data.root=LFW_FOLDER

LFW_FOLDER holds a folder for every person, such as the unpacked lfw-funneled.tgz. Trains on 70 % of the people, as many
as peopleDevTrain.txt names, and tests on the others, whom training never saw; of both, who has only one photo is no
query and teaches nothing.

Which people are in which part the seed of the split draws: it is not LFW's own test, which is 6,000 pairs, in ten
folds, of people on whom nothing is to be trained: experiments/lfw.py makes it of a run that was trained on other faces,
as LFW's protocol of "unrestricted, labeled outside data" allows. Not run yet: there is no expected result.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Batches of 32 people × 2 photos, for many have no third."""
    config = base.get_config()
    config.steps = 4000
    config.data.source = "folder"
    config.data.split = "class"
    config.data.test_fraction = 0.3
    config.data.min_images = 2
    config.data.size = 64
    config.data.channels = 3
    config.batch.classes = 32
    config.batch.samples = 2
    config.loss.name = "batch_semi_hard_triplet_loss"
    config.augment.flip = 0.5
    config.augment.rotate = 10.0
    config.augment.scale = 0.1
    config.augment.translate = 0.05
    config.augment.brightness = 0.2
    config.augment.contrast = 0.2
    return config
