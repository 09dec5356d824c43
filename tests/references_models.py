"""The published networks as float64 NumPy, from weights under the names that torchvision and timm give them.

Also random weights of tiny networks under these names, and a writer of safetensors files.
"""

import json
import math

import numpy as np

# --- layers, of images [n, channels, height, width] as torch has them -------------------------------------------------


def convolution(x, weights, name, *, stride=1, padding=0, groups=1):
    kernel = weights[f"{name}.weight"]
    side, each = kernel.shape[-1], x.shape[1] // groups
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    rows, columns = ((sides - side) // stride + 1 for sides in x.shape[2:])
    out = np.zeros((len(x), len(kernel), rows, columns))
    for channel, one in enumerate(kernel):
        first = channel // (len(kernel) // groups) * each
        for i in range(side):
            for j in range(side):
                seen = x[
                    :, first : first + each, i : i + rows * stride : stride, j : j + columns * stride : stride
                ]
                out[:, channel] += np.einsum("nchw,c->nhw", seen[:, :, :rows, :columns], one[:, i, j])
    bias = weights.get(f"{name}.bias")
    return out if bias is None else out + bias[:, None, None]


def max_pool(x):
    """The largest of 3×3 around every second pixel."""
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    rows, columns = ((sides - 3) // 2 + 1 for sides in x.shape[2:])
    out = np.empty((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            out[:, :, i, j] = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(2, 3))
    return out


def batch_norm(x, weights, name, train):
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if train:
        mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    mean, var, scale, bias = (
        each[:, None, None] for each in (mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"])
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def layer_norm(x, weights, name):
    """Over the last axis."""
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def relu(x):
    return np.maximum(x, 0)


# --- networks, from standardised images to features -------------------------------------------------------------------


def resnet(x, weights, depths, *, bottleneck, train=False):
    paddings = [0, 1, 0] if bottleneck else [1, 1]
    x = max_pool(
        relu(batch_norm(convolution(x, weights, "conv1", stride=2, padding=3), weights, "bn1", train))
    )
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = x
            for unit, padding in enumerate(paddings, start=1):
                by = stride if unit == (2 if bottleneck else 1) else 1
                y = convolution(y, weights, f"{name}.conv{unit}", stride=by, padding=padding)
                y = batch_norm(y, weights, f"{name}.bn{unit}", train)
                y = relu(y) if unit < len(paddings) else y
            if f"{name}.downsample.0.weight" in weights:
                x = convolution(x, weights, f"{name}.downsample.0", stride=stride)
                x = batch_norm(x, weights, f"{name}.downsample.1", train)
            x = relu(x + y)
    return x.mean(axis=(2, 3))


def vit(x, weights, *, patch, blocks, heads):
    """By timm's names."""
    x = convolution(x, weights, "patch_embed.proj", stride=patch)
    x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    x = np.concatenate([np.repeat(weights["cls_token"], len(x), axis=0), x], axis=1) + weights["pos_embed"]
    for block in range(blocks):
        name = f"blocks.{block}"
        qkv = linear(layer_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv")
        q, k, v = (np.split(each, heads, axis=-1) for each in np.split(qkv, 3, axis=-1))
        attended = []
        for query, key, value in zip(q, k, v, strict=True):
            logits = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
            attended.append(logits / logits.sum(axis=-1, keepdims=True) @ value)
        x = x + linear(np.concatenate(attended, axis=-1), weights, f"{name}.attn.proj")
        hidden = gelu(linear(layer_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
        x = x + linear(hidden, weights, f"{name}.mlp.fc2")
    return layer_norm(x, weights, "norm")[:, 0]


def convnext(x, weights, depths):
    """By timm's names."""

    def normed(x, name):
        return layer_norm(x.transpose(0, 2, 3, 1), weights, name).transpose(0, 3, 1, 2)

    x = normed(convolution(x, weights, "stem.0", stride=4), "stem.1")
    for stage, depth in enumerate(depths):
        if stage:
            x = normed(x, f"stages.{stage}.downsample.0")
            x = convolution(x, weights, f"stages.{stage}.downsample.1", stride=2)
        for block in range(depth):
            name = f"stages.{stage}.blocks.{block}"
            y = convolution(x, weights, f"{name}.conv_dw", padding=3, groups=x.shape[1]).transpose(0, 2, 3, 1)
            y = gelu(linear(layer_norm(y, weights, f"{name}.norm"), weights, f"{name}.mlp.fc1"))
            y = linear(y, weights, f"{name}.mlp.fc2") * weights[f"{name}.gamma"]
            x = x + y.transpose(0, 3, 1, 2)
    return layer_norm(x.mean(axis=(2, 3)), weights, "head.norm")


# --- weights ----------------------------------------------------------------------------------------------------------


def resnet_shapes(depths, width, *, bottleneck):
    shapes = {
        "conv1.weight": (width, 3, 7, 7),
        **batch_normed("bn1", width),
        "fc.weight": (10, 1),
        "fc.bias": (10,),
    }
    channels = width
    for stage, depth in enumerate(depths):
        inner = width << stage
        outer = 4 * inner if bottleneck else inner
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            plan = [(channels, inner, 3), (inner, inner, 3)]
            if bottleneck:
                plan = [(channels, inner, 1), (inner, inner, 3), (inner, outer, 1)]
            for unit, (before, after, side) in enumerate(plan, start=1):
                shapes[f"{name}.conv{unit}.weight"] = (after, before, side, side)
                shapes |= batch_normed(f"{name}.bn{unit}", after)
            if channels != outer or (stage and not block):
                shapes[f"{name}.downsample.0.weight"] = (outer, channels, 1, 1)
                shapes |= batch_normed(f"{name}.downsample.1", outer)
            channels = outer
    return shapes


def vit_shapes(*, patch, width, blocks, tokens):
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        **layered("patch_embed.proj", width, 3, patch, patch),
        **layered("norm", width),
        **layered("head", 10, width),
    }
    for block in range(blocks):
        name = f"blocks.{block}"
        shapes |= layered(f"{name}.norm1", width) | layered(f"{name}.norm2", width)
        shapes |= layered(f"{name}.attn.qkv", 3 * width, width) | layered(f"{name}.attn.proj", width, width)
        shapes |= layered(f"{name}.mlp.fc1", 4 * width, width) | layered(f"{name}.mlp.fc2", width, 4 * width)
    return shapes


def convnext_shapes(depths, width):
    shapes = {**layered("stem.0", width, 3, 4, 4), **layered("stem.1", width)}
    for stage, depth in enumerate(depths):
        inner = width << stage
        if stage:
            shapes |= layered(f"stages.{stage}.downsample.0", inner // 2)
            shapes |= layered(f"stages.{stage}.downsample.1", inner, inner // 2, 2, 2)
        for block in range(depth):
            name = f"stages.{stage}.blocks.{block}"
            shapes |= layered(f"{name}.conv_dw", inner, 1, 7, 7) | layered(f"{name}.norm", inner)
            shapes |= layered(f"{name}.mlp.fc1", 4 * inner, inner) | layered(
                f"{name}.mlp.fc2", inner, 4 * inner
            )
            shapes[f"{name}.gamma"] = (inner,)
    last = width << (len(depths) - 1)
    return shapes | layered("head.norm", last) | layered("head.fc", 10, last)


def layered(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def batch_normed(name, width):
    statistics = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    return layered(name, width) | statistics | {f"{name}.num_batches_tracked": ()}


def weights_of(shapes, seed=0):
    """Random float32 weights of these shapes, none of them at a value that an error could hide behind."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = np.int64(7)
        elif len(shape) > 1 and not name.startswith(("cls", "pos")):
            weights[name] = generator.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        elif name.endswith(("running_var", "weight", "gamma")):
            weights[name] = generator.uniform(0.5, 1.5, shape)
        else:
            weights[name] = generator.uniform(-0.3, 0.3, shape)
    return {
        name: np.asarray(value, np.int64 if value.dtype == np.int64 else np.float32)
        for name, value in weights.items()
    }


DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "uint8": "U8",
}


def write_safetensors(path, tensors, *, header=None):
    """Writes arrays as the format has them; a header of one's own, to see it refused, goes in place of theirs."""
    entries, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        content = array.tobytes()
        offsets = [len(data), len(data) + len(content)]
        entries[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        data += content
    text = json.dumps(entries).encode() if header is None else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path
