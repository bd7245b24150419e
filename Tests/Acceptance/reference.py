"""The recurrent-depth model in numpy float32, written from its specification alone.

It shares no code with the product: every position keeps all entries of its multi-depth keys and values, whole
sequences are recomputed for every new token, and nothing is fast. Letters: n positions, H hidden size, D head
width, A attention heads, G key/value heads, K deepest iteration, V vocabulary.
"""

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

F = np.float32


# --- safetensors: 8-byte little-endian header length, JSON header, raw data ------------------------------------

def _from_bytes(raw, dtype):
    if dtype == "F32":
        return np.frombuffer(raw, "<f4").copy()
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(F)
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(F)
    raise ValueError(f"dtype {dtype} is not one of F32, F16, BF16")


def to_bytes(array, dtype):
    """The array in `dtype`, rounded to nearest even."""
    array = np.ascontiguousarray(array, F)
    if dtype == "F32":
        return array.astype("<f4").tobytes()
    if dtype == "F16":
        return array.astype("<f2").tobytes()
    if dtype == "BF16":
        bits = array.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = np.where(np.isnan(array), 0x7FC0, rounded)
        return rounded.astype("<u2").tobytes()
    raise ValueError(f"dtype {dtype} is not one of F32, F16, BF16")


def read_safetensors(path):
    raw = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8:8 + length]), raw[8 + length:]
    header.pop("__metadata__", None)
    return {name: _from_bytes(data[slice(*t["data_offsets"])], t["dtype"]).reshape(t["shape"])
            for name, t in header.items()}


def write_safetensors(path, tensors, dtype="F32"):
    header, blobs, offset = {}, [], 0
    for name in sorted(tensors):
        blob = to_bytes(tensors[name], dtype)
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_weights(directory):
    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(directory / "model.safetensors")
    files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return {name: tensor for file in files for name, tensor in read_safetensors(directory / file).items()}


# --- arithmetic ------------------------------------------------------------------------------------------------

def sigmoid(x):
    return (1 / (1 + np.exp(-x))).astype(F)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(F)


def log_softmax(x):
    """In double, so that the reference's own rounding does not count."""
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def rms_norm(x, weight, eps):
    return (x / np.sqrt((x * x).mean(-1, keepdims=True) + F(eps)) * weight).astype(F)


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return (centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + F(1e-5)) * weight + bias).astype(F)


# --- results ---------------------------------------------------------------------------------------------------

@dataclass
class Inference:
    logits: np.ndarray          # [n, V]
    depths: list                # n
    exits: list                 # n lists: early K values, online t = 1…exit, [] without a decider
    margin: float               # smallest distance of any exit decision from its threshold

    def logprobs(self, tokens):
        """Of tokens 1…n−1, as `score` returns them."""
        return log_softmax(self.logits)[np.arange(len(tokens) - 1), tokens[1:]]


@dataclass
class Generation:
    tokens: list = field(default_factory=list)         # new tokens
    depths: list = field(default_factory=list)         # spent at the position that predicted each
    logprobs: list = field(default_factory=list)
    exits: list = field(default_factory=list)
    prompt_depths: list = field(default_factory=list)
    finish_reason: str = "length"
    margin: float = math.inf                           # exit decisions and the gap of the two best logits


