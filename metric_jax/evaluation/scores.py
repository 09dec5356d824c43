"""From rows and labels to the metrics of every query: what retrieval does on the device, in tiles of queries.

Queries are handled in groups whose classes are about equally large, so that one large class does not cost all of them
its size. A gallery that comes in parts is read twice for each group: for the distances of the relevant items, then for
the counts.
"""

import concurrent.futures
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from metric_jax.anchors import tile_size
from metric_jax.distances import Distance, center
from metric_jax.evaluation import checks, ranks
from metric_jax.evaluation.ranks import BLOCK, Near, Queries

# Queries of a tile, which fewer make slower; of a large gallery so many numbers, which bounds memory.
TILE_ROWS, TILE_NUMBERS = 128, 2**23
# Of so many comparisons on, threads help; each holds its tile.
THREADED, MOST_THREADS = 2**24, 4
NOWHERE = np.iinfo(np.int32).max  # the rank of a relevant item that is not there


class Ranked(NamedTuple):
    """The ranks of relevant items.

    Attributes:
        ranks: ``[slots, queries]``, ascending; one beyond the limit of the search is only known to be beyond it.
        size: ``[queries]``, how many relevant items there are, R.
    """

    ranks: Array
    size: Array

    def within(self, limit: int | Array) -> Array:
        """How many relevant items have a rank up to the limit."""
        return jnp.sum(self.ranks <= limit, axis=0)

    def precision(self, limit: int | Array) -> Array:
        """``1/R Σ i / rank_i`` over the relevant items with a rank up to the limit."""
        order = jnp.arange(1, len(self.ranks) + 1)[:, None]
        return jnp.sum(jnp.where(self.ranks <= limit, order / self.ranks, 0.0), axis=0) / self.size

    def gain(self, k: int) -> Array:
        """nDCG@k."""
        order = jnp.arange(1, len(self.ranks) + 1)[:, None]
        gained = jnp.where(self.ranks <= k, 1.0 / jnp.log2(self.ranks + 1.0), 0.0)
        best = jnp.where(order <= jnp.minimum(self.size, k)[None], 1.0 / jnp.log2(order + 1.0), 0.0)
        return jnp.sum(gained, axis=0) / jnp.sum(best, axis=0)


class Metric(NamedTuple):
    """A metric: its value from the ranks and a k, and what of the ranks it needs.

    Attributes:
        value: The function.
        limit: Up to which rank it looks: "one", "k", "R" or "all".
        of_first: Whether it looks at the nearest relevant item alone.
    """

    value: Callable[[Ranked, int], Array]
    limit: str
    of_first: bool = False


METRICS: Mapping[str, Metric] = {
    "map_at_r": Metric(lambda ranked, k: ranked.precision(ranked.size[None]), "R"),
    "precision@1": Metric(lambda ranked, k: ranked.ranks[0] == 1, "one", of_first=True),
    "r_precision": Metric(lambda ranked, k: ranked.within(ranked.size[None]) / ranked.size, "R"),
    "recall@k": Metric(lambda ranked, k: ranked.ranks[0] <= k, "k", of_first=True),
    "mrr": Metric(lambda ranked, k: 1.0 / ranked.ranks[0], "all", of_first=True),
    "precision@k": Metric(lambda ranked, k: ranked.within(k) / k, "k"),
    "ndcg@k": Metric(lambda ranked, k: ranked.gain(k), "k"),
    "map": Metric(lambda ranked, k: ranked.precision(NOWHERE - 1), "all"),
}


