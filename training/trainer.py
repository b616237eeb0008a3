"""Training: a pure function of a recipe. Every random number of a step comes from the recipe's seed and the step's
number,
so a resumed run repeats what the undisturbed one would have done, bit for bit on a CPU."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..losses.base import Mismatch
from ..particles.errors import BadInput
from ..particles.files import atomic_write, check_folder, make_folder, write_json
from ..zoo.cost import describe_cost, multiply_accumulates
from ..zoo.encoder import PoseEncoder, create_encoder
from ..zoo.parts import BadArguments, blaming, load_part, parts_of
from ..zoo.pretrained import save_pretrained
from ..zoo.provenance import provenance
from ..zoo.registry import UnknownName, split_name
from .checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from .migrations import migrated
from .objective import Objective, Supervised, make_objective
from .optimisation import average, learning_rate, make_optimizer
from .recipe import Recipe
from .signals import postponed_signals

_CHECKPOINT = "checkpoint.safetensors"
_OBJECTIVE = "objective."


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
    """Training was stopped by a signal after a checkpoint was written; ``signum`` says which."""

    def __init__(self, signum: int, step: int, path: Path | None) -> None:
        self.signum = signum
        where = f"; checkpoint in {path}, the same command goes on from there" if path else ""
        super().__init__(f"stopped at step {step}{where}")


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
        out: folder for ``recipe.json``, ``checkpoint.safetensors``, ``log.csv``, TensorBoard events, ``result.json``
            and, at the end, ``model/`` (see :func:`save_pretrained`). A checkpoint of the same recipe is resumed.
        device: default a GPU where there is one.
        progress: show a bar with the time left, the loss and the last validation error.
        restart: begin anew although ``out`` has a checkpoint.
        objective: makes what to train for, of the recipe and the encoder; by default what the recipe's loss says.
        report: told before the first step what the encoder costs.

    Raises:
        BadInput: a recipe, data file or checkpoint that cannot be used.
        PartError: a backbone, head or loss itself fails.
        Interrupted: stopped by Ctrl-C, SIGTERM or SIGUSR1, after writing a checkpoint; a second Ctrl-C stops at once.
    """
    trainer = _Trainer(recipe, out, device, progress, restart, objective)
    parts = parts_of(trainer.encoder)
    if isinstance(trainer.objective, Supervised):
        parts.append(("loss", recipe.loss, trainer.objective.loss))
    try:
        with blaming(*parts):
            if report is not None:
                report(f"{recipe.encoder}: {describe_cost(trainer.encoder)}")
            return trainer.run()
    except Mismatch as error:
        raise BadInput(recipe.source, str(error), where="fields encoder and loss") from error


def _check_names(recipe: Recipe) -> None:
    """Refuse parts that do not exist, before anything is read or simulated."""
    try:
        where = "field encoder"
        backbone, head, tag = split_name(recipe.encoder)
        if tag is not None:
            raise UnknownName(f"{recipe.encoder!r} names pretrained weights; leave .{tag} away")
        load_part("backbone", backbone)
        load_part("head", head)
        where = "field loss"
        load_part("loss", recipe.loss)
    except UnknownName as error:
        raise BadInput(recipe.source, str(error), where=where) from None


