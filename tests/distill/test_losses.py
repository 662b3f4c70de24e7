"""Losses and their gradients: closed form, automatic, finite and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.losses import delta, is_plain, supervise, value
from sandbox.distill.strategy import Loss
from sandbox.distill.targets import annealed, log_soften, soften

N, C = 40, 5
LOSSES = {
    "forward": Loss(),
    "forward, student temperature": Loss(tau_student=2.5),
    "forward, scale": Loss(scale=4.0),
    "Hinton": Loss(tau_student=3.0, scale=9.0),
    "reverse": Loss(direction="reverse"),
    "reverse, both": Loss(direction="reverse", tau_student=0.7, scale=2.0),
}


@pytest.fixture
def numbers(x64: None) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, C, N)
    return {
        "z": jnp.asarray(rng.normal(size=(N, C)) * 3),
        "teacher": jnp.asarray(rng.normal(size=(N, C)) * 3),
        "label": jnp.asarray(np.eye(C)[y]),
        "tau": jnp.asarray(rng.uniform(0.3, 3, N)),
        "alpha": jnp.asarray(rng.choice([0.0, 0.25, 1.0], N)),
    }


def made(loss: Loss, n: dict) -> object:
    return supervise(loss, n["label"], n["teacher"], n["tau"], n["alpha"])


@pytest.mark.parametrize("name", LOSSES)
def test_delta_is_the_gradient_of_value(numbers: dict, name: str) -> None:
    loss, sup = LOSSES[name], made(LOSSES[name], numbers)
    auto = jax.grad(lambda z: jnp.sum(value(loss, z, sup)))(numbers["z"])
    np.testing.assert_allclose(delta(loss, numbers["z"], sup), auto, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(auto, -1), 0, atol=1e-12)  # shifts cost nothing


@pytest.mark.parametrize("name", LOSSES)
def test_value_from_the_definition(numbers: dict, name: str) -> None:
    """In plain numpy, one example at a time."""
    loss, n = LOSSES[name], {k: np.asarray(v) for k, v in numbers.items()}

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max())
        return e / e.sum()

    expected = []
    for i in range(N):
        p = softmax(n["teacher"][i] / n["tau"][i])
        q = softmax(n["z"][i] / loss.tau_student)
        ce = -np.log(softmax(n["z"][i])[n["label"][i].argmax()])
        if loss.direction == "forward":
            term = -(p * np.log(q)).sum()
        else:
            term = (q * np.log(q / p)).sum()
        a = n["alpha"][i]
        expected.append(a * ce + (1 - a) * loss.scale * term)
    got = value(loss, numbers["z"], made(loss, numbers))
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_a_student_equal_to_its_teacher_is_at_rest(
    numbers: dict, direction: str, tau: float
) -> None:
    """KL(p || p) = 0, and its gradient too."""
    loss = Loss(direction=direction, tau_student=tau)
    numbers |= {"tau": jnp.full(N, tau), "alpha": jnp.zeros(N)}
    sup = made(loss, numbers)
    z = numbers["teacher"]
    np.testing.assert_allclose(delta(loss, z, sup), 0, atol=1e-14)
    least = value(loss, z, sup)
    if direction == "reverse":
        np.testing.assert_allclose(least, 0, atol=1e-14)
    assert (value(loss, z + numbers["z"], sup) > least).all()


def test_label_weight_of_one_is_the_label_exactly(numbers: dict) -> None:
    """Even where the teacher's logits are not numbers."""
    numbers["alpha"] = jnp.ones(N)
    broken = numbers | {"teacher": jnp.full((N, C), jnp.nan)}
    for n in (numbers, broken):
        np.testing.assert_array_equal(made(Loss(), n).mixed, numbers["label"])
    no_teacher = supervise(
        Loss(), numbers["label"], None, numbers["tau"], numbers["alpha"]
    )
    np.testing.assert_array_equal(no_teacher.mixed, numbers["label"])


def test_hard_perfect_teacher_is_cross_entropy(numbers: dict) -> None:
    """Any logits whose argmax is the label, at temperature 0: the same bits as CE."""
    best = jnp.max(numbers["teacher"], -1, keepdims=True) + 0.1
    perfect = jnp.where(numbers["label"] == 1, best, numbers["teacher"])
    n = numbers | {"teacher": perfect, "tau": jnp.zeros(N), "alpha": jnp.zeros(N)}
    ce = supervise(Loss(), numbers["label"], None, numbers["tau"], numbers["alpha"])
    for fn in (value, delta):
        np.testing.assert_array_equal(
            fn(Loss(), numbers["z"], made(Loss(), n)), fn(Loss(), numbers["z"], ce)
        )


@pytest.mark.parametrize("tau", [1e-3, 1e-20, 1e-300])
def test_temperature_zero_is_the_limit(numbers: dict, tau: float) -> None:
    hard = soften(numbers["teacher"], jnp.zeros(N))
    np.testing.assert_array_equal(jnp.sum(hard, -1), 1)
    close = soften(numbers["teacher"], jnp.full(N, tau))
    gap = jnp.sort(numbers["teacher"], -1)
    assert (gap[:, -1] - gap[:, -2]).min() > 0.01
    np.testing.assert_allclose(close, hard, atol=5 * np.exp(-0.01 / tau))