class Wanted(NamedTuple):
    """The metrics that are asked for, and the k of those at k."""

    metrics: tuple[str, ...]
    ks: tuple[int, ...]

    @property
    def columns(self) -> dict[str, tuple[str, int]]:
        """What each is called in the result, and its metric and k."""
        return {
            name.replace("@k", f"@{k}"): (name, k)
            for name in self.metrics
            for k in (self.ks if name.endswith("@k") else self.ks[:1])
        }

    def of(self, ranked: Ranked) -> dict[str, Array]:
        """Their values, ``[queries]`` each."""
        return {column: METRICS[name].value(ranked, k) for column, (name, k) in self.columns.items()}

    def search(self, span: int, most: int, items: int) -> "Search":
        """How to search for queries of which none has more than ``most`` relevant items, within a ``span`` of them."""
        limits = {"one": 1, "k": max(self.ks), "R": most, "all": items}
        metrics = [METRICS[name] for name in self.metrics]
        keep = max((min(most, limits[metric.limit]) for metric in metrics if not metric.of_first), default=1)
        exact = [metric for metric in metrics if metric.of_first and metric.limit == "all"]
        limit = max((limits[metric.limit] for metric in metrics if metric not in exact), default=items)
        return Search(span, keep, limit, first_is_exact=bool(exact))


class Search(NamedTuple):
    """How to search, all of it static: see `ranks.relevant` and `ranks.irrelevant_before`."""

    slots: int
    keep: int
    limit: int
    first_is_exact: bool


_STATIC = {"search", "distance", "wanted"}


class _Part(NamedTuple):
    """A part of the gallery, sorted by label: prepared rows or their right factors, padded to whole blocks; labels."""

    rows: Array
    labels: np.ndarray

    @classmethod
    def of(
        cls, rows: np.ndarray, labels: np.ndarray, middle: Array, distance: Distance, name: str
    ) -> "_Part":
        """Sorts and prepares; raises a ValueError if distances of the rows, called ``name``, are infinite."""
        order = np.argsort(labels, kind="stable")
        padded = np.pad(rows[order], ((0, -len(rows) % BLOCK), (0, 0)), mode="edge")
        items, reaches = _as_items(jnp.asarray(padded), middle, distance)
        checks.finite_distances(np.asarray(reaches)[np.argsort(order)], name, distance)
        return cls(items, labels[order])

    def span(self, labels: np.ndarray) -> tuple[Array, Array]:
        """The first item of each label, and the one behind its last."""
        start, end = (np.searchsorted(self.labels, labels, side) for side in ("left", "right"))
        return jnp.asarray(start, jnp.int32), jnp.asarray(end, jnp.int32)


@functools.partial(jax.jit, static_argnames="distance")
def _as_items(rows: Array, middle: Array, distance: Distance) -> tuple[Array, Array]:
    """What queries are multiplied by, and what bounds their distances."""
    prepared = distance.prepare(rows, middle)
    items = distance.factors(prepared)[1] if distance.factors else prepared
    return items, checks.reaches(prepared, distance)


@functools.partial(jax.jit, static_argnames="distance")
def _as_queries(rows: Array, middle: Array, distance: Distance) -> tuple[Array, Array, Array]:
    """What items are multiplied by, how far the rows are from the center, and what bounds their distances."""
    prepared = distance.prepare(rows, middle)
    left = distance.factors(prepared)[0] if distance.factors else prepared
    return left, ranks.from_center(prepared, distance), checks.reaches(prepared, distance)


