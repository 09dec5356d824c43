import jax
import numpy as np
import optax
import pytest
from flax import nnx

import metric_jax as mj
from metric_jax import data
from metric_jax.models import ConvNet
from metric_jax.training import devices, evaluate, state

IMAGES = data.Images(
    np.random.default_rng(0).integers(0, 256, size=(21, 8, 8, 1), dtype=np.uint8),
    np.arange(21, dtype=np.int32) % 5,
)


@pytest.fixture(scope="module")
def model():
    return ConvNet((8, 8, 1), width=4, dim=4, blocks=1, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def created(model):
    return state.create(model, optax.sgd(0.1), jax.random.key(0))


def evaluator(graphdef, batch_size, mesh=None, distance=mj.euclidean):
    mesh = mesh or devices.mesh(8)
    return evaluate.Evaluator(graphdef, IMAGES, distance=distance, batch_size=batch_size, mesh=mesh)


@pytest.mark.parametrize("batch_size", [1, 8, 10, 21, 64])
def test_embeddings_do_not_depend_on_how_they_are_batched(model, created, batch_size):
    graphdef, params = created
    expected = model(IMAGES.images / np.float32(255), train=False)
    found = evaluator(graphdef, batch_size).embed(params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_one_shape_is_compiled(created, compilations):
    graphdef, params = created
    evaluates = evaluator(graphdef, 8)
    evaluates.embed(params)
    before = compilations()
    evaluates.embed(params)
    assert compilations() == before


def test_metrics_are_those_of_retrieval(model, created):
    graphdef, params = created
    embeddings = model(IMAGES.images / np.float32(255), train=False)
    expected = mj.evaluation.retrieval(embeddings, IMAGES.labels, ks=(1, 2, 4, 8), distance=mj.cosine)
    found = evaluator(graphdef, 8, distance=mj.cosine)(params)
    assert found.keys() == expected.keys()
    for key in found:
        assert found[key] == pytest.approx(expected[key], rel=1e-6)


def test_a_step_is_evaluated_once(created, monkeypatch):
    graphdef, params = created
    evaluates = evaluator(graphdef, 8)
    first = evaluates(params)
    monkeypatch.setattr(evaluates, "embed", None)
    assert evaluates(params) == first


def test_the_table_shows_each_metric_beside_that_of_raw_pixels():
    raw = {"map_at_r": 0.5, "mrr": 0.4, "queries": 10}
    results = evaluate.beside({"map_at_r": 0.9, "mrr": 0.8, "queries": 10}, raw)
    twins = {"baseline_map_at_r": 0.5, "baseline_mrr": 0.4}
    assert results == {"map_at_r": 0.9, "mrr": 0.8, "queries": 10, **twins}
    rows = [line.split() for line in evaluate.table({**results, "steps": 1000}).splitlines()]
    assert ["map_at_r", "0.9000", "0.5000"] in rows
    assert ["mrr", "0.8000", "0.4000"] in rows
    assert ["steps", "1,000"] in rows
