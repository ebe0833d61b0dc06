"""MACE's training program with a loop over epochs that can be interrupted and resumed without changing the result.

    python -m surveyor.models.mace_program JOB --config FILE

JOB is a file with a `Job`. Everything except the loop and the atomic energies is that of `mace_run_train`.
The loop of `mace_run_train` saves a checkpoint only when the validation loss has improved, with averaged weights, and
without the state of the average, the order of batches and the search for the best epoch, so a resumed training is a
different one. This loop saves the complete state in the file STATE, after the first epoch and then as often as it can
within a small part of the time. The order of batches follows from the seed and the number of the epoch.
"""

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from surveyor.models.mace_cuequivariance import trying_kernels
from surveyor.models.mace_energies import HEAD, check_energies, expected_energies, setting_energies
from surveyor.models.trainer_process import DIVERGED, EXPLODED, end_if_absurd, exit_when_out_of_memory

SAVING_SHARE = 0.02  # of the time of a training, for its complete state


@dataclass(frozen=True)
class Job:
    """Instructions to the program in addition to MACE's options.

    Attributes:
        state: file of the state, to resume from.
        outcomes: files in which MACE may leave a network; the first existing one is used.
        result: file for the network, with only the readout for the data.
        limit_s: time limit; the training ends with the epoch that exceeds it. None for no limit.
        highest: largest plausible error of the energies before the first epoch, in eV/atom.
        atomic_energies: atomic energies of the data, in eV by atomic number.
        refusal: file that says why kernels for GPUs are not used, if they fail.
        fits: atomic numbers of the elements whose energies are fitted together with the foundation model.
        fitted: file for all atomic energies after the fit; None without a fit.
    """

    state: str
    outcomes: Sequence[str]
    result: str
    limit_s: float | None
    highest: float
    atomic_energies: Mapping[str, float]
    refusal: str
    fits: Sequence[int] = ()
    fitted: str | None = None

    def save(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Job":
        """Load the job that `save` wrote."""
        return cls(**json.loads(path.read_text()))

    @property
    def given(self) -> dict[int, float]:
        """The atomic energies that were given, in eV by atomic number."""
        return {int(number): energy for number, energy in self.atomic_energies.items()}

    @property
    def expected(self) -> Mapping[int, float]:
        """The atomic energies that the network has for the data, in eV by atomic number."""
        return expected_energies(self.given, self.fitted_file)

    @property
    def fitted_file(self) -> Path | None:
        """The file of fitted atomic energies, if there is one."""
        return None if self.fitted is None else Path(self.fitted)


@dataclass
class TrainerState:
    """The progress of a training.

    Attributes:
        epoch: number of the next epoch.
        valid_loss: newest validation loss.
        initial_loss: validation loss before the first epoch.
        lowest_loss: lowest validation loss of this stage.
        n_without_improvement: number of epochs since the lowest loss.
        in_stage_two: whether the second stage, with other weights of the loss, has begun.
        keep_last: whether the next checkpoint keeps the previous one, the best of the first stage.
        checkpoint: file of the newest checkpoint.
        elapsed_s: total time of all epochs, over restarts.
        is_over: whether no epoch follows, regardless of the number left.
    """

    epoch: int = 0
    valid_loss: float = math.inf
    initial_loss: float = math.inf
    lowest_loss: float = math.inf
    n_without_improvement: int = 0
    in_stage_two: bool = False
    keep_last: bool = False
    checkpoint: str | None = None
    elapsed_s: float = 0.0
    is_over: bool = False


class Losses:
    """A logger that passes on MACE's metrics of each batch, and keeps the losses.

    Args:
        logger: of MACE.
    """

    def __init__(self, logger: Any) -> None:  # Any: of MACE
        self.logger = logger
        self.of_batches: list[float] = []

    def log(self, metrics: Mapping[str, Any]) -> None:  # Any: of MACE
        """Take the metrics of a batch."""
        self.of_batches.append(float(metrics["loss"]))
        self.logger.log(metrics)

    @property
    def mean(self) -> float | None:
        """The mean over the batches; None where there was none."""
        return sum(self.of_batches) / len(self.of_batches) if self.of_batches else None


class Loop:
    """The epochs of one training.

    Args:
        given: the arguments with which MACE calls its own loop.
        job: what else there is to know.
    """

    def __init__(self, given: dict[str, Any], job: Job) -> None:  # Any: objects of torch and MACE
        self.given = SimpleNamespace(**given)
        self.job = job
        self.state = Path(job.state)
        self.limit_s = math.inf if job.limit_s is None else job.limit_s
        self.progress = TrainerState()
        self.energy_rmse: float | None = None  # of the newest validation, on the data
        self.training_loss: float | None = None  # of the newest epoch
        self.seed = self.given.train_loader.generator.initial_seed()
        self.next_save = -math.inf  # by the monotonic clock
        self.superseded: list[str] = []  # checkpoints that the saved state may name

    def run(self) -> None:
        """Train until the last epoch, the time limit, or the end of patience."""
        if self.state.exists():
            self._load()
        self._remove_newer_checkpoints()
        if self.progress.epoch:
            check_energies(self.given.model, self.job.expected, "in the state of the training")
        else:
            check_energies(self.given.model, self.job.expected, "before the first epoch")
            self.progress.initial_loss = self.progress.valid_loss = self._validate(None)
            end_if_absurd(self.energy_rmse, self.job.highest)
        progress = self.progress
        while progress.epoch < self.given.max_num_epochs and not progress.is_over:
            if progress.elapsed_s >= self.limit_s:
                logging.info("Stopping: the time limit of %.0f s is reached", self.limit_s)
                break
            begin = time.monotonic()
            progress.is_over = not self._next_epoch()
            progress.elapsed_s += time.monotonic() - begin
            if time.monotonic() >= self.next_save:
                self._save()
        self._save()

    def _next_epoch(self) -> bool:
        """Train one epoch, and return whether there may be another one."""
        given, progress = self.given, self.progress
        epoch = progress.epoch
        loss_function = self._prepare(epoch)
        given.train_loader.generator.manual_seed(self.seed + epoch + 1)
        self._train(loss_function, epoch)
        progress.epoch += 1
        if epoch % given.eval_interval:
            return True
        with self._evaluating():
            progress.valid_loss = self._validate(epoch, loss_function)
            if not progress.valid_loss < EXPLODED * progress.initial_loss:
                logging.error("Stopping: the validation loss of epoch %d is %g", epoch, progress.valid_loss)
                if progress.checkpoint is None:
                    sys.exit(DIVERGED)
                return False
            if progress.valid_loss < progress.lowest_loss:
                self._keep(epoch)
                return True
        progress.n_without_improvement += 1
        return progress.n_without_improvement < given.patience or self._begins_stage_two(epoch)

    def _prepare(self, epoch: int) -> Any:  # Any: a module of torch
        """Take the steps of learning rate and weight average that precede an epoch, and return its loss function."""
        given, progress = self.given, self.progress
        if given.swa is None or epoch < given.swa.start:
            if epoch > 0:
                given.lr_scheduler.step(metrics=progress.valid_loss)
            return given.loss_fn
        if not progress.in_stage_two:
            logging.info("Changing loss based on Stage Two Weights")
            progress.in_stage_two, progress.keep_last, progress.lowest_loss = True, True, math.inf
            progress.n_without_improvement = 0
        given.swa.model.update_parameters(given.model)
        if epoch > 0:
            given.swa.scheduler.step()
        return given.swa.loss_fn

    def _begins_stage_two(self, epoch: int) -> bool:
        """At the end of patience, begin the second stage, if there is one ahead; return whether it begins."""
        swa = self.given.swa
        logging.info("Stopping: no improvement in %d epochs", self.progress.n_without_improvement)
        if swa is None or epoch >= swa.start:
            return False
        self.progress.epoch = swa.start
        return True

    def _train(self, loss_function: Any, epoch: int) -> None:  # Any: a module of torch
        from mace.tools.train import train_one_epoch

        given, losses = self.given, Losses(self.given.logger)
        if _is_schedule_free(given.optimizer):
            given.optimizer.train()
        train_one_epoch(
            model=given.model,
            loss_fn=loss_function,
            data_loader=given.train_loader,
            optimizer=given.optimizer,
            epoch=epoch,
            output_args=given.output_args,
            max_grad_norm=given.max_grad_norm,
            ema=given.ema,
            logger=losses,
            device=given.device,
            distributed=False,
        )
        self.training_loss = losses.mean

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Use the averaged weights within the block, if the optimizer or the options average them."""
        if _is_schedule_free(self.given.optimizer):
            self.given.optimizer.eval()
        with nullcontext() if self.given.ema is None else self.given.ema.average_parameters():
            yield

    def _validate(self, epoch: int | None, loss_function: Any = None) -> float:  # Any: a module of torch
        """Report the errors on each validation set, and return the loss on the last one."""
        from mace.tools.train import evaluate, valid_err_log

        given, loss = self.given, math.inf
        for name, loader in given.valid_loaders.items():
            loss, metrics = evaluate(
                model=given.model,
                loss_fn=loss_function or given.loss_fn,
                data_loader=loader,
                output_args=given.output_args,
                device=given.device,
            )
            rate = max(group["lr"] for group in given.optimizer.param_groups)
            reported = metrics.copy()  # with its default: MACE asks for errors that a set without stress has not
            reported["learning_rate"] = float(rate)
            reported["training_loss"] = self.training_loss
            valid_err_log(loss, reported, given.logger, given.log_errors, epoch, name)
            if name == HEAD:
                self.energy_rmse = metrics.get("rmse_e_per_atom")
        return float(loss)

    def _keep(self, epoch: int) -> None:
        """Save the checkpoint from which MACE takes the network when the training has ended."""
        from mace.tools import CheckpointState

        given, progress = self.given, self.progress
        progress.lowest_loss, progress.n_without_improvement = progress.valid_loss, 0
        state = CheckpointState(given.model, given.optimizer, given.lr_scheduler)
        if progress.checkpoint is not None and not (progress.keep_last or given.checkpoint_handler.io.keep):
            self.superseded.append(progress.checkpoint)
        given.checkpoint_handler.save(state=state, epochs=epoch, keep_last=True)
        progress.keep_last, progress.checkpoint = False, given.checkpoint_handler.io.old_path

    def _parts(self) -> dict[str, Any]:  # Any: whatever has a state, in the way of torch
        given = self.given
        parts = {"model": given.model, "optimizer": given.optimizer, "lr_scheduler": given.lr_scheduler}
        if given.ema is not None:
            parts["ema"] = given.ema
        if given.swa is not None:
            parts |= {"swa_model": given.swa.model, "swa_scheduler": given.swa.scheduler}
        return parts

    def _save(self) -> None:
        import torch

        begin = time.monotonic()
        temporary = self.state.with_suffix(".new")
        states = {name: part.state_dict() for name, part in self._parts().items()}
        torch.save({"progress": asdict(self.progress), **states}, temporary)
        temporary.replace(self.state)
        while self.superseded:
            Path(self.superseded.pop()).unlink(missing_ok=True)
        self.next_save = time.monotonic() + (time.monotonic() - begin) / SAVING_SHARE

    def _remove_newer_checkpoints(self) -> None:
        """Remove checkpoints of epochs that are yet to come: of a part of the training that is not in the state."""
        for file in Path(self.given.checkpoint_handler.io.directory).glob("*_epoch-*.pt"):
            if int(re.findall(r"_epoch-(\d+)", file.name)[-1]) >= self.progress.epoch:
                file.unlink()

    def _load(self) -> None:
        import torch

        saved = torch.load(self.state, map_location=self.given.device, weights_only=False)
        self.progress = TrainerState(**saved["progress"])
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        logging.info("Continuing with epoch %d", self.progress.epoch)


def _is_schedule_free(optimizer: Any) -> bool:  # Any: an optimizer of torch
    return "ScheduleFree" in type(optimizer).__name__


def preload() -> None:
    """Import the modules that a training needs."""
    import mace.cli.run_train  # noqa: F401


def main() -> None:
    """Run MACE's training program with this loop; several processes at once train with MACE's own."""
    job = Job.load(Path(sys.argv.pop(1)))
    from mace import tools
    from mace.cli import run_train

    loop_of_mace = tools.train

    def train(**given: Any) -> None:  # Any: objects of torch and MACE
        if given["distributed"] or given["log_wandb"] or given["plotter"] is not None:
            loop_of_mace(**given)
        else:
            Loop(given, job).run()

    tools.train = train
    configure = setting_energies(run_train.configure_model, job.given, job.fits, job.fitted_file)
    run_train.configure_model = trying_kernels(configure, Path(job.refusal))
    run_train.jit = SimpleNamespace(compile=_do_not_compile)
    with exit_when_out_of_memory():
        run_train.main()
    if os.environ.get("RANK", "0") == "0":
        _keep_result(job)


def _do_not_compile(_network: Any) -> Any:  # Any: a module of torch
    """Replace the compiler, whose result is not used; MACE continues when it fails."""
    raise NotImplementedError("surveyor does not use what TorchScript makes of the network")


def _keep_result(job: Job) -> None:
    """Save the trained network, without the readout for the replay data."""
    import torch
    from mace.tools.scripts_utils import remove_pt_head

    outcome = next((path for path in map(Path, job.outcomes) if path.is_file()), None)
    if outcome is None:
        return
    network = torch.load(outcome, map_location="cpu", weights_only=False)
    if len(network.heads) > 1:
        network = remove_pt_head(network, HEAD)
    check_energies(network, job.expected, "after the training")
    torch.save(network, job.result)


if __name__ == "__main__":
    main()
