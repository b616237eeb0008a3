"""Training: a pure function of a recipe. Every random number of a step comes from the recipe's seed and the step's
number,
so a resumed run repeats what the undisturbed one would have done, bit for bit on a CPU."""

from __future__ import annotations

import csv
import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..imaging.batch import Batch
from ..losses.base import Loss
from ..losses.siamese import SiameseDistance
from ..particles.errors import BadInput
from ..particles.files import atomic_write, check_folder, find_data, make_folder, write_json
from ..zoo.cost import multiply_accumulates
from ..zoo.encoder import PoseEncoder, create_encoder
from ..zoo.evaluate import distance_metrics, evaluate, pose_metrics, predict_batches
from ..zoo.provenance import provenance
from ..zoo.registry import get_part
from .checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from .data import open_data
from .recipe import Recipe

_CHECKPOINT = "checkpoint.safetensors"
_LOGGED = ("median_deg", "mean_deg", "acc_5", "acc_10", "distance_mae_deg")


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


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step (0-based), by the recipe's schedule."""
    u = step / recipe.steps
    if recipe.schedule == "cosine":
        warm = min(1.0, (step + 1) / max(1.0, recipe.warmup * recipe.steps))
        return recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * u))
    # Smith and Topin 2018, with cosine legs.
    if u < 0.3:
        low, high, v = recipe.lr / 25, recipe.lr, u / 0.3
    else:
        low, high, v = recipe.lr / 1e4, recipe.lr, 1 - (u - 0.3) / 0.7
    return high - (high - low) * 0.5 * (1 + math.cos(math.pi * v))


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    progress: bool = False,
    restart: bool = False,
) -> TrainingResult:
    """Train an encoder.

    Args:
        recipe: what, on what, how.
        out: folder for ``recipe.json``, ``checkpoint.safetensors``, ``log.csv``, TensorBoard events, ``result.json``
            and, at the end, ``model/`` (see :func:`save_pretrained`). A checkpoint of the same recipe is resumed.
        device: default a GPU where there is one.
        progress: show a bar with the time left, the loss and the last validation error.
        restart: begin anew although ``out`` has a checkpoint.

    Raises:
        BadInput: a recipe, data file or checkpoint that cannot be used.
        Interrupted: stopped by Ctrl-C, SIGTERM or SIGUSR1, after writing a checkpoint; a second Ctrl-C stops at once.
    """
    return _Trainer(recipe, out, device, progress, restart).run()