def test_tiny_temperatures_do_not_overflow() -> None:
    """Float32, where logits / tau is beyond the largest float."""
    z = jnp.array([[30.0, -4.0, 29.0], [-50.0, -60.0, -49.0]])
    for tau in (1e-20, 1e-37, 1e-38):
        p = soften(z, jnp.full(2, tau, jnp.float32))
        np.testing.assert_array_equal(p, [[1, 0, 0], [0, 0, 1]])


def test_ties_go_to_the_lowest_class() -> None:
    z = jnp.array([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    np.testing.assert_array_equal(soften(z, jnp.zeros(2)), [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("tau", [1e-3, 1e-30, 1e-38])
def test_tiny_temperatures_have_finite_logs(tau: float) -> None:
    z = jnp.array([[300.0, 20.0, -300.0], [5.0, 5.0, 1e4]], jnp.float32)
    logs = log_soften(z, jnp.full(2, tau, jnp.float32))
    assert np.isfinite(logs).all()
    np.testing.assert_array_equal(jnp.exp(logs), [[1, 0, 0], [0, 0, 1]])
    loss = Loss(direction="reverse")
    args = (jnp.eye(3)[:2], z, jnp.full(2, tau, jnp.float32), jnp.zeros(2))
    sup = supervise(loss, *args)
    assert np.isfinite(delta(loss, z, sup)).all()


def test_softening_by_hand(x64: None) -> None:
    z = jnp.log(jnp.array([[1.0, 4.0, 16.0]]))
    np.testing.assert_allclose(soften(z, jnp.ones(1)), np.array([[1, 4, 16]]) / 21)
    np.testing.assert_allclose(soften(z, 2 * jnp.ones(1)), np.array([[1, 2, 4]]) / 7)
    logs = log_soften(z, 2 * jnp.ones(1))
    np.testing.assert_allclose(np.exp(logs), np.array([[1, 2, 4]]) / 7)


def test_annealing_by_hand() -> None:
    start, end = jnp.array([4.0, 0.5]), jnp.array([0.0, 0.5])
    over = jnp.array([8.0, 1.0])
    t = jnp.array([0, 1, 4, 8, 9, 10**6], jnp.uint32)
    expected = [[4, 0.5], [3.5, 0.5], [2, 0.5], [0, 0.5], [0, 0.5], [0, 0.5]]
    np.testing.assert_array_equal(annealed(start, end, over, t), expected)


@pytest.mark.parametrize(
    "loss, plain",
    [(v, k in ("forward",)) for k, v in LOSSES.items()],
    ids=list(LOSSES),
)
def test_plain_losses(loss: Loss, plain: bool) -> None:
    assert is_plain(loss) is plain


def test_two_layer_gradient_by_hand(x64: None) -> None:
    """x = (1, -1), one hidden unit of each sign, every number worked out on paper.

    h = (relu(1 - 3 + 1), relu(2 + 1 + 0)) = (0, 3);  z = (3 u, 0) with u = ln(3) / 3,
    so softmax(z) = (3/4, 1/4). The teacher says (1/4, 3/4), the label is class 0 and
    alpha = 1/2: the target is (5/8, 3/8) and dL/dz = (1/8, -1/8).
    """
    from sandbox.models.mlp import MLP

    u = np.log(3) / 3
    params = {
        "layer_0": {
            "kernel": jnp.array([[1.0, 2.0], [3.0, -1.0]]),
            "bias": jnp.array([1.0, 0.0]),
        },
        "layer_1": {
            "kernel": jnp.array([[5.0, 7.0], [u, 0.0]]),
            "bias": jnp.zeros(2),
        },
    }
    x = jnp.array([[1.0, -1.0]])
    model = MLP(d=2, hidden=(2,))
    sup = supervise(
        Loss(),
        jnp.array([[1.0, 0.0]]),
        jnp.log(jnp.array([[1.0, 3.0]])),
        jnp.ones(1),
        jnp.full(1, 0.5),
    )

    def loss(p: dict) -> jax.Array:
        return value(Loss(), model.apply(p, x).logits, sup)[0]

    expected_loss = -(5 / 8 * np.log(3 / 4) + 3 / 8 * np.log(1 / 4))
    np.testing.assert_allclose(loss(params), expected_loss, rtol=1e-14)
    grad = jax.grad(loss)(params)
    # Unit 0 is off; unit 1 receives u / 8 and its inputs are (1, -1).
    back = u / 8
    np.testing.assert_allclose(grad["layer_1"]["bias"], [1 / 8, -1 / 8])
    np.testing.assert_allclose(grad["layer_1"]["kernel"], [[0, 0], [3 / 8, -3 / 8]])
    np.testing.assert_allclose(grad["layer_0"]["bias"], [0, back])
    np.testing.assert_allclose(grad["layer_0"]["kernel"], [[0, back], [0, -back]])
