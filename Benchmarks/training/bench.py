"""Tokens per second of full training steps (forward, backward, clipping, AdamW) in eager PyTorch, as JSON.

With --anira the rounds alternate with those of that program, so that both see the same noise of the machine.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROCESSORS = os.sched_getaffinity(0)    # before PyTorch, whose OpenMP may pin this thread (OMP_PROC_BIND)

import torch  # noqa: E402

from torch_step import DEFAULTS, Model, Objective, draw_noise, optimizer, random_batch, random_weights, train_step

WARM_UP = 2     # steps before the first round: the allocator and the optimiser's state settle


def peak_bytes():
    """Largest resident size so far of this process, PyTorch itself included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def waited():
    """Seconds that this process's threads stood ready while others had the processor (Linux, else 0)."""
    files = Path("/proc/self/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[1]) for file in files) / 1e9


class Torch:
    """The model, its optimiser and one batch, whose noise is drawn anew for each step."""

    def __init__(self, o):
        torch.set_num_threads(o.threads)
        torch.manual_seed(o.seed)
        self.config = DEFAULTS | dict(
            vocab_size=o.vocab, hidden_size=o.hidden, intermediate_size=o.intermediate, num_attention_heads=o.heads,
            num_key_value_heads=o.heads, max_depth=o.max_depth, max_position_embeddings=o.length, decider=o.variant,
            decider_intermediate_size=o.decider_intermediate)
        self.model = Model(self.config, random_weights(self.config, o.seed))
        self.adamw, self.objective, self.micro_batch = optimizer(self.model), Objective(), o.torch_micro_batch
        self.batch = random_batch(self.config, o.batch, o.length, torch.default_generator, padded=False)

    def step(self):
        """Seconds of one step; reading the loss is part of it."""
        start = time.perf_counter()
        self.batch.noise = draw_noise(self.config, *self.batch.tokens.shape)
        ce, kl = train_step(self.model, self.adamw, self.batch, self.objective, micro_batch=self.micro_batch)
        if not torch.isfinite(ce + kl):
            raise ValueError("the loss is not finite")
        return time.perf_counter() - start


def anira_round(o):
    command = [o.anira, "bench", "train", "--variant", o.variant, "--hidden", o.hidden, "--intermediate",
               o.intermediate, "--heads", o.heads, "--max-depth", o.max_depth, "--batch", o.batch,
               "--length", o.length, "--micro-batch", o.micro_batch, "--threads", o.threads, "--steps", o.steps,
               "--vocabulary", o.vocab, "--decider-intermediate", o.decider_intermediate, "--json"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True,
                          env={k: v for k, v in os.environ.items() if not k.startswith("OMP_")},
                          preexec_fn=lambda: os.sched_setaffinity(0, PROCESSORS))
    return json.loads(done.stdout)["results"]


def summary(rates):
    return {"tokens_per_second": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def run(o):
    after_import = peak_bytes()
    peer = Torch(o)
    for _ in range(WARM_UP):
        peer.step()
    torch_rates, anira_rates, ratios, anira_peaks, seconds, before = [], [], [], [], 0, waited()
    for _ in range(o.rounds):
        times = [peer.step() for _ in range(o.steps)]
        rates = [o.batch * o.length / time for time in times]
        torch_rates, seconds = torch_rates + rates, seconds + sum(times)
        if o.anira:
            found = anira_round(o)
            anira_rates.append(found["tokens_per_second"])
            anira_peaks.append(found["peak_bytes"])
            ratios.append(found["tokens_per_second"] / statistics.median(rates))
    result = {"shapes": {k: getattr(o, k) for k in ("variant", "hidden", "intermediate", "heads", "max_depth", "vocab",
                                                    "decider_intermediate", "batch", "length", "threads")},
              "parameters": sum(p.numel() for p in peer.model.parameters()),
              "steps": o.steps, "rounds": o.rounds,
              "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__,
                          "vectors": torch.backends.cpu.get_cpu_capability()},
              "torch": summary(torch_rates) | {"micro_batch": o.torch_micro_batch or o.batch,
                                               "share_waited": (waited() - before) / (seconds * o.threads),
                                               "peak_bytes": peak_bytes(), "peak_bytes_after_import": after_import}}
    if o.anira:
        result["anira"] = summary(anira_rates) | {"micro_batch_tokens": o.micro_batch,
                                                  "peak_bytes": max(anira_peaks)}
        result["ratio"] = {"anira_over_torch": statistics.median(ratios), "rounds": ratios}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=["early", "online"], default="early")
    for name, value, text in (
            ("threads", 2, ""), ("hidden", 64, "H"), ("intermediate", 192, "I of the feed-forward blocks"),
            ("heads", 4, ""), ("max-depth", 6, "K"), ("vocab", 16, "V"), ("batch", 256, "sequences a step"),
            ("length", 16, "positions a sequence"), ("decider-intermediate", None, "I of the decider, default H"),
            ("steps", 5, "steps a round"), ("rounds", 3, ""), ("seed", 0, ""),
            ("torch-micro-batch", None, "sequences at a time in PyTorch, default all"),
            ("micro-batch", 2048, "tokens a thread of anira has in memory at once")):
        parser.add_argument(f"--{name}", type=int, default=value, help=text)
    parser.add_argument("--anira", metavar="PATH", help="program whose `bench train --json` alternates with PyTorch")
    o = parser.parse_args()
    o.decider_intermediate = o.decider_intermediate or o.hidden
    print(json.dumps(run(o), indent=2))


if __name__ == "__main__":
    sys.exit(main())
