"""The benchmark measures something and can say what: no claim about speed, that is `make bench`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bench, fedformer_speed
from benchmarks.contenders import (
    CASES,
    TRUST_CASES,
    TRUSTS,
    Case,
    Job,
    TrustCase,
    in_process,
    measure,
    shapes,
    trust_config,
    update_flops,
)
from peerage.config.file import load
from peerage.config.tree import with_settings
from peerage.learners.defaults import resolve


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "who, members", [("peerage", 1), ("peerage", 3), ("sb3", 1), ("environment", 2), ("gemm", 1)]
)
def test_contenders_have_positive_rates(who, members):
    assert measure(Job("room-dqn", who, members, threads=1, warm_up=8, seconds=0.02))["rate"] > 0


@pytest.mark.parametrize("who", ["peerage", "sb3"])
def test_sac_contenders_have_positive_rates(who, monkeypatch):
    small = CASES["hopper-sac"].settings | {"learning_starts": 20, "batch_size": 8, "buffer_size": 1000}
    monkeypatch.setitem(CASES, "hopper-sac", Case("Hopper-v4", "sac", (8,), small))
    assert measure(Job("hopper-sac", who, 1, threads=1, warm_up=4, seconds=0.02))["rate"] > 0


def test_a_measurement_in_a_separate_process():
    assert in_process(Job("room-dqn", "environment", 1, seconds=0.01))["rate"] > 0
    with pytest.raises(RuntimeError, match="room-dqn/nobody/1 failed"):
        in_process(Job("room-dqn", "nobody"))


def test_flops_of_an_update():
    assert update_flops(CASES["room-dqn"], *shapes(CASES["room-dqn"])) == 2 * 64 * (
        4 * (4 * 64 + 64 * 64 + 64 * 4)
        - 4 * 64  # Q with gradients of weights and inputs, but the first, and target
    )
    # Hopper: 11 observations, 3 actions. Forward and two gradients of each matrix product
    actor, critic = (11 * 256, 256 * 256, 256 * 6), (14 * 256, 256 * 256, 256)
    total = 4 * sum(actor) - actor[0] + 2 * (6 * sum(critic) - critic[0])
    assert update_flops(CASES["hopper-sac"], *shapes(CASES["hopper-sac"])) == 2 * 256 * total


@pytest.mark.parametrize("trust", TRUSTS)
def test_kinds_of_trust_have_positive_rates(trust, monkeypatch):
    monkeypatch.setitem(TRUST_CASES, "room-hybrid", TrustCase("seed-hybrid-room-v6", 20, (3,)))
    found = measure(Job("room-hybrid", "peerage", 3, threads=1, warm_up=20, seconds=0.02, trust=trust))
    assert found["rate"] > 0 and found["cpu"] > 0 and found["steps"] % 20 == 0


def test_cases_of_trust_differ_in_trust_alone():
    """The measured experiment is the published one."""
    for case in TRUST_CASES:
        made = [trust_config(Job(case, "peerage", 4, trust=trust)) for trust in TRUSTS]
        assert [config.advice.trust for config in made] == list(TRUSTS)
        alike = {repr(replace(config, advice=replace(config.advice, trust="td"))) for config in made}
        assert len(alike) == 1
        published = load(TRUST_CASES[case].preset)
        assert published.advice == made[1].advice and published.trust_transformer == made[1].trust_transformer
        settings = published.trust_transformer
        assert settings.attention_update_freq == 20 and settings.attention_batch_size == 32
        assert settings.use_phase_aware and settings.sequence_length == 50


def canned(job: Job) -> dict:
    if job.trust is not None:
        cpu = {"td": 0.5, "hybrid": 0.5 + job.members, "in-context": 0.75}
        return {"rate": 2000.0, "cpu": cpu[job.trust], "threads": 1}
    rates = {"peerage": 300.0 + job.members, "sb3": 100.0, "sbx": 150.0, "environment": 1e4, "gemm": 200.0}
    extra = {"matmul": 100.0, "onednn": 200.0} if job.who == "gemm" else {}
    return {
        "rate": rates[job.who],
        "cpu": 1e3 / rates[job.who],
        "threads": None if job.who == "sbx" else job.threads or 1,
    } | extra


@pytest.mark.parametrize("threads", [True, False])
def test_the_table(threads, tmp_path):
    results = bench.run(
        list(CASES), rounds=2, seconds=1.0, threads=threads, measure=canned, say=lambda line: None
    )
    assert json.loads(json.dumps(results)) == results
    text = bench.table(results)
    assert results["machine"]["vendor"] in ("Intel", "AMD", "other")
    assert f"({results['machine']['vendor']}), " in text.splitlines()[0]
    for n in (1, 2):
        assert f"| | Stable-Baselines3 | {n} | 10.000 | 3.04 | 100 | 3.04 | 3 |" in text
    assert ("### Threads" in text) == threads
    assert "| 64 |" in text and "torch's own 100 GFLOP/s, oneDNN 200" in text
    assert "### Trust" not in text
    bench.write(tmp_path / "new" / "speed.md", text)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["speed.md"]


def test_the_table_of_trust():
    """Measured at most three times, regardless of the other cases."""
    rounds = []
    results = bench.run(list(TRUST_CASES), rounds=5, seconds=1.0, measure=canned, say=rounds.append)
    assert json.loads(json.dumps(results)) == results and results["cases"] == {}
    assert len(rounds) == 3 * 3 * (1 + 1 + 4)
    text = bench.table(results)
    assert "| lunarlander-hybrid | 4 | hybrid | 1 | 2,000 | 4.500 | 500 |" in text
    assert "| hopper-hybrid | 4 | td | 1 | 2,000 | 0.500 | |" in text.replace("|  |", "| |")
    assert "| 16 | 0.500 | 16.500 | 0.750 | 16.000 |" in text
    assert "Against other libraries" not in text


def test_the_page():
    page = f"above\n{bench.BEGIN}\nold\n{bench.END}\nbelow\n"
    once = bench.into_docs(page, "new\n")
    assert "old" not in once and "new" in once and once.startswith("above") and once.endswith("below\n")
    assert bench.into_docs(once, "new\n") == once
    with pytest.raises(SystemExit, match="markers"):
        bench.into_docs("nothing", "new")
    assert bench.BEGIN in bench.DOCS.read_text(encoding="utf-8")


def test_the_speed_of_fedformer_is_measured_and_its_floor_counts_the_products_of_torch_modules():
    small = {"batch_size": (8,), "net_arch": ((16, 16),), "fedformer_width": 16, "fedformer_hidden": 32}
    config = resolve(with_settings(load("fedformer-small"), small), False)
    loop = fedformer_speed.Loop(config, 3)
    with FlopCounterMode(display=False) as counter:
        loop()
    counted = counter.get_total_flops() / 3
    # The modules compute keys, values and the last layer of all tokens, not of CLS alone
    assert 0.5 * counted < fedformer_speed.update_flops(config, 3) < counted
    seconds, floor = fedformer_speed.measure(config, (2, 3), 1)
    assert len(fedformer_speed.table(seconds, floor)) == 2 + 5 and 0 < floor < min(seconds.values())
