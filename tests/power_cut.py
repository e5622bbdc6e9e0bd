"""Cut the power while a run trains: as root, python tests/power_cut.py [CUTS].

The run writes to a file system in an image file. The part of the image that has reached its disk is
the part that a power cut would leave. The image is copied while the process is stopped, and the
copy is mounted: its run must have every save that was finished before, and must go on to the
same files as a run that nothing interrupted.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from command import run, running

from microgpt.training import Training

STEPS, EVERY = 3000, 100
FLAGS = ["--n-embd=4", "--n-head=2", "--block-size=4", "--val=0.3", "--num-samples=0"]
TRAIN = ["train", "--data=text", *FLAGS, f"--num-steps={STEPS}", f"--save-every={EVERY}", "--out"]


@contextmanager
def mounted(image, folder):
    """Mount an image file so that ext4 flushes nothing at a rename that was not flushed before."""
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop,noauto_da_alloc", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def content(directory):
    """Return what a run's directory holds: the files' bytes, and the log without its times."""
    files = {path.name: path.read_bytes() for path in directory.glob("*.safetensors")}
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    log = [(line["step"], line["loss"], line["val_loss"]) for line in lines]
    return {**files, "log.jsonl": log}


def stop(process):
    """Stop a process and wait until it no longer writes; return whether it had ended."""
    process.send_signal(signal.SIGSTOP)
    status = Path(f"/proc/{process.pid}/stat")
    while process.poll() is None and status.read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.001)
    return process.poll() is not None


def train_on(directory, work):
    """Resume a copy of a run's directory to its end; return what it then holds."""
    copy = work / "resumed"
    shutil.copytree(directory, copy)
    status, _, err = run("train", "--resume", copy, "--num-samples=0", cwd=work)
    assert status == 0, err
    ended = content(copy)
    shutil.rmtree(copy)
    return ended


def cut(work, moments, expected):
    """Train on a fresh file system, cut its power once; return the step that was left."""
    image, copy = work / "image", work / "copy"
    image.unlink(missing_ok=True)
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with mounted(image, work / "disk") as disk:
        saved = disk / "run" / "model.safetensors"
        with running(*TRAIN, disk / "run", cwd=work) as process:
            while process.poll() is None and not saved.exists():
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.3))
            # A new name shows before it is on the disk: a save counts once another follows.
            seen = [Training.load(disk / "run").step]
            while process.poll() is None and len(seen) < 2:
                step = Training.load(disk / "run").step
                seen += [step] * (step != seen[-1])
            done = stop(process)
            shutil.copyfile(image, copy)
    with mounted(copy, work / "cut") as disk:
        left = Training.load(disk / "run").step
        assert left >= (STEPS if done else seen[0]), (left, seen)
        assert left % EVERY == 0
        ended = train_on(disk / "run", work)
        differ = [name for name in {**expected, **ended} if ended.get(name) != expected.get(name)]
        assert not differ, (left, differ)
    return left


def main():
    cuts = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    moments = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.chdir(work)
        (work / "text").write_text("\n".join(f"name{n * n}" for n in range(40)))
        assert run(*TRAIN, "whole", cwd=work)[0] == 0
        expected = content(work / "whole")
        steps = [cut(work, moments, expected) for _ in range(cuts)]
        early = sum(step < STEPS for step in steps)
    print(f"{cuts} power cuts, {early} before the last step: no save was lost, all ended the same")
    return 0 if early else 1


if __name__ == "__main__":
    sys.exit(main())
