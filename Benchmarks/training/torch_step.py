"""One training step of the adaptive-depth recurrent transformer in eager PyTorch, and files that hold such steps.

The graph is static: all K iterations of the core run for every token, a token that has left passes its state through
unchanged and keeps presenting it to attention. Letters: B sequences, T positions, H hidden size, A attention heads,
G key/value heads, D head width, I feed-forward width, K deepest iteration, V vocabulary, P = B·T.

    torch_step.py verify     --model DIR --step FILE
    torch_step.py make-model --out DIR --config hidden_size=64 decider=online ...
    torch_step.py make-step  --model DIR --out FILE --batch B --length T --seed S
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

DEFAULTS = dict(model_type="anira", vocab_size=37, hidden_size=48, intermediate_size=96, num_attention_heads=4,
                num_key_value_heads=None, num_prelude_layers=1, num_core_layers=1, num_coda_layers=1, max_depth=5,
                max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0, decider="early",
                decider_intermediate_size=64, tie_word_embeddings=False)

TOLERANCE = 1e-4        # of verify: largest difference over largest expected magnitude, per tensor
MARGIN = 2e-5           # of make-step: no exit decision is closer to its threshold than this


@dataclass
class Batch:
    tokens: torch.Tensor        # [B, T] int
    valid: torch.Tensor         # [B, T] 1 at real tokens, 0 at padding, which fills the tail
    answer: torch.Tensor        # [B, T] 1 at the tokens to be predicted, each from the position before it
    noise: torch.Tensor         # [B, T, K] Gumbel (early) or [B, T] uniform (online)


@dataclass
class Objective:
    lam: float = 0.1            # weight of the depth prior
    ratio: float = 1.25         # γ of prior(t) ∝ γ^(−t)
    tau: float = 1.0            # Gumbel-softmax temperature, early only

    def log_prior(self, depth):
        return F.log_softmax(-math.log(self.ratio) * torch.arange(1, depth + 1, dtype=torch.float32), -1)


@dataclass
class Outcome:
    ce: torch.Tensor            # summed over the answer tokens
    kl: torch.Tensor            # summed over the valid positions
    depths: torch.Tensor        # [B, T] int
    exits: torch.Tensor         # [B, T, K] p(t)
    margin: float = field(default=math.inf)


# --- the model ---------------------------------------------------------------------------------------------------

class Model(torch.nn.Module):
    """Parameters under their checkpoint names, with `.` written `/`, which PyTorch does not allow in names."""

    def __init__(self, config, weights):
        super().__init__()
        self.config = c = DEFAULTS | config
        self.H, self.A, self.K, self.eps = c["hidden_size"], c["num_attention_heads"], c["max_depth"], c["rms_norm_eps"]
        self.G = c["num_key_value_heads"] or self.A
        self.D = self.H // self.A
        # With two core layers a cached decoder shows the keys of the last iteration that ran (`exit_kv` = latest),
        # the static graph those of one more: the graph would train another model than the one that is served.
        if c["num_core_layers"] != 1 or c.get("exit_kv", "project") != "project":
            raise ValueError("training needs one core layer with exit_kv = project")
        missing, extra = layout(c).keys() - weights.keys(), weights.keys() - layout(c).keys()
        if missing or extra:
            raise ValueError(f"checkpoint lacks {sorted(missing)}, has unknown {sorted(extra)}")
        for name, shape in layout(c).items():
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(weights[name].shape)}, expected {shape}")
            self.register_parameter(name.replace(".", "/"), torch.nn.Parameter(weights[name].float()))
        frequencies = 1.0 / c["rope_theta"] ** (torch.arange(0, self.D, 2).float() / self.D)
        angles = torch.arange(c["max_position_embeddings"]).float()[:, None] * frequencies
        self.cos = torch.cat([angles.cos(), angles.cos()], -1)[:, None]         # [T, 1, D]
        self.sin = torch.cat([-angles.sin(), angles.sin()], -1)[:, None]

    @staticmethod
    def load(directory):
        directory = Path(directory)
        return Model(json.loads((directory / "config.json").read_text()), load_file(directory / "model.safetensors"))

    def __getitem__(self, name):
        return self._parameters[name.replace(".", "/")]

    def gradients(self):
        return {name.replace("/", "."): p.grad for name, p in self.named_parameters()}

    def layer(self, prefix):
        """One Llama layer as a function of the states. Queries, keys and values come from one product, whose weights
        are joined here, once for all calls; joining gate and up gained nothing."""
        w = {k: self[f"{prefix}.{k}.weight"] for k in ("input_layernorm", "post_attention_layernorm",
                                                        "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
                                                        "mlp.down_proj")}
        qkv = torch.cat([self[f"{prefix}.self_attn.{k}_proj.weight"] for k in "qkv"])

        def forward(x):
            B, T, _ = x.shape
            heads = F.linear(F.rms_norm(x, (self.H,), w["input_layernorm"], self.eps), qkv).view(B, T, -1, self.D)
            qk, v = heads.split([self.A + self.G, self.G], 2)
            qk = qk * self.cos[:T] + qk.roll(self.D // 2, -1) * self.sin[:T]
            q, k = qk.split([self.A, self.G], 2)
            mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                                                   is_causal=True, enable_gqa=self.G != self.A)
            x = x + F.linear(mixed.transpose(1, 2).reshape(B, T, self.H), w["self_attn.o_proj"])
            normed = F.rms_norm(x, (self.H,), w["post_attention_layernorm"], self.eps)
            gate, up = F.linear(normed, w["mlp.gate_proj"]), F.linear(normed, w["mlp.up_proj"])
            return x + F.linear(F.silu(gate) * up, w["mlp.down_proj"])
        return forward

    def outer(self, x, part):
        for i in range(self.config[f"num_{part}_layers"]):
            x = self.layer(f"{part}.layers.{i}")(x)
        return x

    def decide(self, x):
        """Decider outputs [B, T, K] (early) or [B, T, 1] (online)."""
        x = F.layer_norm(x, (self.H,), self["decider.norm.weight"], self["decider.norm.bias"], 1e-5)
        return F.linear(F.silu(F.linear(x, self["decider.up.weight"])),
                        self["decider.out.weight"], self["decider.out.bias"])

    def core_early(self, h, noise, tau):
        """Exit state, depths [B, T], log p [B, T, K] and margin; the depth is drawn before the first iteration."""
        logits = self.decide(h)
        logits = logits - logits.mean(-1, keepdim=True)
        noisy = (logits + noise) / tau
        soft, chosen = noisy.softmax(-1), noisy.argmax(-1)
        # 1 − Σ_{s<t} z_s with z = onehot + soft − stopgrad(soft): the value is 0 or 1, the gradient that of soft.
        z = F.one_hot(chosen, self.K) + (soft - soft.detach())
        passing = 1 - (z.cumsum(-1) - z)
        core = self.layer("core.layers.0")
        for t in range(self.K):
            h = torch.lerp(h, core(h), passing[..., t, None])
        best = noisy.detach().topk(min(2, self.K), -1).values
        margin = (best[..., 0] - best[..., -1]).min().item() if self.K > 1 else math.inf
        return h, chosen + 1, logits.log_softmax(-1), margin

    def core_online(self, h, uniform):
        """As core_early; the token leaves at the first t with CDF(t) ≥ u, and λ_t is read from hᵗ either way."""
        core, log_p, margin = self.layer("core.layers.0"), [], math.inf
        passing = h.new_ones(h.shape[:2])
        remaining, cdf = h.new_zeros(h.shape[:2]), h.new_zeros(h.shape[:2])     # log Π(1−λ), Σ p
        depths = torch.full(h.shape[:2], self.K)
        for t in range(1, self.K + 1):
            h = torch.lerp(h, core(h), passing[..., None])
            if t == self.K:
                log_p.append(remaining)
                break
            logit = self.decide(h)[..., 0]
            log_p.append(remaining + F.logsigmoid(logit))
            remaining = remaining + F.logsigmoid(-logit)
            p = log_p[-1].exp()
            cdf = cdf + p.detach()
            leaves = (cdf >= uniform) & (passing > 0)
            depths = torch.where(leaves, t, depths)
            passing = passing - (leaves.to(p.dtype) + (p - p.detach()))
            margin = min(margin, (cdf - uniform).abs().min().item())
        return h, depths, torch.stack(log_p, -1), margin

    def forward(self, batch, objective):
        """Summed losses of a batch; the caller divides by the counts of the whole batch."""
        h = self.outer(F.embedding(batch.tokens, self["embed_tokens.weight"]), "prelude")
        if self.config["decider"] == "early":
            h, depths, log_p, margin = self.core_early(h, batch.noise, objective.tau)
        else:
            h, depths, log_p, margin = self.core_online(h, batch.noise)
        h = self.outer(h, "coda")
        targets = batch.answer[:, 1:] > 0
        h = F.rms_norm(h[:, :-1][targets], (self.H,), self["norm.weight"], self.eps)
        head = self["embed_tokens.weight" if self.config["tie_word_embeddings"] else "lm_head.weight"]
        ce = F.cross_entropy(F.linear(h, head), batch.tokens[:, 1:][targets], reduction="sum")
        p = log_p.exp()
        kl = ((p * (log_p - objective.log_prior(self.K))).sum(-1) * batch.valid).sum()
        return Outcome(ce, kl, depths, p, margin)


def backward(model, batch, objective, micro_batch=None):
    """Gradients of CE + λ·KL; `micro_batch` sequences at a time when given. Returns (mean CE, mean KL, outcome)."""
    answers, valid = batch.answer[:, 1:].sum(), batch.valid.sum()
    size, ce, kl = micro_batch or len(batch.tokens), 0.0, 0.0
    for start in range(0, len(batch.tokens), size):
        part = Batch(*(x[start:start + size] for x in vars(batch).values()))
        outcome = model(part, objective)
        (outcome.ce / answers + objective.lam * outcome.kl / valid).backward()
        ce, kl = ce + outcome.ce.detach() / answers, kl + outcome.kl.detach() / valid
    return ce, kl, outcome


def optimizer(model, learning_rate=1e-4):
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)


def train_step(model, adamw, batch, objective, clip=1.0, micro_batch=None):
    adamw.zero_grad(set_to_none=True)
    ce, kl, _ = backward(model, batch, objective, micro_batch)
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    adamw.step()
    return ce, kl


# --- random checkpoints and steps --------------------------------------------------------------------------------

def layout(c):
    """Name → shape of every tensor of a configuration."""
    h, i, d = c["hidden_size"], c["intermediate_size"], c["decider_intermediate_size"]
    g = h // c["num_attention_heads"] * (c["num_key_value_heads"] or c["num_attention_heads"])
    outputs = c["max_depth"] if c["decider"] == "early" else 1
    shapes = {"embed_tokens.weight": (c["vocab_size"], h), "norm.weight": (h,),
              "decider.norm.weight": (h,), "decider.norm.bias": (h,), "decider.up.weight": (d, h),
              "decider.out.weight": (outputs, d), "decider.out.bias": (outputs,)}
    for part in ("prelude", "core", "coda"):
        for layer in range(c[f"num_{part}_layers"]):
            p = f"{part}.layers.{layer}."
            shapes |= {p + "input_layernorm.weight": (h,), p + "post_attention_layernorm.weight": (h,),
                       p + "self_attn.q_proj.weight": (h, h), p + "self_attn.k_proj.weight": (g, h),
                       p + "self_attn.v_proj.weight": (g, h), p + "self_attn.o_proj.weight": (h, h),
                       p + "mlp.gate_proj.weight": (i, h), p + "mlp.up_proj.weight": (i, h),
                       p + "mlp.down_proj.weight": (h, i)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], h)
    return shapes


def random_weights(c, seed):
    """Norm weights and biases are random too, so that a forgotten one shows; depths differ from token to token."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for name, shape in sorted(layout(c).items()):
        values = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            values = 1 + 0.1 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        else:
            values = 0.83 / math.sqrt(shape[-1]) * values
        weights[name] = values
    if c["decider"] == "online":        # λ about 2/(K+1): the mean depth of a uniform draw
        weights["decider.out.bias"] -= math.log(max(c["max_depth"] - 1, 1) / 2)
    return weights


