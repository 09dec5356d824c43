"""Schedules and optimizers by name, against their arithmetic written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metric_jax.training import RunError, optimizers

PARAMS = {
    "model": {"head": {"kernel": jnp.array([[2.0, 0.5]]), "bias": jnp.array([2.0])}},
    "loss": {"proxies": jnp.array([[2.0]]), "temperature": jnp.array(-2.0)},
}
GRADIENT = {
    "model": {"head": {"kernel": jnp.array([[3.0, 1.0]]), "bias": jnp.array([1.0])}},
    "loss": {"proxies": jnp.array([[-4.0]]), "temperature": jnp.array(3.0)},
}


def updates(name, steps=1, gradient=GRADIENT, **options):
    """The last of so many updates with one gradient, as the head's kernel and bias, the proxies and the temperature."""
    optimizer = optimizers.optimizer(name, lambda step: 0.1, **options)
    state = optimizer.init(PARAMS)
    for _ in range(steps):
        update, state = optimizer.update(gradient, state, PARAMS)
    head, loss = update["model"]["head"], update["loss"]
    return [
        np.asarray(x).ravel().tolist()
        for x in (head["kernel"], head["bias"], loss["proxies"], loss["temperature"])
    ]


def assert_updates(found, *expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "own", "warmup", "expected"),
    [
        ("constant", {}, 0, [2.0, 2.0, 2.0, 2.0, 2.0]),
        ("constant", {}, 2, [0.0, 1.0, 2.0, 2.0, 2.0]),
        ("cosine", {}, 0, [2.0, 1 + np.sqrt(0.5), 1.0, 1 - np.sqrt(0.5), 0.0]),
        ("cosine", {}, 2, [0.0, 1.0, 2.0, 1.0, 0.0]),
        ("cosine", {"final": 0.5}, 2, [0.0, 1.0, 2.0, 1.5, 1.0]),
        ("linear", {}, 0, [2.0, 1.5, 1.0, 0.5, 0.0]),
        ("linear", {"final": 0.25}, 1, [0.0, 2.0, 1.5, 1.0, 0.5]),
        ("exponential", {"final": 1 / 16}, 0, [2.0, 1.0, 0.5, 0.25, 0.125]),
        ("exponential", {"final": 1 / 4}, 2, [0.0, 1.0, 2.0, 1.0, 0.5]),
        ("step", {"drops": (0.25, 0.75)}, 0, [2.0, 0.2, 0.2, 0.02, 0.02]),
        ("step", {"drops": (0.75,), "drop": 0.5}, 2, [0.0, 1.0, 2.0, 1.0, 1.0]),
        ("step", {"drops": (0.5, 0.55), "drop": 0.5}, 0, [2.0, 2.0, 0.5, 0.5, 0.5]),  # both at one step
    ],
)
def test_schedule(name, own, warmup, expected):
    schedule = optimizers.schedule(name, learning_rate=2.0, warmup=warmup, steps=4, **own)
    np.testing.assert_allclose([schedule(step) for step in range(5)], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"name": "cos"}, "optimizer.schedule 'cos', did you mean 'cosine'"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate must be positive, got -1.0"),
        ({"warmup": 4}, "optimizer.warmup=4 must be at least 0 and less than steps=4"),
        ({"final": 1.5}, "optimizer.final must be a fraction of the learning rate, from 0 to 1, got 1.5"),
        ({"name": "exponential"}, "optimizer.final is 0, which no exponential reaches"),
        ({"drop": 1.0}, "optimizer.drop must lie between 0 and 1, got 1.0"),
        ({"name": "step", "drops": (0.5, 1.0)}, r"optimizer.drops must be fractions.*got \(0.5, 1.0\)"),
        (
            {"name": "step", "drops": (0.9,)},
            "optimizer.drops must be fractions of the steps",
        ),  # 3.6, the last
        ({"name": "step", "drops": ("half",)}, r"optimizer.drops must be fractions.*got \('half',\)"),
        ({"name": "step", "warmup": 2}, "optimizer.drops must be fractions of the steps, after the warm-up"),
    ],
)
def test_a_schedule_that_cannot_be(own, message):
    with pytest.raises(RunError, match=message):
        optimizers.schedule(**{"name": "cosine", "learning_rate": 1.0, "warmup": 0, "steps": 4} | own)


def test_adam_moves_by_the_sign_of_the_first_gradient():
    assert_updates(updates("adam"), [-0.1, -0.1], [-0.1], [0.1], [-0.1])


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_weight_decay_is_of_kernels_alone(name):
    decayed = [-0.1 - 0.1 * 0.5 * 2.0, -0.1 - 0.1 * 0.5 * 0.5]
    assert_updates(updates(name, weight_decay=0.5), decayed, [-0.1], [0.1], [-0.1])


def test_sgd_decays_kernels_by_their_gradient_and_has_momentum():
    kernel = np.array([3.0 + 0.5 * 2.0, 1.0 + 0.5 * 0.5])
    assert_updates(updates("sgd", weight_decay=0.5), -0.1 * kernel, [-0.1], [0.4], [-0.3])
    for steps, sum_of_powers in ((2, 1.9), (3, 2.71)):
        assert_updates(
            updates("sgd", steps),
            -0.1 * sum_of_powers * np.array([3.0, 1.0]),
            [-0.1 * sum_of_powers],
            [0.4 * sum_of_powers],
            [-0.3 * sum_of_powers],
        )
    assert_updates(updates("sgd", 2, momentum=0.5), [-0.45, -0.15], [-0.15], [0.6], [-0.45])


