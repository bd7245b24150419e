#!/usr/bin/env python3
"""One token of the bench model in PyTorch, llama.cpp and Anira's local engine, interleaved in one run.

usage: python Benchmarks/peers/bench.py [--anira .build/release/anira] [--rounds 3] [--compile] [--llama]

The model is that of `anira bench decode`: H 512, I 2048, 8 heads, one prelude, core and coda layer, vocabulary 128, random
weights, every token at one depth, context 64, one thread. PyTorch runs it unrolled and tuned by hand: fused QKV and gate-up
products, a cache that was allocated before, inference mode. It takes every sequence to the same depth in lockstep, and
so does llama.cpp (llama.py), whose keys and values are f16. Each is compared with Anira holding weights, keys and values
alike (`--weights`, `--kv`).
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

H, I, HEADS, VOCABULARY, CONTEXT, K = 512, 2048, 8, 128, 64, 6
D = H // HEADS


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = (torch.nn.Parameter(torch.ones(H)) for _ in range(2))
        self.qkv, self.out = torch.nn.Linear(H, 3 * H, False), torch.nn.Linear(H, H, False)
        self.gate_up, self.down = torch.nn.Linear(H, 2 * I, False), torch.nn.Linear(I, H, False)

    def forward(self, h, keys, values, cosine, sine):
        b = h.shape[0]
        q, k, v = self.qkv(F.rms_norm(h, (H,), self.norm1)).view(b, 3, HEADS, D).unbind(1)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        keys[:, :, -1], values[:, :, -1] = k, v
        seen = F.scaled_dot_product_attention(q.unsqueeze(2), keys, values)
        h = h + self.out(seen.reshape(b, H))
        gate, up = self.gate_up(F.rms_norm(h, (H,), self.norm2)).chunk(2, -1)
        return h + self.down(F.silu(gate) * up)


def rotate(x, cosine, sine):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


class Model(torch.nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.depth = depth
        self.embedding = torch.nn.Embedding(VOCABULARY, H)
        self.prelude, self.core, self.coda = Layer(), Layer(), Layer()
        self.norm, self.head = torch.nn.Parameter(torch.ones(H)), torch.nn.Linear(H, VOCABULARY, False)

    def forward(self, tokens, keys, values, cosine, sine):
        h = self.prelude(self.embedding(tokens), keys[0], values[0], cosine, sine)
        for t in range(self.depth):
            h = self.core(h, keys[t + 1], values[t + 1], cosine, sine)
        h = self.coda(h, keys[-1], values[-1], cosine, sine)
        return self.head(F.rms_norm(h, (H,), self.norm)).argmax(-1)


class PyTorch:
    def __init__(self, depth, batch, dtype, compiled):
        torch.manual_seed(1)
        self.model = Model(depth).to(dtype).eval()
        self.run = torch.compile(self.model, dynamic=False) if compiled else self.model
        shape = (depth + 2, batch, HEADS, CONTEXT, D)
        self.keys, self.values = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
        angles = 63 * 10000.0 ** (-torch.arange(0, D, 2) / D)
        self.angles = angles.cos().to(dtype), angles.sin().to(dtype)
        self.tokens, self.batch = torch.ones(batch, dtype=torch.long), batch

    def tokens_per_second(self, seconds=1.0):
        with torch.inference_mode():
            for _ in range(3):
                self.run(self.tokens, self.keys, self.values, *self.angles)
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                self.run(self.tokens, self.keys, self.values, *self.angles)
                count += 1
            return count * self.batch / (time.perf_counter() - start)


MIXED = "Anira f32, depths 1…5"
# How weights, and keys and values, are held by Anira where it is compared with a peer.
ALIKE = {"PyTorch eager f32": ("f32", "f32"), "PyTorch eager bf16": ("bf16", "bf16"),
         "PyTorch compiled f32, frozen": ("f32", "f32"), "llama.cpp F32": ("f32", "f16"), "llama.cpp BF16": ("bf16", "f16"),
         "llama.cpp Q8_0": ("int8", "f16")}


def ours(weights, kv):
    return f"Anira {weights}, keys and values {kv}"


def anira(binary, weights, kv):
    """(one session, 64 sessions) at depth 3 in tokens a second."""
    found = json.loads(subprocess.run(
        [binary, "bench", "decode", "--local-only", "--json", "--rounds", "1", "--depth", "3", "--sessions", "64",
         "--tokens", "64", "--weights", weights, "--kv", kv], check=True, capture_output=True, text=True).stdout)
    local = found["results"]["local"]
    return 1e6 / local["micros"], local["batchTokens"]


def mixed(binary):
    """64 sessions at mean depth 3 in tokens a second."""
    rows = json.loads(subprocess.run([binary, "bench", "batch", "--json", "--rounds", "1", "--sessions", "64"], check=True,
                                     capture_output=True, text=True).stdout)["results"]["rows"]
    return rows[0]["mixed"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anira", default=".build/release/anira")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="torch.compile with frozen weights too (needs g++)")
    parser.add_argument("--llama", action="store_true", help="llama.cpp too (needs llama-cpp-python and gguf)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peers = {}
    kinds = [("PyTorch eager f32", torch.float32, False), ("PyTorch eager bf16", torch.bfloat16, False)]
    if arguments.compile:
        import torch._inductor.config as inductor
        inductor.freezing = True
        kinds.append(("PyTorch compiled f32, frozen", torch.float32, True))
    for name, dtype, compiled in kinds:
        peers[name] = {(d, b): PyTorch(d, b, dtype, compiled) for d, b in ((3, 1), (3, 64), (K, 64))}
    if arguments.llama:
        from llama import Llama
        for kind in ("F32", "BF16", "Q8_0"):
            peers[f"llama.cpp {kind}"] = {
                (d, b): Llama(kind, d, b, H, I, HEADS, VOCABULARY) for d, b in ((3, 1), (3, 64), (K, 64))}
    found = {}
    for _ in range(arguments.rounds):
        for name, cases in peers.items():
            for (d, b), case in cases.items():
                found.setdefault((name, d, b), []).append(case.tokens_per_second())
        for weights, kv in dict.fromkeys(ALIKE.values()):
            one, many = anira(arguments.anira, weights, kv)
            found.setdefault((ours(weights, kv), 3, 1), []).append(one)
            found.setdefault((ours(weights, kv), 3, 64), []).append(many)
        found.setdefault((MIXED, 3, 64), []).append(mixed(arguments.anira))
    print("| | depth | sessions | tokens/s | Anira, held alike, over it |\n|---|---|---|---|---|")
    for (name, d, b), values in found.items():
        ratio = ""
        if name in ALIKE:
            beside = found[(ours(*ALIKE[name]), 3, b) if d == 3 else (MIXED, 3, 64)]
            ratio = f"{statistics.median(a / v for a, v in zip(beside, values)):.2f}"
        print(f"| {name} | {d} | {b} | {statistics.median(values):,.0f} | {ratio} |")
    print("\nDepth 6 is what lockstep has to take for a batch of mixed depths; it is compared with Anira's depths 1…5, f32.")


if __name__ == "__main__":
    main()
