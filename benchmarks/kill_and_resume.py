"""Kill a training run with SIGKILL at many random moments, resume it each time, and compare its end with an unkilled one.

    python benchmarks/kill_and_resume.py [--kills 50] [--seed 0] [compile=true]

Every tensor of the last checkpoint (weights, running mean, optimizer, carry) must be equal to the bit. Prints where in
the life of a process the kills fell, and exits 1 on the first difference. The run is small and writes a checkpoint every
third step, so that many kills fall into the writing of one.
"""

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hrm import checkpoint as ckpt

SETTINGS = """
data_path=sudoku-6x6-1k arch.hidden_size=32 arch.num_heads=2 arch.H_layers=1 arch.L_layers=1
arch.puzzle_emb_ndim=32 arch.forward_dtype=float32 arch.expansion=2 arch.mlp_round_to=8 arch.halt_max_steps=4
global_batch_size=8 epochs=null ema=0.99 lr_warmup_steps=10 log_every=7 checkpoint_every=3 eval_every=150
eval_rows=32 test_at_end=false device=cpu project_name=p run_name=x
""".split()


def command(runs: Path, settings: list[str]) -> list[str]:
    head = [sys.executable, "-m", "hrm", "train", "hrm-sudoku-1k", *SETTINGS, *settings]
    return [*head, "--runs", str(runs), "--resume", "auto"]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    index = ckpt.read_json(checkpoint / "index.json")["sha256"]
    groups = sorted({name.rsplit("-", 1)[0] for name in index if name.endswith(".safetensors")})
    return {
        f"{group}/{name}": tensor for group in groups for name, tensor in ckpt.read_group(checkpoint, group).items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", help="further key=value")
    asked = parser.parse_args()
    moments = random.Random(asked.seed)
    settings = [f"steps={asked.steps}", *asked.settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        subprocess.run(command(whole, settings), env=environment, check=True, stdout=subprocess.DEVNULL)
        run = killed / "p" / "x"
        fell = collections.Counter()
        for _ in range(asked.kills):
            process = subprocess.Popen(command(killed, settings), env=environment, stdout=subprocess.DEVNULL)
            before = last(run)
            wait_for_life = moments.random() < 0.85
            while wait_for_life and process.poll() is None and last(run) == before:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.5 if wait_for_life else 3))
            if process.poll() is not None:
                fell["after the end"] += 1
                continue
            process.kill()
            process.wait()
            writing = any(run.glob("*.partial")) if run.exists() else False
            fell[
                "while a checkpoint was written" if writing else "in training" if last(run) != before else "in start-up"
            ] += 1
            if (run / "last").is_file():
                tensors(ckpt.pointed(run, "last"))  # raises if half-written
        subprocess.run(command(killed, settings), env=environment, check=True, stdout=subprocess.DEVNULL)
        one, other = (tensors(runs / "p" / "x" / f"step_{asked.steps}") for runs in (whole, killed))
        differing = [
            key
            for key in one.keys() | other.keys()
            if key not in one or key not in other or not torch.equal(one[key], other[key])
        ]
        print(f"{asked.kills} kills ({dict(fell)}), {asked.steps} steps, {len(one)} tensors, {len(differing)} differ")
        return 1 if differing else 0


def last(run: Path) -> str:
    return (run / "last").read_text() if (run / "last").is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