class Reference:
    def __init__(self, directory):
        self.config = c = json.loads((Path(directory) / "config.json").read_text())
        self.w = read_weights(directory)
        self.H, self.A = c["hidden_size"], c["num_attention_heads"]
        self.G = c.get("num_key_value_heads", self.A)
        self.D, self.K, self.eps = self.H // self.A, c["max_depth"], c["rms_norm_eps"]
        self.early = c["decider"] == "early"
        self.exit_kv = c.get("exit_kv") or ("project" if c["num_core_layers"] == 1 else "latest")
        # Angles in float32, as PyTorch computes them.
        frequencies = (F(1) / F(c["rope_theta"]) ** (np.arange(0, self.D, 2, dtype=F) / F(self.D))).astype(F)
        angles = np.arange(c["max_position_embeddings"], dtype=F)[:, None] * frequencies
        self.cos, self.sin = np.cos(angles).astype(F), np.sin(angles).astype(F)

    def _linear(self, x, name):
        return x @ self.w[name + ".weight"].T

    def _rotate(self, x, positions):
        """Rotate-half RoPE of x [rows, heads, D]."""
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        a, b = x[..., :self.D // 2], x[..., self.D // 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(F)

    def _keys_values(self, x, prefix, positions):
        """Keys and values [rows, G, D] of the states x [rows, H] as the layer's attention sees them."""
        x = rms_norm(x, self.w[prefix + ".input_layernorm.weight"], self.eps)
        k = self._linear(x, prefix + ".self_attn.k_proj").reshape(len(x), self.G, self.D)
        v = self._linear(x, prefix + ".self_attn.v_proj").reshape(len(x), self.G, self.D)
        return self._rotate(k, positions), v

    def _layer(self, x, prefix, positions, keys, values):
        """One layer for the rows at `positions`; keys and values [n, G, D] of all positions, seen causally."""
        normed = rms_norm(x, self.w[prefix + ".input_layernorm.weight"], self.eps)
        q = self._linear(normed, prefix + ".self_attn.q_proj").reshape(len(x), self.A, self.D)
        q = self._rotate(q, positions)
        group = self.A // self.G
        keys, values = np.repeat(keys, group, 1), np.repeat(values, group, 1)
        scores = np.einsum("rad,jad->raj", q, keys) / F(math.sqrt(self.D))
        hidden = np.arange(len(keys))[None, :] > np.asarray(positions)[:, None]
        weights = softmax(np.where(hidden[:, None], F(-np.inf), scores))
        mixed = np.einsum("raj,jad->rad", weights, values).reshape(len(x), self.H)
        x = x + self._linear(mixed, prefix + ".self_attn.o_proj")
        normed = rms_norm(x, self.w[prefix + ".post_attention_layernorm.weight"], self.eps)
        gate = self._linear(normed, prefix + ".mlp.gate_proj")
        up = self._linear(normed, prefix + ".mlp.up_proj")
        return (x + self._linear(gate * sigmoid(gate) * up, prefix + ".mlp.down_proj")).astype(F)

    def _outer(self, x, part):
        positions = np.arange(len(x))
        for i in range(self.config[f"num_{part}_layers"]):
            prefix = f"{part}.layers.{i}"
            x = self._layer(x, prefix, positions, *self._keys_values(x, prefix, positions))
        return x

    def _decide(self, x):
        """Decider outputs [rows, K or 1]."""
        x = self._linear(layer_norm(x, self.w["decider.norm.weight"], self.w["decider.norm.bias"]), "decider.up")
        return self._linear(x * sigmoid(x), "decider.out") + self.w["decider.out.bias"]

    # --- depth rules -------------------------------------------------------------------------------------------

    def _resolve(self, depth):
        depth = dict(depth or {})
        if depth.get("policy", "model") == "model":
            depth["policy"] = "argmax" if self.early else "cdf"
        depth.setdefault("threshold", 0.5)
        depth.setdefault("min", 1)
        depth.setdefault("max", self.K)
        return depth

    def _given(self, depth, position):
        """Depth of a position that needs no decider, else None."""
        clamp = lambda d: min(max(d, depth["min"]), depth["max"])
        if depth["policy"] == "fixed":
            return clamp(depth["value"])
        if depth["policy"] == "per_token" and position < len(depth["values"]):
            return clamp(depth["values"][position])
        return None

    def _early_depth(self, p, depth):
        """(depth, margin) of one distribution; beyond a per_token list the checkpoint's own rule decides."""
        policy, q = depth["policy"], F(depth["threshold"])
        if policy == "cdf":
            sums = np.cumsum(p, dtype=F)
            chosen = next((t + 1 for t in range(self.K) if sums[t] >= q), self.K)
            margin = np.abs(sums[:-1] - q).min() if self.K > 1 else 1
        elif policy == "mean":
            expected = float((p * np.arange(1, self.K + 1, dtype=F)).sum(dtype=F))
            chosen = math.floor(expected + 0.5)
            margin = abs(expected + 0.5 - round(expected + 0.5))
        else:
            chosen = int(np.argmax(p)) + 1
            best = np.sort(p)
            margin = best[-1] - best[-2] if self.K > 1 else 1
        return min(max(chosen, depth["min"]), depth["max"]), float(margin)

    # --- the pass ----------------------------------------------------------------------------------------------

    def infer(self, tokens, depth=None):
        depth, n = self._resolve(depth), len(tokens)
        h = self._outer(self.w["embed_tokens.weight"][np.asarray(tokens)], "prelude")
        given = [self._given(depth, i) for i in range(n)]
        decided = [g is None for g in given]
        exits, margin = [[] for _ in range(n)], math.inf
        if self.early and any(decided):
            logits = self._decide(h)
            p = softmax(logits - logits.mean(-1, keepdims=True))
            for i in np.flatnonzero(decided):
                exits[i] = p[i].tolist()
                given[i], distance = self._early_depth(p[i], depth)
                margin = min(margin, distance)
        h, depths, distance = self._core(h, given, exits, depth)
        h = rms_norm(self._outer(h, "coda"), self.w["norm.weight"], self.eps)
        tied = self.config.get("tie_word_embeddings")
        logits = h @ self.w["embed_tokens.weight" if tied else "lm_head.weight"].T
        return Inference(logits, depths, exits, min(margin, distance))

    def _core(self, h, given, exits, depth):
        """Iterates all positions together; a position without a given depth leaves when its CDF reaches q."""
        n, layers, h = len(h), self.config["num_core_layers"], h.copy()
        # entries[layer][s][j]: keys and values of position j computed from its state hˢ.
        keys = np.zeros((layers, self.K, n, self.G, self.D), F)
        values = np.zeros_like(keys)
        deepest = np.full(n, -1)
        depths = np.zeros(n, int)
        survival, cdf, margin = np.ones(n, F), np.zeros(n, F), math.inf
        q = F(depth["threshold"] if depth["policy"] == "cdf" else 0.5)
        for t in range(1, self.K + 1):
            active = np.flatnonzero(depths == 0)
            # A position that left at t−1 shows the projection of its exit state: entry t−1 without an iteration.
            left = np.flatnonzero(depths == t - 1) if t > 1 and self.exit_kv == "project" else []
            x = h[active]
            for layer in range(layers):
                prefix = f"core.layers.{layer}"
                keys[layer, t - 1, active], values[layer, t - 1, active] = self._keys_values(x, prefix, active)
                deepest[active] = t - 1
                if len(left):
                    keys[layer, t - 1, left], values[layer, t - 1, left] = self._keys_values(h[left], prefix, left)
                    deepest[left] = t - 1
                entry = np.minimum(deepest, t - 1)
                if len(active):
                    x = self._layer(x, prefix, active, keys[layer, entry, np.arange(n)],
                                    values[layer, entry, np.arange(n)])
            h[active] = x
            lambdas = None
            if not self.early and t < self.K and any(given[i] is None for i in active):
                lambdas = sigmoid(self._decide(x)[:, 0])
            for row, i in enumerate(active):
                if given[i] is not None:
                    leaves = given[i] == t
                else:
                    last = t == self.K
                    p = survival[i] if last else F(lambdas[row] * survival[i])
                    survival[i] = F(survival[i] * (1 - (F(1) if last else lambdas[row])))
                    cdf[i] = F(cdf[i] + p)
                    exits[i].append(float(p))
                    leaves = last or (cdf[i] >= q and t >= depth["min"]) or t >= depth["max"]
                    margin = margin if last else min(margin, abs(float(cdf[i] - q)))
                if leaves:
                    depths[i] = t
        return h, depths.tolist(), margin

    def generate(self, prompt, max_new_tokens=16, depth=None, stop_tokens=()):
        out, tokens, result = Generation(), list(prompt), None
        while len(out.tokens) < max_new_tokens:
            result = self.infer(tokens, depth)
            out.prompt_depths = result.depths[:len(prompt)]
            logits = result.logits[-1]
            token = int(np.argmax(logits))
            best = np.sort(logits)
            out.margin = min(out.margin, result.margin, float(best[-1] - best[-2]))
            out.tokens.append(token)
            out.depths.append(result.depths[-1])
            out.exits.append(result.exits[-1])
            out.logprobs.append(float(log_softmax(logits)[token]))
            tokens.append(token)
            if token in stop_tokens:
                out.finish_reason = "stop"
                break
        return out
