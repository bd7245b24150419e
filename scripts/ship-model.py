#!/usr/bin/env python3
"""Turns a finished run into a shipped model: copies the checkpoint, measures it, writes its card and expectations.

usage: .venv/bin/python scripts/ship-model.py RUN NAME      e.g. runs/out/mano-online mano-online

checkpoints/NAME gets the checkpoint, training.json, README.md (the card, from `anira eval`) and expected.json (from
the tests' independent implementation); runs/NAME gets the resolved configuration, the record and the evaluation.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "Tests/Acceptance"))
from reference import Reference  # noqa: E402

ANIRA = ROOT / ".build/release/anira"
ROWS = 400
UNITS = {"mano": "operators", "brevo": "nodes", "depo": "hops", "lano": "letters"}
OPTIONS = {"modulus": "--modulus", "maxSize": "--max-size", "nodes": "--nodes", "hops": "--hops", "queries": "--queries"}


def anira(*words):
    return subprocess.run([ANIRA, *map(str, words)], check=True, capture_output=True, text=True).stdout


def task_words(run):
    return [word for key, value in run["taskOptions"].items() if key in OPTIONS for word in (OPTIONS[key], value)]


def questions(run, count=60):
    """Rows of the test split, cut after what the model is given."""
    lines = anira("data", "--task", run["task"], "--split", "test", "--seed", 77, "--count", count, *task_words(run))
    for line in lines.splitlines():
        row = json.loads(line)
        first = row["answer_mask"].index(1)
        if run["task"] == "lano":
            first = 24
        answer = next((i for i in range(first, len(row["tokens"])) if not row["answer_mask"][i]), len(row["tokens"]))
        yield row["tokens"][:first], min(answer - first, 12)


def expectations(folder, run):
    """Prompts with the answers and depths that the reference finds, none of which hangs on the last bits."""
    model, words = Reference(folder), json.loads((folder / "vocab.json").read_text())
    prompts = []
    for tokens, count in questions(run):
        found = model.generate(tokens, count)
        if found.margin > 2e-4 and len(prompts) < 12:
            prompts.append({"text": " ".join(words[t] for t in tokens), "tokens": tokens,
                            "answer": " ".join(words[t] for t in found.tokens), "new_tokens": found.tokens,
                            "depths": found.prompt_depths, "new_depths": found.depths})
    infer = []
    for prompt in prompts[:3]:
        found = model.infer(prompt["tokens"])
        infer.append({"tokens": prompt["tokens"], "depths": found.depths,
                      "logits": np.round(found.logits, 6).tolist()})
    return {"exit_kv": model.exit_kv, "prompts": prompts, "infer": infer}


def card(name, run, config, found, parameters):
    unit, fixed = UNITS[run["task"]], found["fixed"]
    kind = {"early": "ANIRA-E", "online": "ANIRA-O"}[run["variant"]]
    options = ", ".join(f"{key} {value}" for key, value in run["taskOptions"].items() if value not in (None, False))
    total = found["adaptive"]["total"]
    start = f", started from `{run['startedFrom']}`" if "startedFrom" in run else ""
    lines = [
        f"# {run['task'].upper()}, {kind}", "",
        f"{parameters:,} parameters, H = {config['hidden_size']}, I = {config['intermediate_size']}, "
        f"{config['num_attention_heads']} heads, K = {config['max_depth']}. Task options: {options or 'none'} "
        f"(docs/tasks.md). Trained by `anira train` with `runs/{name}/train.sh`: {run['steps']:,} steps of "
        f"{run['batch']} rows, λ = {run['lambda']:g}, γ = {run['gamma']:g}{start}; the record is `runs/{name}/metrics.jsonl`.",
        "",
        f"Measured by `anira eval` on {found['rows']:,} rows of the test split, whose instances occur in no training row "
        f"(`runs/{name}/evaluation.json`). Depths are the model's own; the depth of an answer is that of the position "
        "that predicts it.", "",
        f"| {unit} | accuracy | depth at the answer | depth of the question | mean depth | guessing | commonest answer | "
        f"accuracy at fixed depth 1…{found['max_depth']} |", "|---|---|---|---|---|---|---|---|"]
    for index, line in enumerate(found["adaptive"]["by_difficulty"]):
        curve = " ".join(f"{point['by_difficulty'][index]['accuracy']:.2f}" for point in fixed)
        lines.append(f"| {line['difficulty']} | {line['accuracy']:.3f} | {line['answer_depth']:.2f} | "
                     f"{line['question_depth']:.2f} | {line['mean_depth']:.2f} | {line['guess_baseline']:.2f} | "
                     f"{line['majority_baseline']:.2f} | {curve} |")
    curve = " ".join(f"{point['total']['accuracy']:.2f}" for point in fixed)
    lines.append(f"| all | {total['accuracy']:.3f} | {total['answer_depth']:.2f} | {total['question_depth']:.2f} | "
                 f"{total['mean_depth']:.2f} | {total['guess_baseline']:.2f} | | {curve} |")
    lines += ["", f"At its mean depth of {total['mean_depth']:.2f} of {found['max_depth']} it reaches "
              f"{total['accuracy']:.3f}; fixed depths reach {found['fixed_accuracy_at_mean_depth']:.3f} at that cost."]
    if "answer_depth_spearman" in found:
        lines += ["", f"Rank correlation (Spearman) of {unit} with the depth at the answer: "
                  f"{found['answer_depth_spearman']:+.2f}"
                  + (f"; with the question's depth: {found['question_depth_spearman']:+.2f}."
                     if "question_depth_spearman" in found else ".")]
    dial = ", ".join(f"{p['setting']:g} → {p['total']['accuracy']:.3f} at {p['total']['mean_depth']:.2f}"
                     for p in found["sweep"])
    return "\n".join(lines + ["", f"The dial (`cdf` threshold → accuracy at mean depth): {dial}.", ""])


def main():
    run_folder, name = Path(sys.argv[1]), sys.argv[2]
    folder, record = ROOT / "checkpoints" / name, ROOT / "runs" / name
    for place in (folder, record):
        place.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors", "vocab.json", "training.json"):
        shutil.copy(run_folder / file, folder / file)
    shutil.copy(run_folder / "training.json", record / "training.json")
    shutil.copy(run_folder / "metrics.jsonl", record / "metrics.jsonl")
    run, config = (json.loads((folder / file).read_text()) for file in ("training.json", "config.json"))
    found = json.loads(anira("eval", "--task", run["task"], "--model", folder, "--rows", ROWS, "--json"))
    (record / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n")
    raw = (folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])
    parameters = sum(int(np.prod(t["shape"])) for key, t in header.items() if key != "__metadata__")
    (folder / "README.md").write_text(card(name, run, config, found, parameters))
    (folder / "expected.json").write_text(json.dumps(expectations(folder, run)) + "\n")
    print((folder / "README.md").read_text())


if __name__ == "__main__":
    main()
