"""FedFormer against a plain torch implementation, its attention by hand, and its exchange."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import peerage
from peerage.errors import UserError
from peerage.interop.pretrained import load_policy
from peerage.interop.sb3_export import export_member
from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.fedformer_critic import FedFormerCritic
from peerage.learners.group import Group
from peerage.learners.replay import Batch
from peerage.nets.dropout import Dropout
from peerage.sharing.exchanges.fedformer import FedFormer
from peerage.sharing.exchanges.fedformer_settings import FedFormerSettings

pytestmark = pytest.mark.usefixtures("no_reports")

N, B, OBS, ACT, WIDTH = 3, 6, 4, 2, 8
F64 = torch.float64
BOX = Space(OBS, ACT, 0, -np.ones(ACT, np.float32), np.ones(ACT, np.float32))
SETTINGS = FedFormerSettings(fedformer_width=WIDTH, fedformer_heads=2, fedformer_layers=2, fedformer_hidden=12)


def group(replicas=1, n=N, settings=SETTINGS, **changes) -> Group:
    members = SimpleNamespace(**changes)
    sac = default_settings("sac")
    sac = type(sac)(**{**vars(sac), "net_arch": (7,), "buffer_size": 16, "batch_size": B, **vars(members)})
    critic = partial(FedFormerCritic, settings=settings, n_peers=n)
    return Group([sac] * n, replicas, 0, BOX, 50, critic=critic, dtype=F64)


def exchange(g: Group) -> FedFormer:
    return FedFormer(SETTINGS, g, 10)


def spaces(env):
    made = gymnasium.make(env)
    return made.observation_space, made.action_space


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


# --- a plain implementation -----------------------------------------------------------------------------------


def mlp(*sizes):
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b, dtype=F64), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Reference(nn.Module):
    """One Q-function of one member, as in the paper."""

    def __init__(self, me, received, heard):
        super().__init__()
        self.me, self.heard, self.received = me, heard, received
        self.encoder = mlp(OBS + ACT, WIDTH, WIDTH, WIDTH, WIDTH)
        self.cls = nn.Parameter(torch.zeros(1, WIDTH, dtype=F64))
        self.position = nn.Parameter(torch.zeros(N + 1, WIDTH, dtype=F64))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True, dtype=F64) for _ in range(2)
        )
        self.decoder = mlp(2 * WIDTH, WIDTH, WIDTH, WIDTH, 1)

    def forward(self, x):
        encoded = [self.encoder(x) if j == self.me else self.received[j](x) for j in range(N)]
        z = torch.stack([self.cls.expand(len(x), -1), *encoded], dim=1) + self.position
        hidden = torch.tensor([False, *(not (self.heard[j] or j == self.me) for j in range(N))]).expand(len(x), -1)
        for layer in self.layers:
            z = layer(z, src_key_padding_mask=hidden)
        return self.decoder(torch.cat([z[:, 0], encoded[self.me]], dim=1))[:, 0]


def copy_linear(w, name, layer):
    layer.weight.data.copy_(w[f"{name}.weight"][0].T)
    layer.bias.data.copy_(w[f"{name}.bias"][0, 0])


def copy_mlp(w, name, module):
    for n, layer in enumerate(module[::2]):
        copy_linear(w, f"{name}.{n}", layer)


def reference_of(critic: FedFormerCritic, row: int) -> Reference:
    """Row `2 member + critic` of the stack, of the only replica."""
    member, k = divmod(row, 2)
    received = []
    for j in range(N):
        module = mlp(OBS + ACT, WIDTH, WIDTH, WIDTH, WIDTH).requires_grad_(False)
        copy_mlp(critic._received.weights(slice(2 * j + k, 2 * j + k + 1)), "encoder", module)
        received.append(module)
    reference = Reference(member, received, critic.heard[0].tolist())
    w = critic.stack.weights(slice(row, row + 1))
    copy_mlp(w, "encoder", reference.encoder)
    copy_mlp(w, "decoder", reference.decoder)
    reference.cls.data.copy_(w["cls"][0])
    reference.position.data.copy_(w["position"][0])
    for n, layer in enumerate(reference.layers):
        layer.self_attn.in_proj_weight.data.copy_(w[f"{n}.attention.in.weight"][0].T)
        layer.self_attn.in_proj_bias.data.copy_(w[f"{n}.attention.in.bias"][0, 0])
        copy_linear(w, f"{n}.attention.out", layer.self_attn.out_proj)
        copy_linear(w, f"{n}.ff1", layer.linear1)
        copy_linear(w, f"{n}.ff2", layer.linear2)
        for which in (1, 2):
            norm = getattr(layer, f"norm{which}")
            norm.weight.data.copy_(w[f"{n}.norm{which}.weight"][0, 0])
            norm.bias.data.copy_(w[f"{n}.norm{which}.bias"][0, 0])
    return reference


def parameters(reference: Reference) -> torch.Tensor:
    """Its parameters in the order of a row of the stack."""

    def of(module):
        return torch.cat([p for layer in module[::2] for p in (layer.weight.T.flatten(), layer.bias)])

    parts = [of(reference.encoder), reference.cls.flatten(), reference.position.flatten()]
    for layer in reference.layers:
        attention = layer.self_attn
        parts += [attention.in_proj_weight.T.flatten(), attention.in_proj_bias]
        parts += [attention.out_proj.weight.T.flatten(), attention.out_proj.bias]
        parts += [layer.norm1.weight, layer.norm1.bias]
        parts += [layer.linear1.weight.T.flatten(), layer.linear1.bias]
        parts += [layer.linear2.weight.T.flatten(), layer.linear2.bias]
        parts += [layer.norm2.weight, layer.norm2.bias]
    return torch.cat([*parts, of(reference.decoder)])


class Policy(nn.Module):
    """The actor of one member."""

    def __init__(self, w):
        super().__init__()
        self.net = mlp(OBS, 7, 2 * ACT)
        for n, layer in enumerate(self.net[::2]):
            copy_linear(w, str(n), layer)

    def forward(self, obs, noise):
        mean, log_std = self.net(obs).chunk(2, dim=1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = mean + normal.scale * noise
        log_prob = (normal.log_prob(u) - (1 - u.tanh() ** 2 + 1e-6).log()).sum(dim=1)
        return u.tanh(), log_prob


@pytest.mark.parametrize("heard", [[False] * 3, [True, False, True], [True] * 3])
def test_one_update_equals_a_plain_implementation(heard):
    """Losses, and the parameters of actor, critics, targets and entropy coefficient after one step of each."""
    g = group(learning_rate=1e-2, tau=0.1)
    learner = g.stacks[0].learner
    critic, target = learner.critic, learner.critic_target
    exchange(g).after_learning(g, 10)
    critic.received += 0.1 * random(*critic.received.shape, seed=5)  # what was sent is not what members have now
    critic.heard[0] = torch.tensor(heard)
    target.flat += 0.1 * random(*target.flat.shape, seed=6)
    before = critic.received.clone()
    obs, next_obs, rewards = random(N, B, OBS, seed=1), random(N, B, OBS, seed=2), random(N, B, seed=3)
    actions, noise = random(N, B, ACT, seed=4).tanh(), random(N, 2, B, ACT, seed=7)
    terminated = (random(N, B, seed=8) > 0.5).to(F64)
    batch = Batch(obs, actions, torch.cat((obs, actions), 2), rewards, next_obs, terminated)

    wanted = []
    for i in range(N):
        online = [reference_of(critic, 2 * i + k) for k in range(2)]
        old = [reference_of(target, 2 * i + k) for k in range(2)]
        policy = Policy(learner.actor.weights(slice(i, i + 1)))
        log_alpha = nn.Parameter(learner.log_ent_coef[i, 0].clone())
        alpha = log_alpha.exp().detach()
        adam = partial(torch.optim.Adam, lr=1e-2)
        actor_step, entropy_step = adam(policy.parameters()), adam([log_alpha])
        critic_step = adam([p for q in online for p in q.parameters() if p.requires_grad])
        sampled, log_prob = policy(obs[i], noise[i, 0])
        (-(log_alpha * (log_prob.detach() - ACT).mean())).backward()
        with torch.no_grad():
            chosen, next_log_prob = policy(next_obs[i], noise[i, 1])
            value = torch.minimum(*(q(torch.cat((next_obs[i], chosen), 1)) for q in old)) - alpha * next_log_prob
            y = rewards[i] + learner.gamma[i] * (1 - terminated[i]) * value
        loss = sum(0.5 * ((q(torch.cat((obs[i], actions[i]), 1)) - y) ** 2).mean() for q in online)
        loss.backward()
        critic_step.step()
        entropy_step.step()
        q = torch.minimum(*(q(torch.cat((obs[i], sampled), 1)) for q in online))
        actor_loss = (alpha * log_prob - q).mean()
        policy.zero_grad()
        actor_loss.backward()
        actor_step.step()
        new = torch.cat([parameters(q) for q in online]).detach()
        soft = torch.cat([parameters(q) for q in old]).detach()
        actor = torch.cat([x for layer in policy.net[::2] for x in (layer.weight.T.flatten(), layer.bias)]).detach()
        wanted.append((loss.detach(), actor_loss.detach(), log_alpha.detach(), actor, new, soft + 0.1 * (new - soft)))

    learner.update(batch, noise)
    means = learner.means.take()
    for i, (loss, actor_loss, log_alpha, actor, new, soft) in enumerate(wanted):
        for mine, theirs in (
            (means["loss/critic"][i], loss), (means["loss/actor"][i], actor_loss),
            (learner.log_ent_coef[i, 0], log_alpha), (learner.actor.flat[i], actor),
            (critic.flat[i], new), (target.flat[i], soft),
        ):  # fmt: skip
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    assert torch.equal(critic.received, before)  # frozen


def test_attention_of_two_members_by_hand():
    """One layer, one head, width 1: encodings e, tokens z = [cls, e_0, e_1] + P, weights softmax(q k)."""
    settings = FedFormerSettings(fedformer_width=1, fedformer_heads=1, fedformer_layers=1, fedformer_hidden=1)
    critic = FedFormerCritic(2, Space(1, 1), (), settings=settings, n_peers=2, dtype=F64)
    w = critic.stack.weights()
    for n in range(4):  # encoders: member 0 gives relu(relu(relu(s + a))) * 1, member 1 twice that
        w[f"encoder.{n}.weight"][:] = 1.0
    w["encoder.3.weight"][2:] = 2.0
    w["position"][:, :, 0] = torch.tensor([0.5, 0.0, 0.25])
    w["0.attention.in.weight"][..., 0:2] = 1.0  # queries and keys
    critic.received.copy_(critic.encoders)
    critic.heard[:] = True
    x = torch.tensor([[[0.25, 0.5]], [[1.0, -0.5]]], dtype=F64)  # s + a is 0.75 for member 0, 0.5 for member 1
    critic(x, grad=True)
    for member, total in ((0, 0.75), (1, 0.5)):
        z = torch.tensor([0.5, total, 2 * total + 0.25], dtype=F64)
        torch.testing.assert_close(critic._weights_sum[member], torch.softmax(0.5 * z, 0), rtol=0, atol=1e-12)


class WithFactors(nn.Module):
    """A layer of a `Reference` with given factors of dropout: of the attention weights `[heads, n, T, B]`, then of the
    branch of attention, the hidden units and the other branch, `[n, B, width]`."""

    def __init__(self, layer, factors, tokens):
        super().__init__()
        self.layer, self.factors, self.tokens = layer, factors, tokens

    def forward(self, z):
        layer, n = self.layer, self.tokens
        q, k, v = nn.functional.linear(z, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).chunk(3, dim=2)
        q, k, v = (x.unflatten(2, (2, -1)).transpose(1, 2) for x in (q[:, :n], k, v))  # [B, heads, n, d]
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=3)
        on_weights, on_found, on_hidden, on_out = (self.factors(shape) for shape in self.shapes(weights, layer))
        found = ((weights * on_weights.permute(3, 0, 1, 2)) @ v).transpose(1, 2).flatten(2)
        y = layer.norm1(z[:, :n] + layer.self_attn.out_proj(found) * on_found.transpose(0, 1))
        hidden = layer.linear1(y).relu() * on_hidden.view(n, len(z), -1).transpose(0, 1)
        return layer.norm2(y + layer.linear2(hidden) * on_out.transpose(0, 1))

    def shapes(self, weights, layer):
        b, heads, n, t = weights.shape
        return (heads, n, t, b), (n, b, WIDTH), (n * b, layer.linear1.out_features), (n, b, WIDTH)


def test_dropout_acts_in_the_losses_alone_and_equals_a_plain_implementation():
    plain, g = group(), group(settings=replace(SETTINGS, fedformer_dropout=0.25))
    for each in (plain, g):
        exchange(each).after_learning(each, 10)
    learner = g.stacks[0].learner
    critic, target = learner.critic, learner.critic_target
    x = random(N, B, OBS + ACT, seed=1)
    assert torch.equal(critic(x), plain.stacks[0].learner.critic(x)) and torch.equal(target(x), critic(x))
    assert torch.equal(target(x, grad=True), critic(x)) and target.dropout is None

    twin = Dropout(0.25, [np.random.default_rng(0)] * 2 * N, dtype=F64)
    twin.load_state(critic.dropout.state())
    q = critic(x, grad=True)
    for row in (0, 3):
        reference, rows = reference_of(critic, row), slice(row, row + 1)
        sample = x[row // 2]
        encoded = [(reference.encoder if j == reference.me else reference.received[j])(sample) for j in range(N)]
        order = [reference.me, *(j for j in range(N) if j != reference.me)]  # the order of the tokens
        z = torch.stack([reference.cls.expand(B, -1), *(encoded[j] for j in order)], dim=1)
        z = z + reference.position[[0, *(j + 1 for j in order)]]
        for n, layer in enumerate(reference.layers):
            z = WithFactors(layer, lambda shape, rows=rows: twin.draw(rows, (1, *shape))[0], 1 if n else N + 1)(z)
        wanted = reference.decoder(torch.cat([z[:, 0], encoded[reference.me]], dim=1))[:, 0]
        torch.testing.assert_close(q.view(2 * N, B)[row], wanted, rtol=0, atol=1e-12)

    draws = critic.dropout.state()
    learner.action_value(x[..., :OBS], x[..., OBS:])
    learner.state_value(x[..., :OBS])
    assert critic.dropout.state() == draws
    assert not torch.equal(critic(x.clone().requires_grad_()), critic(x)) and critic.dropout.state() != draws


def test_the_order_of_the_other_members_does_not_matter():
    """With their positions, they can be exchanged without a change of Q."""
    g = group()
    exchange(g).after_learning(g, 10)
    critic = g.stacks[0].learner.critic
    x = random(N, B, OBS + ACT, seed=1)
    before = critic(x)[0]
    critic.received[:, [1, 2]] = critic.received[:, [2, 1]]
    assert not torch.allclose(critic(x)[0], before)
    position = critic.stack.weights()["position"][:2]
    position[:, [2, 3]] = position[:, [3, 2]]
    torch.testing.assert_close(critic(x)[0], before, rtol=0, atol=1e-12)


def test_members_that_have_not_been_heard_of_have_no_influence():
    g = group()
    critic = g.stacks[0].learner.critic
    x = random(N, B, OBS + ACT, seed=1)
    before = critic(x)
    critic.received.fill_(7.0)
    assert torch.equal(critic(x), before)
    critic.heard[0, 2] = True
    after = critic(x)
    assert not torch.allclose(after[0], before[0]) and torch.equal(after[2], before[2])  # a member's own is its own


def test_the_exchange_gives_away_encoders_and_nothing_else():
    g = group(replicas=2)
    learner, swap = g.stacks[0].learner, exchange(g)
    learner.active[1] = False
    learner.critic.encoders[1, 2, 0, 3] = torch.inf
    before = {name: values.clone() for name, values in learner.parameters().items()}
    swap.after_learning(g, 10)
    critic = learner.critic
    assert critic.heard.tolist() == [[True, False, True], [True, True, False]]
    size = critic.encoder_size
    own = critic.flat.view(2, N, 2, -1)[..., :size]
    sent = critic.heard[..., None, None].expand_as(own)
    assert torch.equal(critic.received[sent], own[sent])
    assert not critic.received[0, 1].any() and not critic.received[1, 2].any()
    assert critic.received is learner.critic_target.received
    for name, values in learner.parameters().items():
        assert torch.equal(values, before[name]), name


def test_replicas_and_stacks_are_independent():
    """The second of two replicas equals, to the bit, a replica of the same seeds that is the second of three."""
    results = []
    for replicas in (2, 3):
        g = group(replicas)
        exchange(g).after_learning(g, 10)
        x = random(3 * N, B, OBS + ACT, seed=1)[: replicas * N]
        results.append(g.stacks[0].learner.critic(x)[N : 2 * N])
    assert torch.equal(*results)


SMALL = dict(
    env="Pendulum-v1", algorithm=("sac",), n_peers=2, replicas=2, net_arch=((8,),), learning_starts=20, batch_size=8,
    sharing="none", exchange=("fedformer",), exchange_freq=30, fedformer_width=8, fedformer_heads=2,
    fedformer_hidden=8, total_timesteps=100, eval_freq=50, n_eval_episodes=1, log_freq=20, checkpoint_freq=40,
    verbose=0, device="cpu", max_eval_steps=20,
)  # fmt: skip


def test_a_run_logs_attention_and_resumes_bit_for_bit(tmp_path):
    """Also when it was killed between two exchanges."""

    class Kill(peerage.Listener):
        def on_metrics(self, step, rows):
            if step == 80:
                raise KeyboardInterrupt

    settings = {**SMALL, "log_dir": str(tmp_path), "fedformer_dropout": 0.1}
    whole = peerage.train(**settings, exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(**settings, exp_name="killed", listeners=[Kill()])
    resumed = peerage.resume(tmp_path / "killed")
    for name in ("metrics.csv", "evaluations.csv"):
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes()
    logged = whole.metrics[whole.metrics["name"].str.startswith("fedformer/attention")]
    sums = logged.groupby(["step", "replica", "member"])["value"].sum()
    assert len(sums) == 4 * 4 and np.allclose(sums, 1, atol=1e-5)
    early = logged[(logged["step"] == 40) & (logged["member"] == "member-0")]
    assert set(early["name"]) == {f"fedformer/attention_{name}" for name in ("cls", "0", "1")}
    page = whole.report().read_text(encoding="utf-8")
    assert "Attention of the critics" in page and (whole.folder / "figures" / "encoder_attention.png").exists()


def test_refusals(tmp_path):
    where = {"log_dir": str(tmp_path)}
    with pytest.raises(UserError, match="needs at least two members"):
        peerage.train(**{**SMALL, **where, "n_peers": 1})
    with pytest.raises(UserError, match="replaces the critics of SAC and TD3; dqn cannot take them"):
        peerage.train(**{**SMALL, **where, "env": "CartPole-v1", "algorithm": ("dqn",)})
    with pytest.raises(UserError, match="fedformer_width=9 must be a multiple of fedformer_heads=2"):
        peerage.train(**{**SMALL, **where, "fedformer_width": 9})
    with pytest.raises(UserError, match=r"fedformer_dropout=0.001 is rounded to a multiple of 1/256"):
        peerage.train(**{**SMALL, **where, "fedformer_dropout": 0.001})
    with pytest.raises(UserError, match="needs members with the same"):
        peerage.train(**{**SMALL, **where, "net_arch": ((8,), (4,))})
    assert not list(tmp_path.iterdir())


def test_a_trained_member_can_advise_but_not_move(tmp_path):
    """Its critics need the other members of its group."""
    run = peerage.train(**{**SMALL, "log_dir": str(tmp_path), "exp_name": "federated", "total_timesteps": 30})
    message = "belong to .*fedformer.*: its members cannot be exported or become members of another group"
    with pytest.raises(UserError, match=message):
        export_member(run.folder, 0)
    plain = {**SMALL, "log_dir": str(tmp_path), "exchange": (), "total_timesteps": 30, "sharing": "advice"}
    plain = {key: value for key, value in plain.items() if not key.startswith("fedformer") and key != "exchange_freq"}
    with pytest.raises(UserError, match=message):
        peerage.train(**plain, init_from=(f"{run.folder}:1", "none"))
    policy, _ = load_policy(f"{run.folder}:1", *(space for space in spaces("Pendulum-v1")))
    obs = np.array([[0.3, 0.9, -1.0]], np.float32)
    acted = policy.suggest(torch.as_tensor(obs)[None], None)[0, 0].numpy()
    np.testing.assert_array_equal(acted, run.policy(1)(obs[0]))
    peerage.train(**plain, exp_name="advised", advisers=[f"checkpoint:{run.folder}:1"])
