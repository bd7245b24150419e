"""Writes small random checkpoints of shapes the product has never seen, whole or damaged.

Weights are normal with a deviation of 0.83/√H, where a random model decides differently from token to token. Norm
weights and biases are random too: a forgotten one shows.
"""

import json
from pathlib import Path

import numpy as np

from reference import write_safetensors

SHAPE = dict(vocab_size=53, hidden_size=40, intermediate_size=72, num_attention_heads=4, num_key_value_heads=4,
             num_prelude_layers=1, num_core_layers=1, num_coda_layers=1, max_depth=6, max_position_embeddings=192,
             rms_norm_eps=1e-5, rope_theta=10000.0, decider="early", decider_intermediate_size=56,
             tie_word_embeddings=False)

# Name → shape, storage and seed of every checkpoint the tests serve.
KINDS = {
    "early": dict(seed=11),
    "online": dict(seed=12, decider="online", hidden_size=64, num_attention_heads=8, num_key_value_heads=8,
                   intermediate_size=104, vocab_size=61, max_depth=7, rms_norm_eps=1e-6, rope_theta=500.0,
                   dtype="BF16", shards=3),
    "grouped": dict(seed=13, num_prelude_layers=2, num_coda_layers=2, hidden_size=48, num_attention_heads=6,
                    num_key_value_heads=2, dtype="F16", tie_word_embeddings=True),
    "two-core-layers": dict(seed=14, decider="online", num_core_layers=2, hidden_size=56, num_attention_heads=4,
                            num_key_value_heads=2, max_depth=5),
    "latest": dict(seed=15, exit_kv="latest", num_key_value_heads=1, max_depth=4, intermediate_size=41),
}


def layout(c):
    """Name → shape of every tensor of a configuration."""
    h, i, d = c["hidden_size"], c["intermediate_size"], c["decider_intermediate_size"]
    g = h // c["num_attention_heads"] * c["num_key_value_heads"]
    shapes = {"embed_tokens.weight": (c["vocab_size"], h), "norm.weight": (h,),
              "decider.norm.weight": (h,), "decider.norm.bias": (h,), "decider.up.weight": (d, h)}
    outputs = c["max_depth"] if c["decider"] == "early" else 1
    shapes |= {"decider.out.weight": (outputs, d), "decider.out.bias": (outputs,)}
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
    random = np.random.default_rng(seed)
    scale = 0.83 / np.sqrt(c["hidden_size"])
    weights = {}
    for name, shape in sorted(layout(c).items()):
        values = random.normal(0, 1, shape)
        if name.endswith("norm.weight"):
            values = 1 + 0.1 * values
        elif name == "decider.norm.bias":
            values *= 0.1
        elif name == "decider.out.bias":
            values = 0.07 * values if c["decider"] == "early" else np.full(shape, -1.0)
        elif name == "decider.out.weight":
            values *= 2 * scale
        else:
            values *= scale
        weights[name] = values.astype(np.float32)
    return weights


def vocabulary(size):
    return ["<pad>", "<bos>"] + [f"w{i}" for i in range(2, size)]


def write(directory, *, seed, dtype="F32", shards=1, words=True, **shape):
    """A checkpoint folder; returns its path."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    config = {"model_type": "anira"} | SHAPE | shape
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    if words:
        (directory / "vocab.json").write_text(json.dumps(vocabulary(config["vocab_size"])))
    write_weights(directory, random_weights(config, seed), dtype, shards)
    return directory


def write_weights(directory, weights, dtype="F32", shards=1):
    if shards == 1:
        write_safetensors(directory / "model.safetensors", weights, dtype)
        return
    names, index = sorted(weights), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        write_safetensors(directory / file, part, dtype)
        index |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def write_kind(directory, kind):
    return write(directory, **KINDS[kind])


# --- damage: each returns words that the one-line error must contain -------------------------------------------

def truncate(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return ["model.safetensors"]


def cut_header(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    return ["model.safetensors"]


def _change(directory, change):
    config = json.loads((directory / "config.json").read_text())
    weights = random_weights(config, KINDS["early"]["seed"])
    change(weights)
    write_weights(directory, weights)


def lose_tensor(name):
    def damage(directory):
        _change(directory, lambda weights: weights.pop(name))
        return [name]
    return damage


def misshape(name):
    """One row too many: the message gives the expected and the found shape."""
    def damage(directory):
        found = []

        def change(weights):
            found.extend(weights[name].shape)
            weights[name] = np.concatenate([weights[name], weights[name][:1]])
        _change(directory, change)
        return [name, str(found[0]), str(found[0] + 1)]
    return damage


def poison(name, value):
    def damage(directory):
        def change(weights):
            weights[name].flat[-1] = value
        _change(directory, change)
        return [name]
    return damage


def lose_weights(directory):
    (directory / "model.safetensors").unlink()
    return ["model.safetensors"]


def lose_config(directory):
    (directory / "config.json").unlink()
    return ["config.json"]


def garble_config(directory):
    path = directory / "config.json"
    path.write_text(path.read_text()[:-30])
    return ["config.json"]


def list_config(directory):
    (directory / "config.json").write_text("[64]")
    return ["config.json", "not a JSON object"]


def lose_field(directory):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    del config["hidden_size"]
    path.write_text(json.dumps(config))
    return ["hidden_size"]


def change_field(name, value, *words):
    def damage(directory):
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
        return ["config.json", name, *words]
    return damage


def folder_instead(name, *words):
    def damage(directory):
        (directory / name).unlink(missing_ok=True)
        (directory / name).mkdir()
        return [name, *words]
    return damage


DAMAGES = {
    "truncated file": truncate,
    "cut header": cut_header,
    "weights missing": lose_weights,
    "config missing": lose_config,
    "config not JSON": garble_config,
    "config a list": list_config,
    "config without hidden_size": lose_field,
    "config with half a head": change_field("num_attention_heads", 2.5, "must be a whole number"),
    "config with a depth in words": change_field("max_depth", "six", "must be a whole number"),
    "config with an unknown decider": change_field("decider", "late", "unknown value"),
    "weights a folder": folder_instead("model.safetensors", "not a file"),
    "vocabulary a folder": folder_instead("vocab.json", "must be a file"),
    "prelude tensor missing": lose_tensor("prelude.layers.0.self_attn.k_proj.weight"),
    "core tensor missing": lose_tensor("core.layers.0.mlp.up_proj.weight"),
    "decider tensor missing": lose_tensor("decider.out.bias"),
    "head missing though not tied": lose_tensor("lm_head.weight"),
    "core tensor misshapen": misshape("core.layers.0.self_attn.o_proj.weight"),
    "norm misshapen": misshape("norm.weight"),
    "NaN in the core": poison("core.layers.0.mlp.down_proj.weight", np.nan),
    "infinity in the coda": poison("coda.layers.0.self_attn.q_proj.weight", np.inf),
}


def damaged(directory, kind):
    """A checkpoint with one fault, and the words its error must contain."""
    write_kind(directory, "early")
    return directory, DAMAGES[kind](directory)
