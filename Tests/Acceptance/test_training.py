"""`anira train`, `train verify` and `eval` as a researcher uses them."""

import json
import os
import shutil
import signal
import struct
import subprocess

import numpy as np
import pytest

from reference import Reference, write_safetensors
from suite import BINARY, GOLDEN, Suite, wait_for

TINY = ("--modulus 3 --max-size 2 --hidden 16 --intermediate 24 --heads 2 --decider-intermediate 12 --max-depth 3 "
        "--batch 16 --evaluate-every 50 --record-every 10 --save-every 20 --evaluation-rows 16").split()


def anira(*words, check=True):
    done = subprocess.run([BINARY, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


def train(out, *words, variant="online"):
    return anira("train", "--task", "mano", "--variant", variant, "--out", out, *TINY, *words)


def content(folder):
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "state.safetensors", "config.json")}


# --- runs ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", ["early", "online"])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(binary, tmp_path, variant):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(straight, "--steps", 200, variant=variant)
    words = ["train", "--task", "mano", "--variant", variant, "--out", killed, *TINY, "--steps", "200"]
    process = subprocess.Popen([BINARY, *map(str, words)], stderr=subprocess.DEVNULL)
    record = killed / "metrics.jsonl"
    wait_for(lambda: record.exists() and record.read_text().count("\n") > 4, 30, "50 steps")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    anira("train", "--resume", "--out", killed)
    assert content(straight) == content(killed)
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(10, 201, 10))


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_signal_saves_and_says_how_to_go_on(binary, tmp_path, number):
    out = tmp_path / "run"
    words = ["train", "--task", "mano", "--variant", "online", "--out", out, *TINY, "--steps", "1000000",
             "--save-every", "1000000"]
    process = subprocess.Popen([BINARY, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (out / "metrics.jsonl").exists(), 30, "a record")
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "--resume" in output
    assert errors.startswith("training mano, online") and "stopping after this step" in errors
    assert (out / "state.safetensors").exists() and (out / "model.safetensors").exists()


def test_a_second_signal_does_not_wait_for_the_step(binary, tmp_path):
    words = ["train", "--task", "mano", "--variant", "online", "--out", tmp_path, "--batch", "100000"]
    process = subprocess.Popen([BINARY, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("training mano, online")
    process.send_signal(signal.SIGINT)
    while "a second signal" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "saved" not in output
    assert not (tmp_path / "metrics.jsonl").exists(), "no step was waited for"


def test_the_record_has_what_the_figures_need(binary, tmp_path):
    train(tmp_path, "--steps", 100)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        assert {"step", "ce", "kl", "loss", "lambda", "learning_rate", "gradient_norm", "tokens_per_second", "accuracy",
                "mean_depth"} <= set(record)
    for difficulty in records[-1]["validation"].values():
        assert set(difficulty) == {"accuracy", "answer_depth", "question_depth", "mean_depth"}
    stored = json.loads((tmp_path / "training.json").read_text())
    assert stored["hiddenSize"] == 16 and stored["taskOptions"]["modulus"] == 3


def test_a_full_disk_leaves_the_last_good_checkpoint(binary, tmp_path):
    """A limit on file size stands in for the disk: writing the state fails part of the way."""
    out = tmp_path / "run"
    train(out, "--steps", 40)
    before = content(out)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 20; trap "" XFSZ; exec "$@"', "limited", BINARY, "train", "--resume", "--out", out,
         "--steps", "80"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "state.safetensors" in done.stderr
    assert content(out) == before and not list(out.glob("*.new"))


def test_a_limit_on_file_size_is_named_as_such(binary, tmp_path):
    """The signal ended the process without a word, and a record cut short was "temporarily unavailable"."""
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 100; exec "$@"', "limited", BINARY, "train", "--task", "mano", "--variant", "online",
         "--out", tmp_path / "run", *TINY, "--steps", "3000", "--record-every", "1", "--save-every", "3000"],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    assert "metrics.jsonl: File too large" in done.stderr


def test_a_model_beyond_the_memory_is_refused_before_it_is_made(binary, tmp_path):
    """It was made until the system ended the process."""
    done = anira("train", "--task", "mano", "--variant", "online", "--out", tmp_path / "run", "--hidden", 65536, check=False)
    assert done.returncode == 1 and "GiB, of which there are" in done.stderr, done
    assert not (tmp_path / "run").exists()


def test_training_goes_on_when_nobody_reads_its_progress(binary, tmp_path):
    """It trapped at the second line."""
    words = ["train", "--task", "mano", "--variant", "online", "--out", tmp_path / "run", *TINY, "--steps", "200"]
    for line in ('exec "$@" 2>&-', '"$@" 2> >(true)'):
        done = subprocess.run(["bash", "-c", line, "quiet", BINARY, *map(str, words)], stdout=subprocess.DEVNULL,
                              timeout=60)
        assert done.returncode == 0
        words = ["train", "--resume", "--out", str(tmp_path / "run"), "--steps", "400"]


@pytest.mark.parametrize("words, said", [
    (["--task", "chess", "--variant", "online"], "--task"), (["--task", "mano", "--variant", "both"], "--variant"),
    (["--task", "mano", "--variant", "early", "--preset", "huge"], "--preset"),
    (["--task", "mano", "--variant", "early", "--steps", "0"], "steps"),
    (["--task", "mano", "--variant", "early", "--hops", "3"], "hops"), (["--resume"], "resume"),
])
def test_a_bad_setting_is_named_and_nothing_is_left_behind(binary, tmp_path, words, said):
    done = anira("train", "--out", tmp_path / "run", *words, check=False)
    assert done.returncode in (1, 64) and said in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_overwritten(binary, tmp_path):
    train(tmp_path / "run", "--steps", 20)
    before = content(tmp_path / "run")
    done = anira("train", "--task", "mano", "--variant", "online", "--out", tmp_path / "run", check=False)
    assert done.returncode == 1 and "--resume" in done.stderr and content(tmp_path / "run") == before


def test_a_model_is_not_overwritten_either(binary, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    done = anira("train", "--task", "mano", "--variant", "online", "--out", tmp_path, check=False)
    assert done.returncode == 1 and "model.safetensors" in done.stderr
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize("words", [["--heads", "4"], ["--modulus", "5"], ["--task", "brevo"], ["--preset", "paper"]])
def test_going_on_cannot_change_the_model(binary, tmp_path, words):
    train(tmp_path / "run", "--steps", 20)
    before = content(tmp_path / "run")
    done = anira("train", "--resume", "--out", tmp_path / "run", *words, check=False)
    assert done.returncode == 64 and content(tmp_path / "run") == before


def test_a_folder_that_cannot_be_made_is_one_clear_line(binary, tmp_path):
    (tmp_path / "file").touch()
    done = anira("train", "--task", "mano", "--variant", "early", "--out", tmp_path / "file/run", *TINY, check=False)
    assert done.returncode == 1 and "Not a directory" in done.stderr and "NSCocoa" not in done.stderr


def test_a_run_cannot_go_back(binary, tmp_path):
    train(tmp_path / "run", "--steps", 20)
    before = content(tmp_path / "run")
    done = anira("train", "--resume", "--out", tmp_path / "run", "--steps", 3, check=False)
    assert done.returncode == 1 and "step 20 already" in done.stderr and content(tmp_path / "run") == before


def test_two_trainers_do_not_share_a_folder(binary, tmp_path):
    train(tmp_path / "run", "--steps", 20)
    words = ["train", "--resume", "--out", tmp_path / "run", "--steps", "1000000"]
    process = subprocess.Popen([BINARY, *map(str, words)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    record = tmp_path / "run/metrics.jsonl"
    wait_for(lambda: record.read_text().count("\n") > 4, 30, "records")
    second = anira("train", "--resume", "--out", tmp_path / "run", check=False)
    process.kill()
    process.wait(30)
    assert second.returncode == 1 and "another process" in second.stderr


def test_a_run_killed_before_its_first_save_can_go_on(binary, tmp_path):
    words = ["train", "--task", "mano", "--variant", "online", "--out", tmp_path / "run", *TINY, "--save-every",
             "1000000", "--steps", "100000"]
    process = subprocess.Popen([BINARY, *map(str, words)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for((tmp_path / "run/metrics.jsonl").exists, 30, "a record")
    process.kill()
    process.wait(30)
    anira("train", "--resume", "--out", tmp_path / "run", "--steps", 20)


def test_a_run_killed_before_it_had_a_state_can_be_started_again(binary, tmp_path):
    """As it was, state.safetensors came first, and nothing accepted the folder."""
    train(tmp_path, "--steps", 20)
    expected = content(tmp_path)
    for path in tmp_path.iterdir():
        if path.name != "training.json":
            path.unlink()
    (tmp_path / "state.safetensors.new").write_bytes(b"cut sh")
    done = anira("train", "--resume", "--out", tmp_path, check=False)
    assert done.returncode == 1 and "no state.safetensors" in done.stderr
    train(tmp_path, "--steps", 20)
    assert content(tmp_path) == expected


def test_a_run_killed_after_its_first_state_can_go_on(binary, tmp_path):
    train(tmp_path / "whole", "--steps", 20)
    train(tmp_path / "run", "--steps", 20)
    words = ["bash", "-c", 'ulimit -f 8; exec "$@"', "limited", BINARY, "train", "--task", "mano", "--variant", "online",
             "--out", tmp_path / "cut", *TINY, "--steps", "20"]
    assert subprocess.run(list(map(str, words)), capture_output=True, timeout=60).returncode == 1
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["training.json"]
    (tmp_path / "run/model.safetensors").unlink()
    anira("train", "--resume", "--out", tmp_path / "run", "--steps", 20)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_a_flipped_bit_in_the_state_is_found(binary, tmp_path):
    train(tmp_path, "--steps", 20)
    raw = bytearray((tmp_path / "state.safetensors").read_bytes())
    raw[-1000] ^= 1
    (tmp_path / "state.safetensors").write_bytes(raw)
    done = anira("train", "--resume", "--out", tmp_path, "--steps", 40, check=False)
    assert done.returncode == 1 and "checksum" in done.stderr


def test_a_damaged_configuration_is_one_clear_line(binary, tmp_path):
    train(tmp_path, "--steps", 20)
    stored = json.loads((tmp_path / "training.json").read_text())
    for damage, said in (({"lambda": "much"}, "field 'lambda' has the wrong type"), ({"task": "chess"}, "field 'task'"),
                         ({"seed": -1}, "a number is negative"), ({"steps": 1.5}, "a number is negative")):
        (tmp_path / "training.json").write_text(json.dumps(stored | damage))
        done = anira("train", "--resume", "--out", tmp_path, check=False)
        assert done.returncode == 1 and said in done.stderr and "Context" not in done.stderr


@pytest.mark.parametrize("words", [["--batch", str(2**63 - 1)], ["--micro-batch", str(10**18)], ["--epsilon", "0"],
                                   ["--evaluation-rows", str(2**62)], ["--learn-until", "nan"]])
def test_a_setting_beyond_all_bounds_is_refused(binary, tmp_path, words):
    done = anira("train", "--task", "mano", "--variant", "early", "--out", tmp_path / "run", *words, check=False)
    assert done.returncode == 1 and words[0][2:] in done.stderr and not (tmp_path / "run").exists()


def test_a_record_that_is_a_folder_is_one_clear_line(binary, tmp_path):
    train(tmp_path, "--steps", 20)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    done = anira("train", "--resume", "--out", tmp_path, "--steps", 40, check=False)
    assert done.returncode == 1 and "cannot read" in done.stderr and "NSCocoa" not in done.stderr


def test_a_wide_feed_forward_layer_has_room(binary):
    anira("bench", "train", "--variant", "early", "--hidden", 16, "--intermediate", 1024, "--decider-intermediate", 16,
          "--micro-batch", 4096, "--batch", 256, "--threads", 1, "--steps", 1)


# --- verify ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["early-1x", "online-1x"])
def test_verify_agrees_with_the_independent_step(binary, name):
    folder = GOLDEN / name
    found = json.loads(anira("train", "verify", "--model", folder, "--step", folder / "train_step.safetensors",
                             "--json").stdout)
    assert found["depths_differing"] == 0 and len(found["gradients"]) > 25
    assert all(gradient["error"] < 1e-4 for gradient in found["gradients"])


def test_verify_finds_a_gradient_that_is_off(binary, tmp_path):
    folder, path = GOLDEN / "early-1x", tmp_path / "step.safetensors"
    raw = bytearray((folder / "train_step.safetensors").read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    start, end = json.loads(raw[8:8 + length])["grad.norm.weight"]["data_offsets"]
    place = slice(8 + length + start, 8 + length + end)
    raw[place] = (np.frombuffer(raw[place], "<f4") * np.float32(1.01)).tobytes()
    path.write_bytes(raw)
    done = anira("train", "verify", "--model", folder, "--step", path, "--json", check=False)
    found = {gradient["name"]: gradient["error"] for gradient in json.loads(done.stdout)["gradients"]}
    assert done.returncode == 1 and [name for name in found if found[name] > 1e-4] == ["norm.weight"]


def test_verify_refuses_a_gradient_of_no_tensor(binary, tmp_path):
    raw = (GOLDEN / "early-1x/train_step.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = raw[8:8 + length].replace(b'"grad.norm.weight"', b'"grad.nrom.weight"')
    (tmp_path / "step.safetensors").write_bytes(raw[:8] + header + raw[8 + length:])
    done = anira("train", "verify", "--model", GOLDEN / "early-1x", "--step", tmp_path / "step.safetensors", check=False)
    assert done.returncode == 1 and "grad.nrom.weight" in done.stderr


def test_verify_names_what_a_step_file_lacks(binary, tmp_path):
    write_safetensors(tmp_path / "step.safetensors", {"valid": np.ones((2, 3), np.float32)})
    done = anira("train", "verify", "--model", GOLDEN / "early-1x", "--step", tmp_path / "step.safetensors",
                 check=False)
    assert done.returncode == 1 and "tokens" in done.stderr


def test_verify_refuses_a_step_without_tokens(binary, tmp_path):
    """No rows: a crash."""
    write_safetensors(tmp_path / "step.safetensors", {"tokens": np.ones((2, 0), np.int32)})
    done = anira("train", "verify", "--model", GOLDEN / "early-1x", "--step", tmp_path / "step.safetensors",
                 check=False)
    assert done.returncode == 1 and "'tokens' must be [rows, length" in done.stderr


# --- eval ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def trained(binary, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    train(out, "--steps", 100, "--depth-bias", "0")
    return out


def test_eval_gives_the_same_through_the_services_and_in_process(trained, tmp_path):
    words = ["eval", "--task", "mano", "--rows", 20, "--json", "--thresholds", "0.3,0.7"]
    here = json.loads(anira(*words, "--model", trained).stdout)
    with Suite(trained, tmp_path, cores=2) as suite:
        there = json.loads(
            anira(*words, "--endpoint", suite.endpoint, "--modulus", 3, "--max-size", 2).stdout)
    for evaluation in (here, there):
        del evaluation["model"]
    assert here.pop("kv") == "f32"
    assert here == there


def test_eval_agrees_with_an_independent_evaluation(trained):
    found = json.loads(anira("eval", "--task", "mano", "--rows", 20, "--json", "--model", trained).stdout)
    reference = Reference(trained)
    for line in found["adaptive"]["by_difficulty"]:
        size = line["difficulty"]
        rows = [json.loads(row) for row in anira(
            "data", "--task", "mano", "--modulus", 3, "--max-size", 2, "--split", "test", "--seed", 1, "--count", 20,
            "--size", size).stdout.splitlines()]
        right, depth = 0, 0
        for row in rows:
            at = row["answer_mask"].index(1) - 1
            result = reference.infer(row["tokens"])
            right += int(np.argmax(result.logits[at]) == row["tokens"][at + 1])
            depth += result.depths[at]
        assert line["accuracy"] == pytest.approx(right / len(rows))
        assert line["answer_depth"] == pytest.approx(depth / len(rows))


def test_eval_has_a_point_for_every_depth_and_threshold(trained):
    found = json.loads(anira("eval", "--task", "mano", "--rows", 10, "--json", "--model", trained).stdout)
    assert [point["setting"] for point in found["fixed"]] == [1, 2, 3]
    assert [point["total"]["mean_depth"] for point in found["fixed"]] == [1, 2, 3]
    depths = [point["total"]["mean_depth"] for point in found["sweep"]]
    assert depths == sorted(depths)
    text = anira("eval", "--task", "mano", "--rows", 10, "--model", trained).stdout
    assert "accuracy" in text and "fixed depth" in text


def test_eval_says_what_was_measured(trained):
    found = json.loads(anira("eval", "--task", "mano", "--rows", 300, "--sizes", 1, "--json", "--model", trained,
                             "--policy", "cdf", "--threshold", "0.25", "--min-depth", 2, "--kv", "f16", "--no-curve",
                             "--max-size", 1).stdout)
    assert (found["rows"], found["policy"], found["kv"]) == (300, "cdf, threshold 0.25, min 2", "f16")
    assert 0 < found["distinct_rows"] < 27          # an operator and two of three numbers
    assert found["options"] == {"modulus": 3, "max-size": 1, "supervises-end": 0}
    assert found["trained_options"] == {"modulus": 3, "max-size": 2, "supervises-end": 0}
    assert len(found["fingerprint"].split("-")) == 2
    assert all(point["total"]["mean_depth"] >= 2 for point in [found["adaptive"], *found["sweep"]])
    text = anira("eval", "--task", "mano", "--rows", 300, "--sizes", 1, "--model", trained, "--max-size", 1).stdout
    assert "distinct" in text and "trained on" in text and found["fingerprint"] in text


def test_eval_refuses_another_task_and_what_belongs_to_a_suite(trained):
    done = anira("eval", "--task", "depo", "--model", trained, check=False)
    assert done.returncode == 64 and "trained on mano" in done.stderr
    done = anira("eval", "--task", "mano", "--endpoint", "tcp://127.0.0.1:1", "--weights", "bf16", check=False)
    assert done.returncode == 64 and "--weights" in done.stderr


def test_eval_refuses_a_model_of_another_vocabulary(trained, tmp_path):
    model = shutil.copytree(trained, tmp_path / "model")
    (model / "training.json").unlink()
    done = anira("eval", "--task", "depo", "--model", model, check=False)
    assert done.returncode == 1 and "vocabulary" in done.stderr