def write_model(directory, config, seed):
    c = DEFAULTS | config
    c["num_key_value_heads"] = c["num_key_value_heads"] or c["num_attention_heads"]
    Model(c, weights := random_weights(c, seed))                # refuses what cannot be trained
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(c, indent=2))
    words = ["<pad>", "<bos>"] + [f"w{i}" for i in range(2, c["vocab_size"])]
    (directory / "vocab.json").write_text(json.dumps(words))
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def draw_noise(config, B, T, generator=None):
    if config["decider"] == "online":
        return torch.rand(B, T, generator=generator)
    return -torch.empty(B, T, config["max_depth"]).exponential_(generator=generator).log()


def random_batch(config, B, T, generator, padded=True):
    """Random tokens; with `padded` sequences of 1…T tokens, one of length T, the others with a tail of zeros."""
    lengths = torch.randint(1, T + 1, (B,), generator=generator) if padded else torch.full((B,), T)
    lengths[0] = T
    valid = (torch.arange(T) < lengths[:, None]).float()
    tokens = torch.randint(1, config["vocab_size"], (B, T), generator=generator) * valid.long()
    answer = (torch.rand(B, T, generator=generator) < 0.25).float() * valid
    answer[:, 0] = 0                        # nothing stands before the first position to predict it
    answer[0, -1] = 1
    return Batch(tokens, valid, answer, draw_noise(config, B, T, generator))