def score_queries(
    rows: np.ndarray,
    labels: np.ndarray,
    parts: Mapping[str, Any] | None,
    item_labels: np.ndarray,
    wanted: Wanted,
    distance: Distance,
    tile: int | str,
    mesh: Mesh | None,
) -> dict[str, np.ndarray]:
    """The metrics ``[queries]`` of each query, NaN without a relevant item; leave-one-out if ``parts`` is None.

    The parts of the gallery are there by what a message calls them.
    """
    distance = distance.ranking
    middle = jax.jit(center)(rows)
    *of_queries, reaches = map(np.asarray, _as_queries(jnp.asarray(rows), middle, distance))
    checks.finite_distances(reaches, "embeddings", distance)
    names, sources = zip(*({"embeddings": rows} if parts is None else parts).items(), strict=True)
    ends = np.cumsum([len(source) for source in sources])

    @functools.lru_cache(maxsize=1)
    def read(part: int) -> _Part:
        source = np.asarray(checks.same_dim(sources[part], rows.shape[1], names[part]))
        its_labels = item_labels[ends[part] - len(source) : ends[part]]
        return _Part.of(source, its_labels, middle, distance, names[part])

    own = np.full(len(rows), -1)
    if parts is None:
        own[np.argsort(labels, kind="stable")] = np.arange(len(rows))
    known, sizes = np.unique(item_labels, return_counts=True)
    place = np.minimum(np.searchsorted(known, labels), len(known) - 1)
    counts = np.where(known[place] == labels, sizes[place], 0) - (own >= 0)

    def scores_of(group: np.ndarray) -> dict[str, Array]:
        most = int(counts[group].max())
        held = 1 if distance.has_product else rows.shape[1]
        largest = max(map(len, sources))
        least = min(TILE_ROWS, max(1, TILE_NUMBERS // largest))
        size = tile_size(len(group), largest, tile, held, least=least)
        cut = functools.partial(
            _cut, size=size, multiple=mesh.size if mesh else _threads(len(group), len(item_labels))
        )
        count, (mine, reach) = cut(counts[group].astype(np.int32)), (array[group] for array in of_queries)
        options = {
            "search": wanted.search(most + int(parts is None), most, len(item_labels)),
            "distance": distance,
            "mesh": mesh,
        }

        def tiles(part: int) -> Queries:
            places = *read(part).span(labels[group]), jnp.asarray(own[group], jnp.int32)
            return cut(Queries(mine, *places, reach))

        if len(sources) == 1:
            gallery = read(0)
            return _score((tiles(0), count), gallery.rows, len(gallery.labels), wanted=wanted, **options)
        return _score_in_parts(tiles, read, len(sources), count, wanted, options)

    found = {column: np.full(len(rows), np.nan) for column in wanted.columns}
    for group in _groups(counts):
        for column, value in scores_of(group).items():
            found[column][group] = np.asarray(value).reshape(-1)[: len(group)]
    return found


def _groups(counts: np.ndarray) -> Iterator[np.ndarray]:
    """The queries with about as many relevant items, up to a factor of 2; those with none are in no group."""
    magnitude = np.frexp(counts)[1]
    for size in np.unique(magnitude[counts > 0]):
        yield np.flatnonzero((magnitude == size) & (counts > 0))


def _cut(arrays: Any, *, size: int, multiple: int) -> Any:
    """Arrays ``[queries, ...]`` as ``[tiles, size, ...]``, filled up with zeros to a multiple of tiles."""

    def cut(array: np.ndarray) -> np.ndarray:
        tiles = -(-len(array) // (size * multiple)) * multiple
        padding = [(0, tiles * size - len(array)), *[(0, 0)] * (array.ndim - 1)]
        return np.pad(array, padding).reshape(tiles, size, *array.shape[1:])

    return jax.tree.map(cut, arrays)


def _threads(queries: int, items: int) -> int:
    """How many threads to use: XLA counts on one core of a CPU; small work, and accelerators, need no more."""
    on_cpu = jax.default_backend() == "cpu" and queries * items >= THREADED
    return min(os.cpu_count() or 1, MOST_THREADS) if on_cpu else 1


def _over_tiles(fn: Callable[..., Any]) -> Callable[..., Any]:
    """From ``fn(tile, rows, items, **static)`` of one tile to the same of many.

    They are done one after the other, shared out among the devices of the mesh if there is one, and otherwise among
    threads, if they are many.
    """

    @functools.partial(jax.jit, static_argnames=("mesh", *inspect.signature(fn).parameters.keys() & _STATIC))
    def run(tiles: Any, rows: Array, items: int | Array, mesh: Mesh | None = None, **static: Any) -> Any:
        def on_one(tiles: Any, rows: Array, items: int | Array) -> Any:
            return lax.map(lambda tile: fn(tile, rows, items, **static), tiles)

        if mesh is None:
            return on_one(tiles, rows, items)
        shared = P(mesh.axis_names)
        placed = Mesh(mesh.devices, mesh.axis_names)  # whose axes take arrays that are not shared out yet
        on_all = jax.shard_map(on_one, mesh=placed, in_specs=(shared, P(), P()), out_specs=shared)
        return on_all(tiles, rows, items)

    def on_threads(tiles: Any, rows: Array, items: int, *, mesh: Mesh | None, **static: Any) -> Any:
        count, size = jax.tree.leaves(tiles)[0].shape[:2]
        threads = 1 if mesh else math.gcd(count, _threads(count * size, items))
        if threads == 1:
            return run(tiles, rows, items, mesh=mesh, **static)
        x64 = rows.dtype == jnp.float64  # a thread begins with the default of it

        def one_share(share: Any) -> Any:
            with jax.enable_x64(x64):
                return jax.block_until_ready(run(share, rows, items, **static))

        shares = [jax.tree.map(lambda x, i=i: np.split(x, threads)[i], tiles) for i in range(threads)]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return jax.tree.map(lambda *parts: np.concatenate(parts), *pool.map(one_share, shares))

    return on_threads


@_over_tiles
def _score(
    tile: tuple[Queries, Array],
    rows: Array,
    items: int | Array,
    *,
    wanted: Wanted,
    search: Search,
    distance: Distance,
) -> dict[str, Array]:
    """The metrics ``[queries]``, with the whole gallery at hand."""
    queries, count = tile
    scores = ranks.score(queries, rows, items, distance)
    near = ranks.relevant(scores, queries, slots=search.slots, keep=search.keep)
    return wanted.of(_ranked(_before(scores, queries, near, search), count))


@_over_tiles
def _nearest(
    queries: Queries, rows: Array, items: int | Array, *, search: Search, distance: Distance
) -> Near:
    """The relevant items in one part of the gallery."""
    scores = ranks.score(queries, rows, items, distance)
    return ranks.relevant(scores, queries, slots=search.slots, keep=search.keep)


@_over_tiles
def _count(
    tile: tuple[Queries, Near], rows: Array, items: int | Array, *, search: Search, distance: Distance
) -> Array:
    """How many irrelevant items of one part of the gallery come before each relevant one."""
    queries, near = tile
    return _before(ranks.score(queries, rows, items, distance), queries, near, search)


def _score_in_parts(
    tiles: Callable[[int], Queries],
    read: Callable[[int], _Part],
    parts: int,
    count: np.ndarray,
    wanted: Wanted,
    options: Mapping[str, Any],
) -> dict[str, Array]:
    """What `_score` returns, with one part of the gallery at hand at a time."""

    def of_each(fn: Callable[..., Any], *rest: Any) -> Iterator[Any]:
        for part in range(parts):
            gallery, queries = read(part), tiles(part)
            yield fn((queries, *rest) if rest else queries, gallery.rows, len(gallery.labels), **options)

    near = functools.reduce(_merge, of_each(_nearest))
    return _finish(sum(of_each(_count, near)), count, wanted=wanted)


_merge = jax.jit(jax.vmap(ranks.merge))


@functools.partial(jax.jit, static_argnames="wanted")
def _finish(before: Array, count: Array, *, wanted: Wanted) -> dict[str, Array]:
    return jax.vmap(lambda before, count: wanted.of(_ranked(before, count)))(before, count)


def _before(scores: Array, queries: Queries, near: Near, search: Search) -> Array:
    return ranks.irrelevant_before(
        scores, queries, near, slots=search.slots, limit=search.limit, first_is_exact=search.first_is_exact
    )


def _ranked(before: Array, count: Array) -> Ranked:
    """The ranks of the relevant items of which so many irrelevant ones are not farther."""
    order = jnp.arange(1, len(before) + 1)[:, None]
    return Ranked(jnp.where(order <= count[None], order + before, NOWHERE), jnp.maximum(count, 1))
