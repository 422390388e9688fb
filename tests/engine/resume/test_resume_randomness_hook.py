"""Runs that are broken off and resumed end with the weights of unbroken ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdet_eql.engine.launch import build_runner, set_resume
from mmdet_eql.engine.resume.resume_randomness_hook import _WorkerStreams


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_ends_with_the_same_weights(tiny_config, tmp_path, num_workers):
    cfg = tiny_config("eql", max_iters=4)
    cfg.launcher = "none"
    # A validation in the middle, which the resumed run does not repeat.
    cfg.train_cfg.val_interval = 2
    cfg.val_dataloader.dataset.indices = 4
    cfg.train_dataloader.update(num_workers=num_workers, persistent_workers=num_workers > 0)

    def train(cfg):
        # Runs may start in any state.
        torch.manual_seed(torch.seed())
        build_runner(cfg).train()
        return torch.load(tmp_path / "work_dir" / "iter_4.pth", weights_only=False)["state_dict"]

    unbroken = train(cfg.copy())
    (tmp_path / "work_dir" / "iter_4.pth").unlink()
    (tmp_path / "work_dir" / "last_checkpoint").write_text(
        str(tmp_path / "work_dir" / "iter_2.pth")
    )
    resumed = cfg.copy()
    set_resume(resumed, "auto")
    resumed = train(resumed)
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 3), st.integers(0, 100))
def test_every_batch_has_an_iteration_of_its_own(num_workers, epoch_length, epochs, first):
    streams = _WorkerStreams((0, 0), first, epoch_length, num_workers)
    dealt = [0] * num_workers
    found = []
    lengths = [epoch_length - first % epoch_length] + [epoch_length] * (epochs - 1)
    for length in lengths:
        for batch in range(length):
            worker = batch % num_workers
            found.append(streams.iteration(worker, dealt[worker]))
            dealt[worker] += 1
    assert found == list(range(first, first + sum(lengths)))
