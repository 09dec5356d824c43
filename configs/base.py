"""Every key that a config has, with its default.

A config file has a function `get_config` that takes this one and changes what differs. It is locked: a key that does
not stand here is an error, in a file and on the command line alike.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# What only some losses have; `metric_jax.losses` says which, and what it means.
_NUMBERS = (
    *("alpha", "b", "balance", "base", "beta", "epsilon", "largest", "scale", "sigma", "tau"),
    *("positive_epsilon", "negative_epsilon", "positive_margin", "negative_margin"),
    *("positive_temperature", "negative_temperature", "rank_temperature", "similarity_temperature"),
)


def get_config() -> ConfigDict:
    """The defaults: batch-hard triplet loss, a small convolutional network, Adam."""
    config = ConfigDict()
    config.steps = 1000
    config.seed = 0  # of everything random, but for the split
    config.log_every = 50  # steps between lines in metrics.jsonl
    config.eval_every = 500
    config.eval_batch = 512  # images embedded at a time
    config.eval_views = 1  # views of an image whose mean is its embedding: itself, and others made by augment
    config.eval_mirrored = False  # whether in the mirror too
    config.eval_whitening = placeholder(float)  # shrinkage of `whitening.fit` to the training set; None: none
    config.checkpoint_every = 500
    config.checkpoints_kept = 2  # the latest; and the best, if best_metric is given
    config.best_metric = ""  # "map_at_r", ...: the checkpoint of the evaluation where it is highest is kept
    config.patience = 0  # evaluations in a row without a better best_metric that end the training; 0: any
    config.profile = 0  # steps to trace, after the first ten, into the folder profile
    config.compiled = ""  # a folder for compiled programs, with which later runs begin sooner; empty: none
    config.wandb = ""  # the project of Weights & Biases that metrics go to as well
    config.ema = 0.0  # decay of a moving average of the parameters, which then is what is evaluated; 0: none

    config.data = ConfigDict()
    config.data.source = "digits"  # or "folder", "tfds", "vinyals" (Omniglot, parted for few-shot learning)
    config.data.name = ""  # of the TFDS set
    config.data.root = ""  # the folder that holds one folder of images for every class, or a manifest
    config.data.skip_bad = False  # leave out files of that folder that cannot be used, rather than stop
    config.data.data_dir = ""  # where TFDS sets lie; else $TFDS_DATA_DIR, else ~/tensorflow_datasets
    config.data.split = "image"  # test on unseen images of known classes; "class", "in_order" or "own"
    config.data.test_fraction = 0.2  # of the images of every class, or of the classes
    config.data.split_seed = 0  # not the seed of the run: all runs are to be tested on the same images
    config.data.train_split = "train"  # the TFDS split to train on
    config.data.test_split = "test"  # the one to test on, with split="own"
    config.data.image_key = "image"  # the TFDS feature that holds the image
    config.data.label_key = "label"  # the one that holds the class
    config.data.super_key = ""  # the one that holds the class of the class, if there is one
    config.data.size = 0  # side to resize images to, as squares; 0 keeps their own
    config.data.crop = False  # to cut out the middle of what is not square, rather than squeeze it
    config.data.channels = 0  # 1 makes images grey, 3 coloured; 0: grey if all are, else coloured
    config.data.min_images = 0  # classes with fewer images are not trained on, and with split "image" nowhere
    config.data.rotations = False  # training images turned by 90, 180, 270 degrees are further classes
    config.data.mirrors = False  # and so are those that are mirrored left to right
    config.data.cache = ""  # a folder for decoded images, which later runs map into memory; empty: none

    config.batch = ConfigDict()
    config.batch.sampler = "pk"  # or "class_balanced", "hierarchical", "hard_classes"
    config.batch.classes = 10  # P
    config.batch.samples = 8  # K, of each class
    config.batch.super_classes = 0  # classes of classes in a batch, by the hierarchical sampler
    config.batch.neighbours = 0  # classes that come with a class, as the nearest, by that of hard classes
    config.batch.chunk = 0  # images through the network at a time on each device, to save its memory; 0: all

    config.augment = ConfigDict()  # of training images, at random; docs/augmentation.md; all 0: none
    config.augment.eyepatch = 0.0  # probability, as that of flip
    config.augment.rotate = 0.0  # degrees
    config.augment.scale = 0.0  # 0.1: from 1/1.1 to 1.1; as those of aspect, brightness, contrast, saturation
    config.augment.shear = 0.0  # pixels a row moves sideways for every row from the centre
    config.augment.translate = 0.0  # fraction of the side
    config.augment.crop = 0.0  # smallest area of a crop that is resized to the whole; 0: no crop
    config.augment.aspect = 0.0  # of that crop
    config.augment.flip = 0.0  # left to right
    config.augment.brightness = 0.0
    config.augment.contrast = 0.0
    config.augment.saturation = 0.0
    config.augment.hue = 0.0  # turns: 0.5 is any hue
    config.augment.blur = 0.0  # standard deviation, pixels
    config.augment.cutout = 0.0  # side of what is hidden, as a fraction of the image's
    config.augment.cutout_fill = placeholder(float)  # brightness of what is hidden; None: noise

    config.model = ConfigDict()  # None is the model's own default; a model refuses what it does not have
    config.model.name = "convnet"  # or "resnet18", "resnet50", "vit_small", "vit_base", "convnext_tiny"
    config.model.pretrained = ""  # a safetensors file to begin with, its tensors as of timm or torchvision
    config.model.dtype = "float32"  # or "bfloat16": what is computed in
    config.model.normalise = True  # embeddings of length 1
    config.model.dim = 64  # of the embedding
    config.model.width = placeholder(int)  # channels, of convnet those of the first block
    config.model.blocks = placeholder(int)  # of convnet, vit
    config.model.growth = placeholder(int)  # of the channels from block to block, of convnet
    config.model.depths = placeholder(tuple)  # blocks of each stage, of resnet, convnext
    config.model.norm = placeholder(str)  # "batch" or "group", of convnet
    config.model.neck = placeholder(bool)  # a BatchNorm behind the head, of the others
    config.model.patch = placeholder(int)  # side of a patch, of vit, convnet
    config.model.heads = placeholder(int)  # of attention, of vit
    config.model.mean = placeholder(tuple)  # subtracted from red, green, blue, of all but convnet
    config.model.std = placeholder(tuple)  # what they are then divided by

    config.loss = ConfigDict()  # what is None is the loss's own default; a loss refuses what it does not have
    config.loss.name = "batch_hard_triplet_loss"  # or "proxy_anchor_loss", which learns proxies, or ...
    config.loss.reduction = "mean"
    config.loss.distance = placeholder(str)  # "euclidean", ...; also that of the evaluation
    config.loss.similarity = placeholder(str)  # "cosine_similarity", ...; of a loss that takes one
    config.loss.penalty = placeholder(str)  # "relu" or "softplus", the soft margin
    config.loss.margin = placeholder(float)
    config.loss.temperature = placeholder(float)
    for key in _NUMBERS:
        config.loss[key] = placeholder(float)
    config.loss.bins = placeholder(int)  # of a histogram
    config.loss.ks = placeholder(tuple)  # the neighbours of recall_at_k_loss
    config.loss.swap = placeholder(bool)  # whether a triplet's negative meets its positive too
    config.loss.otherwise = placeholder(
        str
    )  # what semi-hard mining does with a pair that has no such negative
    config.loss.variant = placeholder(str)  # of pnp_loss
    config.loss.centers = placeholder(int)  # proxies of a class, of a loss that takes several
    config.loss.trainable = ()  # numbers that are learned from their value on: ("temperature",), ("beta",)
    config.loss.before = ""  # the name of another batch loss for the first steps, with the same options
    config.loss.before_steps = 0

    config.memory = ConfigDict()  # cross-batch memory, of a loss without proxies
    config.memory.size = 0  # embeddings of earlier batches that a batch is compared with too; 0: none
    config.memory.start = 0  # the first step to do so: early on, what was embedded some steps ago says little

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # or "adamw", "muon", "lion", "lamb", "lars", "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.loss_learning_rate = placeholder(float)  # of what the loss learns; None: the same
    config.optimizer.schedule = "cosine"  # or "linear", "exponential", "step", "constant"
    config.optimizer.warmup = 0  # steps
    config.optimizer.final = 0.0  # fraction of the learning rate that cosine, linear, exponential end with
    config.optimizer.drop = 0.1  # what every drop of "step" multiplies the learning rate by
    config.optimizer.drops = (0.5, 0.75)  # when it drops, as fractions of the steps
    config.optimizer.weight_decay = 0.0  # of the network's kernels, by all but adam
    config.optimizer.momentum = placeholder(float)  # of sgd and lars; None: 0.9
    config.optimizer.clip = 0.0  # norm to which a longer gradient, of all parameters, is cut; 0: none is
    config.optimizer.freeze = ()  # parts of the model whose parameters stay as they are: ("stem", "blocks.0")
    config.optimizer.freeze_statistics = False  # BatchNorm uses its running mean and variance, which stay

    config.devices = ConfigDict()
    config.devices.shard_params = False  # to spread parameters and optimizer over the devices (FSDP)
    return config.lock()
