"""From values to a choice: the rules, the distribution and the draw."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from peerage.sharing.choice import RULES, paper, pick, probabilities, standardised

F64 = torch.float64
EVERYBODY = torch.ones(1, 4, dtype=torch.bool)


def numbers(low=-50.0, high=50.0):
    return hnp.arrays("float64", (3, 5), elements=st.floats(low, high).map(lambda x: round(x, 3))).map(torch.tensor)


permutations = st.permutations(range(5))


# --- the draw -----------------------------------------------------------------------

DISTRIBUTIONS = [
    [0.25, 0.25, 0.25, 0.25],
    [0.7, 0.1, 0.15, 0.05],
    [0.0, 0.4, 0.0, 0.6],
    [0.999, 0.0005, 0.0005, 0.0],
    [0.0, 0.0, 0.0, 1.0],
    [1.0, 0.0, 0.0, 0.0],
]


@pytest.mark.parametrize("p", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_pick_draws_from_the_distribution(p, dtype):
    count = 40_000
    uniform = torch.rand(count, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    chosen = pick(torch.tensor(p, dtype=dtype).expand(count, -1), uniform)
    seen = torch.bincount(chosen, minlength=4)
    expected = torch.tensor(p, dtype=F64) * count
    assert (seen[expected == 0] == 0).all()
    used = expected > 0
    chi2 = ((seen - expected)[used] ** 2 / expected[used]).sum()
    assert chi2 < 16.3  # p = 0.001 at three degrees of freedom


def test_pick_by_hand():
    """Edges 0.2, 0.7, 0.7, 1: a number on an edge belongs to the next adviser that can be chosen."""
    p = torch.tensor([[0.2, 0.5, 0.0, 0.3]], dtype=F64)
    draws = {0.0: 0, 0.19: 0, 0.2: 1, 0.69: 1, 0.71: 3, 1 - 2**-53: 3}
    for uniform, expected in draws.items():
        assert pick(p, torch.tensor([[uniform]], dtype=F64)).item() == expected
    rows = pick(p.expand(3, -1), torch.tensor([[0.1], [0.5], [0.9]], dtype=F64))
    assert rows.tolist() == [0, 1, 3]  # a separate draw for every asker


@settings(deadline=None, max_examples=200)
@given(
    scores=hnp.arrays("float32", (1, 6), elements=st.floats(-100, 100, width=32)),
    allowed=hnp.arrays(bool, (1, 6)),
    temperature=st.sampled_from([None, 1e-6, 0.01, 0.5, 1.0, 100.0]),
    epsilon=st.sampled_from([0.0, 0.05, 1.0]),
    uniform=st.sampled_from([0.0, 2**-53, 0.5, 1 - 2**-24, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True),
)
def test_only_allowed_advisers_are_chosen(scores, allowed, temperature, epsilon, uniform):
    assume(allowed.any())
    mask = torch.tensor(allowed)
    t = None if temperature is None else torch.tensor([[temperature]])
    p = probabilities(torch.tensor(scores), allowed=mask, temperature=t, epsilon=epsilon)
    assert torch.isfinite(p).all() and (p >= 0).all() and abs(p.sum() - 1) < 1e-5
    assert (p[~mask] == 0).all()
    chosen = pick(p, torch.tensor([[uniform]], dtype=F64)).item()
    assert allowed[0, chosen] and p[0, chosen] > 0


# --- the distribution ---------------------------------------------------------------


def test_softmax_by_hand():
    """Scores 0, ln 2, ln 4 at T = 1: weights 1, 2, 4. At T = 0.5 they are squared: 1, 4, 16."""
    scores = torch.tensor([[0.0, math.log(2), math.log(4)]] * 2, dtype=F64)
    allowed = torch.ones(2, 3, dtype=torch.bool)
    p = probabilities(scores, allowed=allowed, temperature=torch.tensor([[1.0], [0.5]], dtype=F64), epsilon=0.0)
    expected = torch.tensor([[1 / 7, 2 / 7, 4 / 7], [1 / 21, 4 / 21, 16 / 21]], dtype=F64)
    torch.testing.assert_close(p, expected)


def test_masked_softmax_by_hand():
    """The same without the last adviser: weights 1 and 2."""
    scores = torch.tensor([[0.0, math.log(2), math.log(4)]], dtype=F64)
    allowed = torch.tensor([[True, True, False]])
    p = probabilities(scores, allowed=allowed, temperature=torch.ones(1, 1, dtype=F64), epsilon=0.0)
    torch.testing.assert_close(p, torch.tensor([[1 / 3, 2 / 3, 0.0]], dtype=F64))
    # 10% uniform over the two: 0.9 / 3 + 0.05 = 0.35
    p = probabilities(scores, allowed=allowed, temperature=torch.ones(1, 1, dtype=F64), epsilon=0.1)
    torch.testing.assert_close(p, torch.tensor([[0.35, 0.65, 0.0]], dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_host_gives_the_bits_of_the_equations_in_torch(dtype):
    generator = torch.Generator().manual_seed(5)
    for n in range(100):
        members, advisers = 1 + n % 5, 1 + n % 7
        scores = torch.randn(members, advisers, generator=generator, dtype=dtype) * 10.0 ** (n % 5 - 2)
        allowed = torch.rand(members, advisers, generator=generator) < 0.7
        allowed[:, 0] = True
        myself = torch.eye(members, advisers, dtype=dtype)
        t = torch.rand(members, 1, generator=generator, dtype=dtype) + 1e-3
        p = probabilities(scores, allowed=allowed, temperature=t, epsilon=0.05, myself=myself, self_share=0.1)
        softmax = torch.softmax(scores.masked_fill(~allowed, -torch.inf) / t, dim=1)
        uniform = allowed.to(dtype) / allowed.sum(dim=1, keepdim=True)
        expected = (1 - 0.05 - 0.1) * softmax + 0.05 * uniform + 0.1 * myself
        assert torch.equal(p, expected) and p.dtype == dtype
        drawn = torch.rand(members, 1, generator=generator, dtype=F64)
        edges = expected.to(F64).cumsum(dim=1)
        assert torch.equal(pick(p, drawn), (edges / edges[:, -1:] <= drawn).sum(dim=1).clamp(max=advisers - 1))


def test_greedy_by_hand():
    """All but epsilon on the best of those allowed; epsilon uniformly over them, the best included."""
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0]], dtype=F64)
    p = probabilities(scores, allowed=EVERYBODY, temperature=None, epsilon=0.2)
    torch.testing.assert_close(p, torch.tensor([[0.85, 0.05, 0.05, 0.05]], dtype=F64))
    without_best = torch.tensor([[False, True, True, True]])
    p = probabilities(scores, allowed=without_best, temperature=None, epsilon=0.3)
    torch.testing.assert_close(p, torch.tensor([[0.0, 0.1, 0.8, 0.1]], dtype=F64))


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_asker_whose_scores_are_not_numbers_chooses_uniformly(bad, temperature):
    scores = torch.tensor([[1.0, bad, 2.0, 0.0], [1.0, 5.0, 2.0, 0.0]])
    allowed = torch.tensor([[True, True, True, False]] * 2)
    t = None if temperature is None else torch.full((2, 1), temperature)
    p = probabilities(scores, allowed=allowed, temperature=t, epsilon=0.0)
    torch.testing.assert_close(p[0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]))
    assert p[1].argmax() == 1 and p[1, 1] > 0.99  # the others are not bothered


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_critic_does_not_decide(bad, rule, temperature):
    """As the only component it makes the choice uniform; in addition to trust it favours no adviser."""
    critic = torch.tensor([[1.0, bad, 2.0, 0.5]])
    t = None if temperature is None else torch.full((1, 1), temperature)

    def chances(components):
        return probabilities(RULES[rule](components), allowed=EVERYBODY, temperature=t, epsilon=0.0)

    torch.testing.assert_close(chances({"critic": critic}), torch.full((1, 4), 0.25))
    both = chances({"critic": critic, "trust_td": torch.tensor([[3.0, 3.0, 3.0, 3.0]])})
    torch.testing.assert_close(both, torch.full((1, 4), 0.25))


# --- the rules ----------------------------------------------------------------------


def test_paper_by_hand():
    """critic (1, -4, 2) / 4 = (0.25, -1, 0.5); trust (200, 100, 50) / 200 = (1, 0.5, 0.25); agent values all 0 stay
    0. Sums: (1.25, -0.5, 0.75). Row 1: (0, 0, 0) and (-2, -1, 0) / 2."""
    components = {
        "critic": torch.tensor([[1.0, -4.0, 2.0], [0.0, 0.0, 0.0]]),
        "trust_td": torch.tensor([[200.0, 100.0, 50.0], [-2.0, -1.0, 0.0]]),
        "agent_value": torch.zeros(2, 3),
    }
    assert paper(components).tolist() == [[1.25, -0.5, 0.75], [-1.0, -0.5, 0.0]]
    assert RULES["greedy"](components).tolist() == paper(components).tolist()


def test_standardised_by_hand():
    """critic (1, 2, 3): mean 2, deviation sqrt(2/3), so (-1, 0, 1) * 1.224745; trust (5, 5, 5) is
    constant and counts 0. The mean of two components is half the sum."""
    components = {"critic": torch.tensor([[1.0, 2.0, 3.0]]), "trust_td": torch.full((1, 3), 5.0)}
    a = math.sqrt(1.5) / 2
    torch.testing.assert_close(standardised(components), torch.tensor([[-a, 0.0, a]]))


def spread_out(x):
    """Values apart by more than what counts as rounding."""
    return bool(((x.amax(1) - x.amin(1)) > 0.05).all())


@settings(deadline=None)
@given(
    a=numbers(),
    b=numbers(),
    shift=st.floats(-20, 20),
    scale=st.floats(0.01, 100),
)
def test_standardised_ignores_shift_and_scale_of_a_component(a, b, shift, scale):
    assume(spread_out(a) and spread_out(b))
    before = standardised({"critic": a, "trust_td": b})
    after = standardised({"critic": a * scale + shift * scale, "trust_td": b})
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    turned = standardised({"critic": -a, "trust_td": -b})
    torch.testing.assert_close(turned, -before, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(a=numbers())
def test_standardised_has_mean_zero_and_deviation_one(a):
    assume(spread_out(a))
    scores = standardised({"critic": a})
    torch.testing.assert_close(scores.mean(dim=1), torch.zeros(3, dtype=F64), rtol=0, atol=1e-9)
    torch.testing.assert_close(scores.square().mean(dim=1), torch.ones(3, dtype=F64))
    assert torch.equal(scores.argsort(dim=1, stable=True), a.argsort(dim=1, stable=True))


@settings(deadline=None)
@given(a=numbers(), scale=st.floats(0.01, 100))
def test_paper_ignores_scale(a, scale):
    torch.testing.assert_close(paper({"critic": a * scale}), paper({"critic": a}), rtol=1e-9, atol=1e-9)
    assert paper({"critic": a}).abs().max() <= 1


@settings(deadline=None)
@given(a=numbers(), b=numbers(), order=permutations)
@pytest.mark.parametrize("rule", [paper, standardised])
def test_rules_do_not_depend_on_the_order_of_advisers(rule, a, b, order):
    assume(spread_out(a) and spread_out(b))
    moved = rule({"critic": a[:, order], "trust_td": b[:, order]})
    torch.testing.assert_close(moved, rule({"critic": a, "trust_td": b})[:, order], rtol=1e-6, atol=1e-6)
    askers = [2, 0, 1]  # nor do askers look at each other
    assert torch.equal(rule({"critic": a[askers]}), rule({"critic": a})[askers])


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 200.0, 1e-20, 1e20, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("k", [2, 3, 7, 64])
def test_equal_values_contribute_nothing(value, dtype, k):
    equal = torch.full((2, k), value, dtype=dtype)
    assert (standardised({"critic": equal}) == 0).all()
    other = torch.linspace(-1, 1, k, dtype=dtype).expand(2, -1)
    half = standardised({"critic": other, "trust_td": equal})
    torch.testing.assert_close(half, standardised({"critic": other}) / 2)
    if value == 0:
        assert (paper({"critic": equal}) == 0).all()


def test_rounding_errors_are_not_amplified():
    """Trust that differs only in the last bits has no effect; a difference of 1 has one."""
    almost = 200 + torch.tensor([[0.0, 1.5e-5, -1.5e-5]])
    assert len(almost.unique()) == 3 and (standardised({"trust_td": almost}) == 0).all()
    assert standardised({"trust_td": torch.tensor([[200.0, 201.0, 200.0]])}).abs().min() > 0.5


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_does_not_change_its_values(rule):
    values = torch.tensor([[1.0, 2.0, -5.0]])
    RULES[rule]({"critic": values})
    assert values.tolist() == [[1.0, 2.0, -5.0]]


@pytest.mark.parametrize("given", [{"epsilon": 1.0}, {"self_share": 1.0}, {"epsilon": 0.95}, {"self_share": 0.99}])
def test_probabilities_have_the_given_shares(given):
    from peerage.config import AdviceConfig
    from peerage.learners.defaults import resolve_advice

    advice = resolve_advice(AdviceConfig(**given))
    assert 0 <= advice.epsilon + advice.self_share <= 1
    assert all(getattr(advice, name) == value for name, value in given.items())