# --- commands ----------------------------------------------------------------------------------------------------

def read_step(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    batch = Batch(tensors["tokens"].long(), *(tensors[k] for k in ("valid", "answer", "noise")))
    objective = Objective(*(float(metadata[k]) for k in ("lambda", "prior_ratio", "tau")))
    return tensors, batch, objective


def verify(options):
    model, (expected, batch, objective) = Model.load(options.model), read_step(options.step)
    ce, kl, outcome = backward(model, batch, objective, options.micro_batch)
    found = {"loss.ce": ce, "loss.kl": kl} | {f"grad.{k}": g for k, g in model.gradients().items()}
    if not options.micro_batch:
        found |= {"exit_distribution": outcome.exits.detach(), "depths": outcome.depths}
    unknown = {k for k in expected if k.startswith(("grad.", "loss."))} - found.keys()
    errors = dict.fromkeys(unknown, math.inf)
    for name, value in found.items():
        wanted = expected[name].float().reshape(value.shape)
        errors[name] = ((value - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12)).item()
    for name, error in sorted(errors.items(), key=lambda item: -item[1]):
        print(f"{error:9.2e}  {name}")
    bad = [name for name, error in errors.items() if not error <= TOLERANCE]
    print(f"{'FAILED' if bad else 'passed'}: {len(errors)} tensors, {len(bad)} beyond {TOLERANCE:g}")
    return 1 if bad else 0


def make_step(options):
    model, generator = Model.load(options.model), torch.Generator().manual_seed(options.seed)
    batch = random_batch(model.config, options.batch, options.length, generator)
    objective = Objective(options.lam, options.prior_ratio, options.tau)
    for _ in range(100):    # a decision on the brink would make the file a test of rounding
        model.zero_grad()
        ce, kl, outcome = backward(model, batch, objective)
        if outcome.margin > MARGIN:
            break
        batch.noise = draw_noise(model.config, options.batch, options.length, generator)
    else:
        raise ValueError(f"no noise with all decisions {MARGIN:g} from their thresholds: make the step smaller")
    tensors = {"tokens": batch.tokens.int(), "valid": batch.valid, "answer": batch.answer, "noise": batch.noise,
               "depths": outcome.depths.int(), "exit_distribution": outcome.exits.detach(),
               "loss.ce": ce.reshape(1), "loss.kl": kl.reshape(1)}
    tensors |= {f"grad.{name}": gradient for name, gradient in model.gradients().items()}
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"lambda": options.lam, "prior_ratio": options.prior_ratio, "tau": options.tau}
    save_file({k: v.contiguous() for k, v in tensors.items()}, options.out, {k: str(v) for k, v in metadata.items()})
    counts = torch.bincount(outcome.depths[batch.valid > 0], minlength=model.K + 1)[1:].tolist()
    print(f"{options.out}: CE {ce:.6f}, KL {kl:.6f}, valid tokens per depth {counts}, margin {outcome.margin:.1e}")
    return 0