def test_lamb_moves_a_parameter_in_proportion_to_its_length():
    length = np.hypot(2.0, 0.5) / np.sqrt(2.0)  # over that of Adam's first step, which is (1, 1)
    assert_updates(updates("lamb"), [-0.1 * length] * 2, [-0.2], [0.2], [-0.2])
    step = np.array([1.0 + 0.5 * 2.0, 1.0 + 0.5 * 0.5])
    kernel = -0.1 * step * np.hypot(2.0, 0.5) / np.linalg.norm(step)
    assert_updates(updates("lamb", weight_decay=0.5), kernel, [-0.2], [0.2], [-0.2])


def test_lars_trusts_a_kernel_by_its_length_and_has_momentum():
    step = np.array([3.0 + 0.5 * 2.0, 1.0 + 0.5 * 0.5])
    kernel = -0.1 * 0.001 * step * np.hypot(2.0, 0.5) / np.linalg.norm(step)
    assert_updates(updates("lars", weight_decay=0.5), kernel, [-0.1], [0.4], [-0.3])
    assert_updates(updates("lars", 2, weight_decay=0.5, momentum=0.5), 1.5 * kernel, [-0.15], [0.6], [-0.45])


def orthogonal(matrix):
    """Five of Muon's Newton-Schulz steps, by the singular values, which they bring near 1."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return left * values @ right


def test_muon_moves_a_kernel_by_a_matrix_of_inputs_times_outputs_and_decays_it():
    kernel, slope = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 5)).astype(np.float32)
    found = {}
    for decay in (0.0, 0.5):
        optimizer = optimizers.optimizer("muon", lambda step: 0.1, weight_decay=decay)
        params = {"model": {"kernel": kernel, "bias": np.ones(3, np.float32)}, "loss": {}}
        gradient = {"model": {"kernel": slope, "bias": np.array([2.0, -2.0, 2.0], np.float32)}, "loss": {}}
        found[decay] = optimizer.update(gradient, optimizer.init(params), params)[0]["model"]
    size = 0.2 * np.sqrt(24)  # of 24 × 5; an orthogonal matrix has a root mean square of 1 / √24
    step = (size * orthogonal(slope.reshape(24, 5).astype(float))).reshape(kernel.shape)
    np.testing.assert_allclose(found[0.0]["kernel"], -0.1 * step, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[0.5]["kernel"], -0.1 * (step + 0.5 * kernel), rtol=1e-3, atol=1e-5)
    nesterov = -0.1 * (0.9 * 0.1 / (1 - 0.9**2) + 1)  # times the sign, in the first step of Adam
    for update in found.values():
        np.testing.assert_allclose(update["bias"], [nesterov, -nesterov, nesterov], rtol=1e-4)


def test_a_gradient_is_clipped_by_the_norm_of_all_of_it():
    norm = 6.0  # √(9 + 1 + 1 + 16 + 9)
    assert_updates(updates("sgd", clip=3.0), [-0.3 * 3 / norm, -0.1 * 3 / norm], [-0.05], [0.2], [-0.15])
    assert_updates(updates("sgd", clip=6.5), [-0.3, -0.1], [-0.1], [0.4], [-0.3])


@pytest.mark.parametrize("name", ["adam", "adamw", "lion", "lamb", "lars", "sgd", "muon"])
def test_the_loss_has_a_learning_rate_of_its_own(name):
    (*network, proxies, temperature), faster = updates(name, 3), updates(name, 3, loss_factor=20.0)
    assert_updates(faster, *network, 20.0 * np.array(proxies), 20.0 * np.array(temperature))


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("adamm", {}, "optimizer.name 'adamm', did you mean 'adam'"),
        ("adam", {"weight_decay": 0.1}, "adam has no weight decay: set optimizer.name='adamw'"),
        ("adamw", {"weight_decay": -0.1}, "optimizer.weight_decay must not be negative, got -0.1"),
        ("adam", {"momentum": 0.5}, "adam has no momentum to choose: leave optimizer.momentum"),
        ("muon", {"momentum": 0.5}, "muon has no momentum to choose: leave optimizer.momentum"),
        ("sgd", {"momentum": -0.5}, "optimizer.momentum must not be negative, got -0.5"),
        ("sgd", {"momentum": 1.0}, "optimizer.momentum must be less than 1, got 1.0"),
        ("sgd", {"clip": -1.0}, "optimizer.clip must not be negative, got -1.0"),
        ("sgd", {"loss_factor": -1.0}, "optimizer.loss_learning_rate must be positive"),
    ],
)
def test_an_optimizer_that_cannot_be(name, own, message):
    with pytest.raises(RunError, match=message):
        optimizers.optimizer(name, lambda step: 0.1, **own)


def test_kernels_are_the_matrices_of_layers_alone():
    shape = {"scale": 0, "bias": 0, "kernel": 0}
    found = optimizers.are_kernels({"model": {"blocks": {0: shape}}, "loss": {"kernel": 0}})
    assert jax.tree.leaves_with_path(found) == [
        (path, [key.key for key in path] == ["model", "blocks", 0, "kernel"])
        for path, _ in jax.tree.leaves_with_path(found)
    ]
