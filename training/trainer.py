"""Training: a pure function of a recipe. Every random number of a step comes from the recipe's seed and the step's
number,
so a resumed run repeats what the undisturbed one would have done, bit for bit on a CPU."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..losses.base import Mismatch
from ..particles.errors import BadInput, BadInputWarning
from ..particles.files import check_folder, make_folder, write_json
from ..zoo.cost import describe_cost, multiply_accumulates
from ..zoo.encoder import PoseEncoder, create_encoder
from ..zoo.parts import BadArguments, blaming, parts_of
from ..zoo.pretrained import save_pretrained
from ..zoo.provenance import provenance
from .batches import step_seed
from .beginning import begin_from, check_names, load_start
from .checkpoint import has_other_steps, load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from .log import open_tensorboard, write_log
from .make_objective import make_objective
from .objective import Objective, Supervised
from .optimisation import average, learning_rate, make_optimizer
from .processes import Processes
from .progress import Progress, named
from .recipe import Recipe
from .signals import postponed_signals

_CHECKPOINT = "checkpoint.safetensors"
_RESULT = "result.json"
_OBJECTIVE = "objective."
_RUNNING = "running_mean", "running_var"


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves.

    Attributes:
        encoder: the trained encoder (best validation median; averaged weights with ``ema``), in evaluation mode.
        metrics: on the test set, with steps, CPU seconds, seed and provenance.
        history: one mapping per validation.
    """

    encoder: PoseEncoder
    metrics: dict[str, Any]
    history: list[dict[str, float]]


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal after a checkpoint was written; ``signum`` says which.

    Args:
        signum: the signal.
        step: steps that are done.
        path: the folder of the run.
        best_step: of the encoder in ``model/``; None before the first validation.
    """

    def __init__(self, signum: int, step: int, path: Path | None, best_step: int | None = None) -> None:
        self.signum = signum
        text = f"stopped at step {step}"
        if path is not None:
            text += f"; checkpoint in {path}, the same command goes on from there"
            kept = best_step is not None and (path / "model").exists()
            text += f"; the encoder of step {best_step}, the best so far, is in {path / 'model'}" if kept else ""
        super().__init__(text)


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    progress: bool = False,
    restart: bool = False,
    objective: Callable[[Recipe, PoseEncoder], Objective] = make_objective,
    report: Callable[[str], object] | None = None,
) -> TrainingResult:
    """Train an encoder.

    Args:
        recipe: what, on what, how.
        out: folder for ``recipe.json``, ``checkpoint.safetensors``, ``log.csv``, TensorBoard events, ``model/``, the
            best encoder so far (see :func:`save_pretrained`), and, at the end, ``result.json``. A checkpoint of the
            same recipe is resumed. The number of steps may be another one, of which more are to do: from the step that
            was reached, the learning rate, and what else depends on the share that is done, are those of the new one.
        device: default a GPU where there is one.
        progress: show a bar on stderr, too.
        restart: begin anew although ``out`` has a checkpoint.
        objective: makes what to train for, of the recipe and the encoder; by default what the recipe's loss says.
        report: told in lines what is trained, how long it takes, and of every validation.

    Raises:
        BadInput: a recipe, data file or checkpoint that cannot be used.
        PartError: a backbone, head or loss itself fails.
        Interrupted: stopped by Ctrl-C, SIGTERM or SIGUSR1, after writing a checkpoint; a second Ctrl-C stops at once.
    """
    trainer = _Trainer(recipe, out, device, progress, restart, objective, report)
    parts = parts_of(trainer.encoder)
    if isinstance(trainer.objective, Supervised):
        parts.append(("loss", recipe.loss, trainer.objective.loss))
    try:
        with blaming(*parts):
            return trainer.run()
    except Mismatch as error:
        raise BadInput(recipe.source, str(error), where="fields encoder and loss") from error


class _Trainer:
    def __init__(
        self,
        recipe: Recipe,
        out: str | Path | None,
        device: str | torch.device | None,
        progress: bool,
        restart: bool,
        objective: Callable[[Recipe, PoseEncoder], Objective],
        report: Callable[[str], object] | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = Processes.device(device)
        self.processes = Processes(self.device)
        if recipe.batch_size % self.processes.count:
            expected = f"a multiple of the {self.processes.count} processes"
            raise BadInput(recipe.source, f"{recipe.batch_size}", where="field batch_size", expected=expected)
        self.out = None if out is None else Path(out)
        if self.out is not None:
            check_folder(self.out)
        check_names(recipe)
        resuming = self.out is not None and not restart and (self.out / _CHECKPOINT).exists()
        # A checkpoint has all weights, and what they began from need not be fetched again.
        start = None if resuming or recipe.init is None else load_start(recipe)
        has_bf16 = self.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if recipe.precision == "bf16" and not has_bf16:
            message = "field precision: bf16 on a processor that lacks it is slower than fp32"
            warnings.warn(BadInputWarning(f"{recipe.source}, {message}"), stacklevel=3)
        self.data = recipe.data.open(recipe.image_size, recipe.pixel_size, self.device, recipe.seed)
        torch.manual_seed(recipe.seed)
        backbone_args = dict(recipe.backbone_args)
        if resuming or start is not None:
            backbone_args.pop("pretrained", None)
        try:
            self.encoder = create_encoder(
                recipe.encoder,
                image_size=recipe.image_size,
                pixel_size=self.data.preprocessing.pixel_size,
                ctf=self.data.preprocessing.ctf,
                backbone_args=backbone_args,
                head_args=recipe.head_args,
                shift=recipe.shift,
            ).to(self.device)
            self.encoder.frame_map = recipe.frame_map()
            self.begun_from = None if start is None else begin_from(recipe, start, self.encoder)
            self.objective = objective(recipe, self.encoder).to(self.device)
            if self.objective.needs_poses and self.data.validation.pose.rotation is None:
                raise BadInput(recipe.source, "particles without poses", where="field data", expected="angles to learn")
        except BadArguments as error:
            raise BadInput(recipe.source, str(error), where=f"field {error.field}") from error
        self.learnt = [*self.encoder.parameters(), *self.objective.parameters()]
        self.backbone = self.encoder.get_submodule("backbone")
        if not recipe.backbone_lr:
            self.backbone.requires_grad_(False)
        scales = dict.fromkeys(self.backbone.parameters(), recipe.backbone_lr)
        scales |= dict.fromkeys(self.objective.parameters(), self.objective.own_lr)
        self.optimizer = make_optimizer(recipe, self.learnt, scales)
        self.averaged = self._state() if recipe.ema else None
        self.best: dict[str, Tensor] = {}
        self.best_error = math.inf
        self.stale = 0
        self.step = 0
        self.prolonged: list[str] = []
        self.counts = [self.processes.count]
        self.cpu_seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.digest = recipe.data.digest()
        self.provenance = provenance(str(self.device))
        self.commits = [self.provenance["commit"]]
        self.bar, self.report = progress, report
        if self.out is not None:
            self._open_folder(self.out, restart)
        self._agree()
        if self.processes.rank:  # the first alone writes and talks
            self.out, self.bar, self.report = None, False, None

    def run(self) -> TrainingResult:
        recipe = self.recipe
        writer = None if self.out is None else open_tensorboard(self.out, self.step)
        criterion = self.objective.criterion
        progress = Progress(recipe.encoder, recipe.steps, self.step, criterion, bar=self.bar, report=self.report)
        if self.report is not None:
            progress.say(self._opening())
        began = time.process_time()
        with closing(progress), postponed_signals() as received:
            while self.step < recipe.steps and not self._stop_early():
                loss = self._train_step()
                progress.stepped()
                if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                    began = self._count_cpu(began)
                    self._validate(loss, writer)
                    self._save()
                    began = time.process_time()  # validation is not training
                    progress.validated(self.history[-1], self._best_row() or self.history[-1])
                if self.processes.total(bool(received)):
                    self._count_cpu(began)
                    self._save()
                    best = self._best_row()
                    signum = received[0] if received else signal.SIGTERM  # which another process received
                    raise Interrupted(signum, self.step, self.out, None if best is None else int(best["step"]))
        if writer is not None:
            writer.close()
        return self._finish()

    def _opening(self) -> str:
        data = ", ".join(f"{name} {value}" for name, value in self.recipe.data.to_dict().items())
        threads = f", {self.provenance['threads']} thread(s)" if self.device.type == "cpu" else ""
        text = f"{self.recipe.encoder} on {self.device}{threads}: {describe_cost(self.encoder)}; data: {data}"
        text += "" if self.out is None else f"; folder {self.out}"
        text += f"; goes on after step {self.step:,} of {self.recipe.steps:,}" if self.step else ""
        return text + (f", with the learning rates of {self.recipe.steps:,} from there" if self.prolonged else "")

    def _train_step(self) -> float:
        recipe, rank, count = self.recipe, self.processes.rank, self.processes.count
        torch.manual_seed(step_seed(recipe.seed, count * self.step + rank))
        lr = learning_rate(recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self.encoder.train()
        self.backbone.train(recipe.backbone_lr > 0)
        batch = self.data.batch(self.step, recipe.batch_size, rank, count)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half()):
            output = self.objective(self.encoder, batch, (self.step + 1) / recipe.steps)
        loss = output.total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.encoder.train()
        if count > 1:
            self._average(loss)
        norm = nn.utils.clip_grad_norm_(self.learnt, recipe.grad_clip or math.inf)
        value = float(loss.detach())
        for what, number in (("loss", value), ("norm of the gradient", float(norm))):
            if not math.isfinite(number):  # before weights are spoilt by it
                hint = "lower lr" if recipe.grad_clip else "lower lr, or set grad_clip"
                if self.out is not None and self._best_row() is not None:
                    hint += f"; the best so far is in {self.out / 'model'}"
                raise BadInput(recipe.source, f"the {what} is {number}", where=f"step {self.step + 1}", hint=hint)
        self.optimizer.step()
        self.step += 1
        if self.averaged is not None:
            average(self.averaged, self._state(copy=False), min(recipe.ema, (1 + self.step) / (10 + self.step)))
        return value

    def _agree(self) -> None:
        """Processes begin with the same weights, or not at all."""
        mine = {"recipe": self.recipe.to_dict(), "data": self.digest, "step": self.step}
        first = self.processes.of_first(lambda: mine)
        for what, value in mine.items():
            if value != first[what]:
                found = f"process {self.processes.rank} and the first one have not the same {what}"
                hint = "all machines must see the same recipe, data and folder"
                raise BadInput(self.recipe.source, found, hint=hint)
        self.processes.share_(self._state(copy=False).values())

    def _average(self, loss: Tensor) -> None:
        """Of all processes: gradients, statistics of batches, and the loss; then all do the same with them."""
        gradients = [parameter.grad for parameter in self.learnt if parameter.grad is not None]
        statistics = [tensor for name, tensor in self._state(copy=False).items() if name.endswith(_RUNNING)]
        self.processes.average_([*gradients, *statistics, loss])

    def _validate(self, loss: float, writer: Any) -> None:
        state = current = self._state()
        if self.averaged is not None:
            state = self.averaged
            self._load(state)
        metrics = self.processes.of_first(lambda: self.objective.measure(self.encoder, self.data.validation))
        row = {
            "step": self.step,
            "loss": loss,
            "lr": learning_rate(self.recipe, self.step - 1),
            **{name: metrics[name] for name in (self.objective.criterion, *self.objective.logged) if name in metrics},
            "cpu_s": self.cpu_seconds,
            "images_per_cpu_s": self.step * self.recipe.batch_size / max(self.cpu_seconds, 1e-9),
        }
        self.history.append(row)
        if row[self.objective.criterion] < self.best_error:
            self.best_error, self.stale = row[self.objective.criterion], 0
            self.best = {name: tensor.clone() for name, tensor in state.items()}
            self._keep_unfinished(row)
        else:
            self.stale += 1
        self._load(current)
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, self.step)

    def _keep_unfinished(self, row: Mapping[str, Any]) -> None:
        """Save the encoder, which has its best weights now, for who stops here; no test has measured it."""
        if self.out is None:
            return
        (self.out / _RESULT).unlink(missing_ok=True)  # of a run that was shorter, or of another one
        criterion = self.objective.criterion
        measured = f"{named(criterion, row[criterion])} in the validation at step {row['step']}"
        metrics = {"unfinished": f"{measured} of {self.recipe.steps}", "validation": row, **self._origin()}
        self.objective.finish(self.encoder)
        save_pretrained(self.encoder, self.out / "model", metrics=metrics, recipe=self.recipe, overwrite=True)

    def _best_row(self) -> dict[str, float] | None:
        criterion = self.objective.criterion
        return next((row for row in self.history if row[criterion] == self.best_error), None)

    def _origin(self) -> dict[str, Any]:
        """What produced the weights; of what is seldom, only where it was so."""
        seldom = {
            "data_sha256": self.digest,
            "begun_from": self.begun_from,
            "prolonged": "; ".join(self.prolonged),
            "processes": "" if self.counts == [1] else ", ".join(map(str, self.counts)),
        }
        return {
            "encoder": self.recipe.encoder,
            "parameters": sum(p.numel() for p in self.encoder.parameters()),
            "seed": self.recipe.seed,
            **self.provenance,
            "commit": ", ".join(str(commit) for commit in self.commits),
            **{name: text for name, text in seldom.items() if text},
        }

    def _finish(self) -> TrainingResult:
        self._load(self.best)
        self.encoder.eval()
        self.objective.finish(self.encoder)
        metrics = {
            **self.processes.of_first(lambda: self.objective.measure(self.encoder, self.data.test, thorough=True)),
            "steps": self.step,
            "cpu_s": round(self.cpu_seconds, 1),
            "gmacs": multiply_accumulates(self.encoder) / 1e9,
            **self._origin(),
        }
        if self.out is not None:
            write_log(self.out / "log.csv", self.history)  # of a run that was resumed after its last step
            save_pretrained(self.encoder, self.out / "model", metrics=metrics, recipe=self.recipe, overwrite=True)
            write_json(self.out / _RESULT, {"recipe": self.recipe.to_dict(), "metrics": metrics}, overwrite=True)
        return TrainingResult(self.encoder, metrics, self.history)

    def _stop_early(self) -> bool:
        return bool(self.recipe.patience) and self.stale >= self.recipe.patience

    def _half(self) -> bool:
        return self.recipe.precision == "bf16" or (self.recipe.precision == "auto" and self.device.type == "cuda")

    def _count_cpu(self, began: float) -> float:
        now = time.process_time()
        self.cpu_seconds += self.processes.total(now - began)
        return now

    def _state(self, *, copy: bool = True) -> dict[str, Tensor]:
        """All weights by name, those of the objective as ``objective.<name>``."""
        own = {f"{_OBJECTIVE}{name}": tensor for name, tensor in self.objective.state_dict().items()}
        state = {name: tensor.detach() for name, tensor in [*self.encoder.state_dict().items(), *own.items()]}
        return {name: tensor.clone() for name, tensor in state.items()} if copy else state

    def _load(self, state: Mapping[str, Tensor]) -> None:
        """Put the weights of :meth:`_state` back."""
        self.encoder.load_state_dict({name: t for name, t in state.items() if not name.startswith(_OBJECTIVE)})
        own = {name.removeprefix(_OBJECTIVE): t for name, t in state.items() if name.startswith(_OBJECTIVE)}
        self.objective.load_state_dict(own)

    def _open_folder(self, out: Path, restart: bool) -> None:
        make_folder(out)
        checkpoint = out / _CHECKPOINT
        if restart:
            for stale in (checkpoint, *out.glob("events.out.tfevents.*")) if self.processes.rank == 0 else ():
                stale.unlink(missing_ok=True)
        elif checkpoint.exists():
            self._resume(checkpoint)
        if self.processes.rank == 0:
            write_json(out / "recipe.json", self.recipe.to_dict(), overwrite=True)

    def _resume(self, path: Path) -> None:
        tensors, state = load_checkpoint(path)
        other_steps = has_other_steps(path, state, self.recipe, self.digest)
        self._load(tensors["model"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        if self.averaged is not None:
            self.averaged = {name: tensor.to(self.device) for name, tensor in tensors["averaged"].items()}
        self.best = tensors.get("best", {})
        self.best_error, self.stale = state["best_error"], state["stale"]
        self.commits = list(dict.fromkeys([*state["commits"], *self.commits]))
        self.step, self.cpu_seconds, self.history = state["step"], state["cpu_s"], state["history"]
        self.begun_from, self.prolonged = state.get("begun_from"), state.get("prolonged", [])
        self.counts = list(dict.fromkeys([*state.get("processes", [1]), *self.counts]))
        if other_steps:
            self.prolonged = [*self.prolonged, f"{state['recipe']['steps']} steps until step {self.step}"]
            self.stale = 0

    def _save(self) -> None:
        if self.out is None:
            return
        groups = {
            "model": self._state(),
            "optimizer": optimizer_tensors(self.optimizer),
            "averaged": self.averaged or {},
            "best": self.best,
        }
        state = {
            "recipe": self.recipe.to_dict(),
            "step": self.step,
            "best_error": self.best_error,
            "commits": self.commits,
            "table": self.digest,
            "begun_from": self.begun_from,
            "prolonged": self.prolonged,
            "processes": self.counts,
            "stale": self.stale,
            "cpu_s": self.cpu_seconds,
            "history": self.history,
        }
        save_checkpoint(self.out / _CHECKPOINT, groups, state)
        write_log(self.out / "log.csv", self.history)
