"""A training that is killed at any moment goes on, and ends with the weights of one that was never hurt."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import Place, Row, cases, wait_for_iteration
from helpers import wait_for

pytestmark = pytest.mark.faults

Make = Callable[..., Place]
Rows = Callable[[str, str], Row]
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average, mixup, 2 workers": {"ema_decay": 0.9, "mixup": 0.2, "num_workers": 2},
    "2 processes": {"processes": 2},
    "a model of each epoch": {"epoch_models": True},
}
STEPS = 4 * 6  # of a whole training
PROMISE = "the same command goes on; weights and curve as if nothing had happened"


@pytest.mark.parametrize(
    ("configuration", "kills"),
    cases([("plain", 7), ("2 processes", 6), ("average, mixup, 2 workers", 7), ("a model of each epoch", 5)], 2),
)
def test_killed_at_any_step(configuration: str, kills: int, new_place: Make, unhurt_place: Make, row: Rows) -> None:
    found = row(f"SIGKILL in training ({configuration})", PROMISE)
    options = CONFIGURATIONS[configuration]
    unhurt = unhurt_place(**options)

    def hurt(number: int) -> None:
        draw, place = random.Random(f"{configuration}/{number}"), new_place(f"hurt{number}", **options)
        with place.started() as process:
            wait_for_iteration(process, draw.randint(1, STEPS))
            time.sleep(draw.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        done = place.run()
        assert done.returncode == 0, done.stderr
        assert place.models() == unhurt.models()
        assert place.curve() == unhurt.curve()
        assert place.curve("schedule/learning_rate") == unhurt.curve("schedule/learning_rate")
        assert [run.info.status for run in place.runs()] == ["FINISHED"]
        found.add("equal weights, each point once")

    with ThreadPoolExecutor(2 // options.get("processes", 1)) as pool:
        list(pool.map(hurt, range(int(os.environ.get("KILLS", kills)))))


def test_killed_while_a_checkpoint_is_written(new_place: Make, unhurt_place: Make, row: Rows) -> None:
    found = row("SIGKILL while a checkpoint is written", PROMISE)
    unhurt = unhurt_place()
    for number in range(int(os.environ.get("KILLS", 3))):
        place = new_place(f"hurt{number}")
        with place.started() as process:
            wait_for_iteration(process, 3)
            wait_for(lambda place=place: place.checkpoints() and (place.folder / ".partial").exists())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert (place.folder / ".partial").exists()
        done = place.run()
        assert done.returncode == 0, done.stderr
        assert place.weights() == unhurt.weights()
        assert not (place.folder / ".partial").exists()
        found.add("equal weights")


def test_another_seed_gives_other_weights(unhurt_place: Make, row: Rows) -> None:
    found = row("none, but another seed (control)", "other weights")
    assert unhurt_place().weights() != unhurt_place(random_seed=2).weights()
    found.add("other weights")


SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130}
ASKED = [("plain", signal.SIGTERM), ("2 processes", signal.SIGINT)]
ASKED += [pair for pair in itertools.product(CONFIGURATIONS, SIGNALS) if pair not in ASKED]


@pytest.mark.parametrize(("configuration", "number"), cases(ASKED, 2))
def test_asked_to_end(
    configuration: str, number: signal.Signals, new_place: Make, unhurt_place: Make, row: Rows
) -> None:
    code = SIGNALS[number]
    found = row(
        f"{number.name} in training", f"saves within 20 s, exit {code}, run KILLED; goes on to the same weights"
    )
    options = CONFIGURATIONS[configuration]
    unhurt, place = unhurt_place(**options), new_place("hurt", **options, checkpoint_minutes=10)
    with place.started() as process:
        wait_for_iteration(process, 8)
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == code
        found.add(f"exit {code}, KILLED, equal weights")
    assert time.monotonic() - started < 20
    assert [run.info.status for run in place.runs()] == ["KILLED"]
    done = place.run(checkpoint_minutes=10)
    assert "going on from the checkpoint" in done.stderr
    assert place.models() == unhurt.models()
    assert place.curve() == unhurt.curve()


def test_a_finished_training_says_so(new_place: Make, row: Rows) -> None:
    found = row("a finished training is started again", "says so, exit 0, no new run")
    place = new_place("twice")
    assert place.run().returncode == 0
    before = place.weights()
    again = place.run()
    assert again.returncode == 0
    assert "this training is complete" in again.stderr
    assert place.weights() == before
    assert len(place.runs()) == 1
    found.add("said so, exit 0")


def test_two_trainings_in_one_folder(new_place: Make, row: Rows) -> None:
    found = row("two trainings with one folder", "the second: one line, exit 2")
    place = new_place("shared", epochs=400)
    with place.started() as process:
        wait_for_iteration(process, 1)
        second = place.run()
        assert second.returncode == 2
        assert "saved: is being written by another process" in second.stderr.splitlines()[-1]
        found.add("exit 2, one line")
        assert process.poll() is None


def interrupted(place: Place) -> Place:
    """A training that was killed when it had at least two checkpoints."""
    with place.started() as process:
        wait_for_iteration(process, 2)
        wait_for(lambda: len(place.checkpoints()) >= 2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return place


@pytest.mark.thorough
def test_other_settings(new_place: Make, row: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    found = row("resumed with other settings", "exit 2 with the differences; --resume force goes on")
    place = interrupted(new_place("changed"))
    refused = place.run(learning_rate=0.1, epochs=5)
    assert refused.returncode == 2
    assert "epochs was 4 and is 5, learning_rate was 0.003 and is 0.1" in refused.stderr.splitlines()[-1]
    found.add("refused with the differences")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    refused = place.run()
    assert "torch threads was 1 and is 2" in refused.stderr.splitlines()[-1]
    found.add("refused with the differences")
    refused = place.run(architecture="resnet34", resume="force")
    assert refused.returncode == 2
    assert "architecture was 'resnet18' and is 'resnet34'. Give these again, or" in refused.stderr.splitlines()[-1]
    found.add("refused with the differences")
    forced = place.run(epochs=5, resume="force")
    assert forced.returncode == 0, forced.stderr
    assert [step for step, _ in place.curve()] == [1, 2, 3, 4, 5]
    found.add("went on")
    other = place.run(epochs=2, resume="force")
    assert other.returncode == 0, other.stderr
    assert "complete" not in other.stderr
    assert len(place.runs()) == 2
    found.add("a finished one made room")


def cut_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = [(cut_half, "network.safetensors"), (flip_a_bit, "facts.json")]
KINDS = itertools.product((cut_a_byte, cut_half, empty, flip_a_bit), ("network.safetensors", "facts.json"))
DAMAGES += [pair for pair in KINDS if pair not in DAMAGES]


@pytest.mark.thorough
@pytest.mark.parametrize(("damage", "file"), cases(DAMAGES, 2))
def test_a_damaged_checkpoint(
    damage: Callable[[Path], None], file: str, new_place: Make, unhurt_place: Make, row: Rows
) -> None:
    found = row("newest checkpoint cut or flipped", "a warning, and on from the one before")
    unhurt, place = unhurt_place(), interrupted(new_place("hurt"))
    damage(place.checkpoints()[-1] / file)
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert f"is damaged ({file} is not what was written), so the one before it is taken" in done.stderr
    assert place.weights() == unhurt.weights()
    found.add("warned, equal weights")


def test_no_checkpoint_is_whole(new_place: Make, row: Rows) -> None:
    found = row("all checkpoints damaged", "exit 2, one line")
    place = interrupted(new_place("hurt"))
    for checkpoint in place.checkpoints():
        flip_a_bit(checkpoint / "network.safetensors")
    done = place.run()
    assert done.returncode == 2
    assert "none of its 2 checkpoints is whole. To begin anew, give --resume never" in done.stderr.splitlines()[-1]
    found.add("exit 2, one line")
    assert place.run(resume="never").returncode == 0


def test_a_checkpoint_with_a_pickle_is_not_run(new_place: Make, tmp_path: Path, row: Rows) -> None:
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    found = row("a pickle instead of tensors", "not run; taken for damaged")
    place = interrupted(new_place("hurt"))
    folder = place.checkpoints()[-1]
    content = pickle.dumps(Evil())
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    (folder / "network.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    sums = [f"{digest}  network.safetensors" if "network" in line else line for line in sums]
    (folder / "SHA256SUMS").write_text("\n".join(sums))
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert "is damaged" in done.stderr
    assert not (tmp_path / "ran").exists()
    found.add("not run")


def test_a_loss_that_is_not_a_number(new_place: Make, row: Rows) -> None:
    found = row("the loss becomes NaN", "stop: exit 5, run FAILED, nothing registered; rewind: twice, then the same")
    for mode, times in (("stop", 0), ("rewind", 2)):
        place = new_place(mode, learning_rate=1e30, on_divergence=mode, registered_model_name="m")
        done = place.run()
        assert done.returncode == 5, done.stderr
        assert done.stderr.count("going back to the last checkpoint") == times
        assert "the training loss became" in done.stderr.splitlines()[-1]
        assert [run.info.status for run in place.runs()] == ["FAILED"]
        assert not place.client().search_registered_models()
        found.add(f"exit 5, FAILED, gone back {times} times")


def test_a_lower_learning_rate_helps(new_place: Make, row: Rows) -> None:
    found = row("the loss becomes NaN at first only", "rewind: goes on with a tenth of the learning rate")
    place = new_place("rewound", learning_rate=100, warmup_epochs=0, on_divergence="rewind", checkpoint_minutes=10)
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert "going back to the last checkpoint" in done.stderr
    assert [step for step, _ in place.curve()] == [1, 2, 3, 4]
    found.add("went on to the end")