class _Trainer:
    def __init__(
        self,
        recipe: Recipe,
        out: str | Path | None,
        device: str | torch.device | None,
        progress: bool,
        restart: bool,
        objective: Callable[[Recipe, PoseEncoder], Objective],
    ) -> None:
        self.recipe = recipe
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.out = None if out is None else Path(out)
        if self.out is not None:
            check_folder(self.out)
        _check_names(recipe)
        self.progress = progress
        self.data = recipe.data.open(recipe.image_size, recipe.pixel_size, self.device, recipe.seed)
        torch.manual_seed(recipe.seed)
        backbone_args = dict(recipe.backbone_args)
        if self.out is not None and not restart and (self.out / _CHECKPOINT).exists():
            backbone_args.pop("pretrained", None)  # all weights come from there, and need not be fetched again
        try:
            self.encoder = create_encoder(
                recipe.encoder,
                image_size=recipe.image_size,
                pixel_size=self.data.preprocessing.pixel_size,
                backbone_args=backbone_args,
                head_args=recipe.head_args,
                shift=recipe.shift,
            ).to(self.device)
            self.objective = objective(recipe, self.encoder).to(self.device)
        except BadArguments as error:
            raise BadInput(recipe.source, str(error), where=f"field {error.field}") from error
        self.learnt = [*self.encoder.parameters(), *self.objective.parameters()]
        self.optimizer = make_optimizer(recipe, self.learnt)
        self.averaged = self._state() if recipe.ema else None
        self.best: dict[str, Tensor] = {}
        self.best_error = math.inf
        self.stale = 0
        self.step = 0
        self.cpu_seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.table = recipe.data.digest()
        self.provenance = provenance(str(self.device))
        self.commits = [self.provenance["commit"]]
        if self.out is not None:
            self._open_folder(self.out, restart)

    def run(self) -> TrainingResult:
        recipe = self.recipe
        writer = self._tensorboard()
        bar = tqdm(
            total=recipe.steps,
            initial=self.step,
            desc=recipe.encoder,
            disable=not self.progress,
            unit="step",
            smoothing=0.02,
        )
        began = time.process_time()
        with bar, postponed_signals() as received:
            while self.step < recipe.steps and not self._stop_early():
                loss = self._train_step()
                bar.update()
                if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                    began = self._count_cpu(began)
                    self._validate(loss, writer)
                    self._save()
                    began = time.process_time()  # validation is not training
                    criterion = self.objective.criterion
                    bar.set_postfix_str(f"loss {loss:.3f}, {criterion} {self.history[-1][criterion]:.2f}")
                if received:
                    self._count_cpu(began)
                    self._save()
                    raise Interrupted(received[0], self.step, self.out)
        if writer is not None:
            writer.close()
        return self._finish()

    def _train_step(self) -> float:
        recipe = self.recipe
        torch.manual_seed((recipe.seed << 32) + self.step)
        lr = learning_rate(recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.encoder.train()
        batch = self.data.batch(self.step, recipe.batch_size)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half()):
            output = self.objective(self.encoder, batch, (self.step + 1) / recipe.steps)
        loss = output.total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.grad_clip:
            nn.utils.clip_grad_norm_(self.learnt, recipe.grad_clip)
        self.optimizer.step()
        self.step += 1
        if self.averaged is not None:
            average(self.averaged, self._state(copy=False), min(recipe.ema, (1 + self.step) / (10 + self.step)))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise BadInput(
                recipe.source, f"the loss is {value}", where=f"step {self.step}", hint="lower lr, or set grad_clip"
            )
        return value

    def _validate(self, loss: float, writer: Any) -> None:
        state = current = self._state()
        if self.averaged is not None:
            state = self.averaged
            self._load(state)
        metrics = self.objective.measure(self.encoder, self.data.validation)
        self._load(current)
        row = {
            "step": self.step,
            "loss": loss,
            "lr": learning_rate(self.recipe, self.step - 1),
            **{name: metrics[name] for name in (self.objective.criterion, *self.objective.logged)},
            "cpu_s": self.cpu_seconds,
            "images_per_cpu_s": self.step * self.recipe.batch_size / max(self.cpu_seconds, 1e-9),
        }
        self.history.append(row)
        if row[self.objective.criterion] < self.best_error:
            self.best_error, self.stale = row[self.objective.criterion], 0
            self.best = {name: tensor.clone() for name, tensor in state.items()}
        else:
            self.stale += 1
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, self.step)

    def _finish(self) -> TrainingResult:
        self._load(self.best)
        self.encoder.eval()
        metrics = {
            **self.objective.measure(self.encoder, self.data.test, thorough=True),
            "encoder": self.recipe.encoder,
            "steps": self.step,
            "cpu_s": round(self.cpu_seconds, 1),
            "parameters": sum(p.numel() for p in self.encoder.parameters()),
            "gmacs": multiply_accumulates(self.encoder) / 1e9,
            "seed": self.recipe.seed,
            **self.provenance,
            "commit": ", ".join(str(commit) for commit in self.commits),
        }
        if self.out is not None:
            self._write_log(self.out)  # of a run that was resumed after its last step
            save_pretrained(self.encoder, self.out / "model", metrics=metrics, recipe=self.recipe, overwrite=True)
            write_json(self.out / "result.json", {"recipe": self.recipe.to_dict(), "metrics": metrics}, overwrite=True)
        return TrainingResult(self.encoder, metrics, self.history)

    def _stop_early(self) -> bool:
        return bool(self.recipe.patience) and self.stale >= self.recipe.patience

    def _half(self) -> bool:
        return self.recipe.precision == "bf16" or (self.recipe.precision == "auto" and self.device.type == "cuda")

    def _count_cpu(self, began: float) -> float:
        now = time.process_time()
        self.cpu_seconds += now - began
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
            for stale in (checkpoint, *out.glob("events.out.tfevents.*")):
                stale.unlink(missing_ok=True)
        elif checkpoint.exists():
            self._resume(checkpoint)
        write_json(out / "recipe.json", self.recipe.to_dict(), overwrite=True)

    def _resume(self, path: Path) -> None:
        tensors, state = load_checkpoint(path)
        ours, theirs = self.recipe.to_dict(), _todays(state["recipe"])
        if ours != theirs:
            changed = ", ".join(sorted(k for k in ours if ours[k] != theirs.get(k)))
            raise BadInput(
                path, f"was made by another recipe (differs in {changed})", hint="use another folder, or --restart"
            )
        if state.get("table") != self.table:
            hint = "use another folder, or --restart"
            raise BadInput(path, "was trained on another table of particles", hint=hint)
        self._load(tensors["model"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        if self.averaged is not None:
            self.averaged = {name: tensor.to(self.device) for name, tensor in tensors["averaged"].items()}
        self.best = tensors.get("best", {})
        self.best_error, self.stale = state["best_error"], state["stale"]
        self.commits = list(dict.fromkeys([*state["commits"], *self.commits]))
        self.step, self.cpu_seconds, self.history = state["step"], state["cpu_s"], state["history"]

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
            "table": self.table,
            "stale": self.stale,
            "cpu_s": self.cpu_seconds,
            "history": self.history,
        }
        save_checkpoint(self.out / _CHECKPOINT, groups, state)
        self._write_log(self.out)

    def _write_log(self, out: Path) -> None:
        with atomic_write(out / "log.csv", overwrite=True) as file:
            lines = _CsvLines(file.write)
            table = csv.DictWriter(lines, list(self.history[0]) if self.history else [])
            table.writeheader()
            table.writerows(self.history)

    def _tensorboard(self) -> Any:
        if self.out is None:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # an extra; the CSV has the same numbers
            return None
        return SummaryWriter(str(self.out), purge_step=self.step + 1 if self.step else None)


def _todays(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe of a checkpoint, which an earlier version may have written, as this one would write it."""
    plain, _ = migrated(recipe)
    try:
        return Recipe.from_dict(plain).to_dict()
    except BadInput:  # of a source that no file describes
        return plain


class _CsvLines:
    """Lets the csv module write text to a binary file."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, text: str) -> None:
        self._write(text.replace("\r\n", "\n").encode())