def make_model(options):
    config = {}
    for pair in options.config:
        name, text = pair.split("=", 1)
        if name not in DEFAULTS:
            raise ValueError(f"{name} is not a configuration field: {sorted(DEFAULTS)}")
        config[name] = text if isinstance(DEFAULTS[name], str) else json.loads(text)
    write_model(options.out, config, options.seed)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("verify", help="compare losses and gradients with a train_step file")
    command.add_argument("--model", required=True)
    command.add_argument("--step", required=True)
    command.add_argument("--micro-batch", type=int, help="sequences at a time, gradients summed")
    command.set_defaults(run=verify)
    command = commands.add_parser("make-step", help="write a train_step file with random inputs")
    command.add_argument("--model", required=True)
    command.add_argument("--out", required=True)
    for name, kind, value in (("batch", int, 4), ("length", int, 20), ("seed", int, 0), ("prior-ratio", float, 1.25),
                              ("tau", float, 1.0)):
        command.add_argument(f"--{name}", type=kind, default=value)
    command.add_argument("--lambda", dest="lam", type=float, default=0.1)
    command.set_defaults(run=make_step)
    command = commands.add_parser("make-model", help="write a random checkpoint")
    command.add_argument("--out", required=True)
    command.add_argument("--config", nargs="*", default=[], metavar="NAME=VALUE")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=make_model)
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
