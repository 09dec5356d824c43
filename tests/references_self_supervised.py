"""References of losses that know no labels: two views of every item, and regularizers. See `references`."""

import math

import numpy as np
from references import relu

# Two views.


def vicreg(x, y, *, invariance=25.0, variance=25.0, covariance=1.0, epsilon=1e-4):
    """Bardes, Ponce, LeCun (2022), with the factors of the authors' code."""
    n, dim = x.shape
    loss = invariance * sum((x[i, j] - y[i, j]) ** 2 for i in range(n) for j in range(dim)) / (n * dim)
    if n < 2:
        return loss
    for z in (x, y):
        for j in range(dim):
            for k in range(dim):
                mean_j, mean_k = sum(z[:, j]) / n, sum(z[:, k]) / n
                together = sum((z[i, j] - mean_j) * (z[i, k] - mean_k) for i in range(n)) / (n - 1)
                if j == k:
                    loss += variance * relu(1.0 - math.sqrt(together + epsilon)) / (2 * dim)
                else:
                    loss += covariance * together**2 / dim
    return loss


def barlow_twins(x, y, *, offdiagonal=5e-3):
    """Zbontar et al. (2021): the correlation of every dimension of x with every dimension of y."""
    n, dim = x.shape
    if n < 2:
        return 0.0
    loss = 0.0
    for j in range(dim):
        for k in range(dim):
            a, b = x[:, j] - sum(x[:, j]) / n, y[:, k] - sum(y[:, k]) / n
            lengths = math.sqrt(sum(a * a)) * math.sqrt(sum(b * b))
            correlation = sum(a * b) / lengths if lengths else 0.0
            loss += (1.0 - correlation) ** 2 if j == k else offdiagonal * correlation**2
    return loss


def alignment(x, y, *, power=2.0):
    """Wang, Isola (2020)."""
    return sum(distance(a, b) ** power for a, b in zip(x, y, strict=True)) / len(x)


# Regularizers.


def distance(a, b):
    return math.sqrt(sum((a - b) ** 2))


def koleo(rows, *, epsilon=1e-8):
    """Sablayrolles et al. (2019), with DINOv2's epsilon."""
    if len(rows) < 2:
        return 0.0
    nearest = [min(distance(a, b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    return -sum(math.log(d + epsilon) for d in nearest) / len(rows)


def uniformity(rows, *, t=2.0):
    """Wang, Isola (2020)."""
    if len(rows) < 2:
        return 0.0
    exponents = [-t * distance(a, b) ** 2 for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    largest = max(exponents)
    return largest + math.log(sum(math.exp(e - largest) for e in exponents) / len(exponents))


def embedding_norm(rows, *, radius=0.0):
    """Sohn (2016); Zheng, Pal, Savvides (2018)."""
    return float(np.mean([(math.sqrt(sum(row**2)) - radius) ** 2 for row in rows]))


def zero_mean(rows):
    """Yuan et al. (2019)."""
    return float(np.mean([abs(sum(row)) for row in rows]))