class _Trainer:
    def __init__(
        self,
        recipe: Recipe,
        out: str | Path | None,
        device: str | torch.device | None,
        progress: bool,
        restart: bool,
    ) -> None:
        self.recipe = recipe
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.out = None if out is None else Path(out)
        if self.out is not None:
            check_folder(self.out)
        self.progress = progress
        self.symmetry = recipe.data.get("symmetry", "C1")
        self.data, preprocessing = open_data(
            recipe.data,
            image_size=recipe.image_size,
            pixel_size=recipe.pixel_size,
            augment=recipe.augment,
            device=self.device,
            seed=recipe.seed,
        )
        torch.manual_seed(recipe.seed)
        head_args = {**recipe.head_args, "shift": True} if recipe.shift else dict(recipe.head_args)
        backbone_args = dict(recipe.backbone_args)
        if self.out is not None and not restart and (self.out / _CHECKPOINT).exists():
            backbone_args.pop("pretrained", None)  # all weights come from there, and need not be fetched again
        try:
            self.encoder = create_encoder(
                recipe.encoder,
                image_size=recipe.image_size,
                pixel_size=preprocessing.pixel_size,
                backbone_args=backbone_args,
                head_args=head_args,
            ).to(self.device)
            self.loss = self._make_loss()
        except TypeError as error:  # an argument that the part does not know, or of another kind
            raise BadInput("recipe", str(error), where="backbone_args, head_args, loss or loss_args") from error
        self.optimizer = self._make_optimizer()
        self.averaged = _copy_state(self.encoder) if recipe.ema else None
        self.best: dict[str, Tensor] = {}
        self.best_error = math.inf
        # Distances fix poses up to a common frame only.
        self.criterion = "distance_mae_deg" if type(self.loss) is SiameseDistance else "median_deg"
        if self.criterion == "median_deg" and not self.encoder.head.has_rotation:
            raise BadInput(
                "recipe", f"{recipe.encoder} gives no rotation", hint="loss siamese_distance learns distances"
            )
        self.stale = 0
        self.step = 0
        self.cpu_seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.table = _digest(recipe.data.get("particles"))
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
        with bar, _postponed_signals() as received:
            while self.step < recipe.steps and not self._stop_early():
                loss = self._train_step()
                bar.update()
                if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                    began = self._count_cpu(began)
                    self._validate(loss, writer)
                    self._save()
                    began = time.process_time()  # validation is not training
                    bar.set_postfix_str(f"loss {loss:.3f}, {self.history[-1][self.criterion]:.2f} deg")
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
            pose = self.encoder(batch.images)
        loss = self.loss(pose, batch.pose, (self.step + 1) / recipe.steps).total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.grad_clip:
            nn.utils.clip_grad_norm_(self.encoder.parameters(), recipe.grad_clip)
        self.optimizer.step()
        self.step += 1
        if self.averaged is not None:
            _average(self.averaged, self.encoder, min(recipe.ema, (1 + self.step) / (10 + self.step)))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise BadInput(
                "recipe", f"the loss is {value}", where=f"step {self.step}", hint="lower lr, or set grad_clip"
            )
        return value

    def _validate(self, loss: float, writer: Any) -> None:
        state = current = _copy_state(self.encoder)
        if self.averaged is not None:
            state = self.averaged
            self.encoder.load_state_dict(state)
        metrics = self._errors(self.data.validation)
        self.encoder.load_state_dict(current)
        row = {
            "step": self.step,
            "loss": loss,
            "lr": learning_rate(self.recipe, self.step - 1),
            **{name: metrics[name] for name in _LOGGED if name in metrics},
            "cpu_s": self.cpu_seconds,
            "images_per_cpu_s": self.step * self.recipe.batch_size / max(self.cpu_seconds, 1e-9),
        }
        self.history.append(row)
        if row[self.criterion] < self.best_error:
            self.best_error, self.stale = row[self.criterion], 0
            self.best = {name: tensor.clone() for name, tensor in state.items()}
        else:
            self.stale += 1
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, self.step)

    def _finish(self) -> TrainingResult:
        self.encoder.load_state_dict(self.best)
        self.encoder.eval()
        metrics = {
            **self._final_metrics(),
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
            from ..zoo.pretrained import save_pretrained

            self._write_log(self.out)  # of a run that was resumed after its last step
            save_pretrained(self.encoder, self.out / "model", metrics=metrics, recipe=self.recipe, overwrite=True)
            write_json(self.out / "result.json", {"recipe": self.recipe.to_dict(), "metrics": metrics}, overwrite=True)
        return TrainingResult(self.encoder, metrics, self.history)

    def _final_metrics(self) -> dict[str, Any]:
        if type(self.loss) is SiameseDistance:
            return self._errors(self.data.test)
        return evaluate(self.encoder, self.data.test, symmetry=self.symmetry)

    def _errors(self, data: Batch) -> dict[str, Any]:
        predicted = predict_batches(self.encoder, data.images)
        if type(self.loss) is SiameseDistance:
            return distance_metrics(self.loss, predicted, data.pose)
        return pose_metrics(predicted, data.pose, symmetry=self.symmetry)

    def _stop_early(self) -> bool:
        return bool(self.recipe.patience) and self.stale >= self.recipe.patience

    def _half(self) -> bool:
        return self.recipe.precision == "bf16" or (self.recipe.precision == "auto" and self.device.type == "cuda")

    def _count_cpu(self, began: float) -> float:
        now = time.process_time()
        self.cpu_seconds += now - began
        return now

    def _make_loss(self) -> Loss:
        loss: Callable[..., Loss] = get_part("loss", self.recipe.loss).load()
        args = dict(self.recipe.loss_args)
        if self.symmetry != "C1":
            args.setdefault("symmetry", self.symmetry)
        if self.recipe.shift:
            # Shifts count in units of the head's raw output, and no more than rotations do.
            args.setdefault("shift_weight", 0.3)
            args.setdefault("shift_scale", self.encoder.head.shift_scale)
        return loss(**args).to(self.device)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        recipe, parameters = self.recipe, list(self.encoder.parameters())
        if recipe.optimizer == "rmsprop":
            return torch.optim.RMSprop(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)

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
        if state["recipe"] != self.recipe.to_dict():
            ours, theirs = self.recipe.to_dict(), state["recipe"]
            changed = ", ".join(sorted(k for k in ours if ours[k] != theirs.get(k)))
            raise BadInput(
                path, f"was made by another recipe (differs in {changed})", hint="use another folder, or --restart"
            )
        if state.get("table") != self.table:
            raise BadInput(
                path, f"was trained on another {self.recipe.data['particles']}", hint="use another folder, or --restart"
            )
        self.encoder.load_state_dict(tensors["model"])
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
            "model": _copy_state(self.encoder),
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


def _digest(particles: str | None) -> str | None:
    """Of the table of particles, by which a changed one is noticed."""
    return None if particles is None else hashlib.sha256(find_data(particles).read_bytes()).hexdigest()


class _CsvLines:
    """Lets the csv module write text to a binary file."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, text: str) -> None:
        self._write(text.replace("\r\n", "\n").encode())


def _copy_state(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}


@torch.no_grad()
def _average(averaged: dict[str, Tensor], encoder: nn.Module, decay: float) -> None:
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point():
            averaged[name].lerp_(tensor, 1 - decay)
        else:
            averaged[name].copy_(tensor)


@contextmanager
def _postponed_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGUSR1 instead of dying; the second SIGINT acts as usual."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not the main thread: somebody else handles signals
        yield received
        return
    try:
        yield received
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
