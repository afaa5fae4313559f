"""LoRA fine-tuning of BLIP-2's language model on images and their enhanced prompts."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    broadcast_object_list,
    gather_object,
)
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import get_scheduler

from compositional_prompts.captioner.decoding.caption_generation import generate_captions
from compositional_prompts.captioner.decoding.grammar_file import write_grammar
from compositional_prompts.captioner.features.feature_store import ImageInputs
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.caption_tokens import bucketed_batches, tokenize_repeated
from compositional_prompts.captioner.model.forward import queries_of
from compositional_prompts.captioner.model.lora import (
    add_adapter,
    count_parameters,
    save_adapter,
    trained_before_the_cache,
)
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_batches import (
    CaptionBatches,
    CaptionLoss,
    CaptionPairs,
    Rows,
)
from compositional_prompts.captioner.training.caption_curve import (
    EpochRecord,
    Totals,
    best_epoch,
    should_stop,
    summarise,
    write_curve,
)
from compositional_prompts.compute.checkpoints import (
    Checkpoints,
    optimizer_state,
    random_state,
    set_optimizer_state,
    set_random_state,
    spread_like,
    whole,
)
from compositional_prompts.compute.devices import seed_everything
from compositional_prompts.compute.processes import any_process, join_processes
from compositional_prompts.compute.progress import progress
from compositional_prompts.files.outputs import atomic_directory

logger = logging.getLogger(__name__)

LAST = "last"
"""Folder of the last epoch's adapter, inside the folder that holds the best one."""

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
"""transformers' names of ``finetune.schedule``; all of them warm up."""

CaptionScore = Callable[[Sequence[str], Sequence[str]], float]
"""Captions and as many references to the mean of a metric, the more the better."""


@dataclass(frozen=True)
class Outcome:
    """What a run was: its metrics, and the training images that this process of it went through
    (fewer than all where it went on from a checkpoint), repeats counted.
    """

    metrics: dict[str, Any]
    images: int


@dataclass
class _Position:
    """How far a run is: the epoch it is in, that epoch's steps done, and all steps done.

    ``order`` is the state, at the epoch's begin, of the generator that orders the batches.
    """

    epoch: int
    epoch_steps: int
    steps: int
    order: Tensor


class _Trainer:
    """A fine-tuning run that can stop after any step and go on from there."""

    def __init__(
        self,
        captioner: Captioner,
        adapted: PeftModel,
        train: CaptionBatches,
        val: CaptionBatches,
        val_captions: Sequence[str],
        params: Finetune,
        *,
        seed: int,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        score_captions: CaptionScore | None,
        after_step: Callable[[int], None] | None,
    ) -> None:
        self.captioner = captioner
        self.train = train
        self.val = val
        self.val_captions = val_captions
        self.params = params
        self.seed = seed
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.score_captions = score_captions
        self.after_step = after_step
        loss = CaptionLoss(captioner, params.label_smoothing)
        trained = [p for p in loss.parameters() if p.requires_grad]
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            # With bias: all, parts of the Q-Former train that a pass without text leaves out.
            find_unused_parameters=bool(trained_before_the_cache(adapted))
        )
        adamw = torch.optim.AdamW(
            trained, lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
        )
        self.module: nn.Module
        self.module, prepared = accelerator.prepare(loss, adamw)
        self.optimizer: torch.optim.Optimizer = prepared.optimizer
        batches = -(-len(train) // params.batch_size)
        steps = params.epochs * -(-batches // params.gradient_accumulation)
        self.scheduler = get_scheduler(
            SCHEDULES[params.schedule],
            self.optimizer,
            num_warmup_steps=round(params.warmup_ratio * steps),
            num_training_steps=steps,
        )
        self.scaler = torch.amp.GradScaler(
            accelerator.device.type, enabled=params.precision == "float16"
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.position = _Position(1, 0, 0, self.generator.get_state())
        self.totals = Totals(accelerator.device)
        self.history: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}
        self.learning_rate = params.learning_rate
        self.images = 0
        # The adapter begins the same everywhere; dropout then differs from process to process.
        if accelerator.process_index:
            torch.manual_seed(seed + accelerator.process_index)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters, by the names that PEFT's model has for them."""
        module = self.accelerator.unwrap_model(self.module)
        return {f"base_model.{name}": p for name, p in module.named_parameters() if p.requires_grad}

    def adapter(self) -> dict[str, Tensor]:
        """The adapter as it is now, on the CPU. All processes must ask."""
        return {name: whole(parameter) for name, parameter in self.trained.items()}

    def run(self) -> None:
        """Train until the last epoch, or until nothing has become better for long enough."""
        params = self.params
        while self.position.epoch <= params.epochs and not should_stop(
            self.history, params.best_metric, params.early_stopping
        ):
            self._train_epoch()
            self._end_epoch()
            self._save()

    def _train_epoch(self) -> None:
        position = self.position
        self.module.train()
        self.train.set_epoch(position.epoch)
        batches = bucketed_batches(
            self.train.tokens.lengths, self.params.batch_size, self.generator
        )
        accumulation = self.params.gradient_accumulation
        steps = [
            batches[start : start + accumulation] for start in range(0, len(batches), accumulation)
        ][position.epoch_steps :]
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        labelled = self.train.labelled
        loaded = self.train.read(
            [Rows.share(batch, process, processes) for step in steps for batch in step]
        )
        label = f"fine-tuning epoch {position.epoch}/{self.params.epochs}"
        for step in progress(steps, label) if self.accelerator.is_main_process else steps:
            tokens = sum(int(labelled[batch].sum()) for batch in step)
            for number in range(len(step)):
                batch = next(loaded)
                last = number == len(step) - 1
                with nullcontext() if last else self.accelerator.no_sync(self.module):
                    loss, correct = self.module(*batch.arguments())
                    # The gradient of a step is that of the mean over all its labelled tokens;
                    # Accelerate takes the mean over processes, which here must be their sum.
                    weight = processes / tokens if batch.counted else 0.0
                    self.accelerator.backward(self.scaler.scale(loss * weight))
                if batch.counted:
                    self.totals.add(loss.detach(), correct, len(batch.tokens.labels))
            self._update()
            self.images += sum(len(batch) for batch in step)
            position.epoch_steps += 1
            position.steps += 1
            # One process keeps the time; all have a part in a checkpoint.
            if any_process(self.accelerator, self.checkpoints.due()):
                self._save()
            if self.after_step is not None:
                self.after_step(position.steps)

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        limit = self.params.max_grad_norm
        norm: Any = self.accelerator.clip_grad_norm_(
            [p for group in self.optimizer.param_groups for p in group["params"]],
            float("inf") if limit is None else limit,
        )
        self.totals.add_norm(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        scale = self.scaler.get_scale()
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # A step whose scaled gradients overflowed was left out.
        if self.scaler.get_scale() >= scale:
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _end_epoch(self) -> None:
        params = self.params
        epoch, steps = self.position.epoch, self.position.epoch_steps
        loss, correct, tokens, norms = self._over_processes(self.totals)
        val_loss, val_correct, val_tokens, _ = self._over_processes(self._validate())
        record = EpochRecord(
            epoch=epoch,
            train_loss=loss / tokens,
            val_loss=val_loss / val_tokens,
            train_token_accuracy=correct / tokens,
            val_token_accuracy=val_correct / val_tokens,
            val_bleu=self._caption() if self._captions_after(epoch) else None,
            learning_rate=self.learning_rate,
            grad_norm=norms / steps / self.accelerator.num_processes,
        )
        record.check_finite()
        self.history.append(record)
        logger.info(
            "epoch %d of %d: training loss %.4f, validation loss %.4f, token accuracy %.4f%s",
            epoch,
            params.epochs,
            record.train_loss,
            record.val_loss,
            record.val_token_accuracy,
            "" if record.val_bleu is None else f", BLEU {record.val_bleu:.4f}",
        )
        if best_epoch(self.history, params.best_metric) == epoch:
            self.best = self.adapter()
        self.totals = Totals(self.accelerator.device)
        self.position = _Position(epoch + 1, 0, self.position.steps, self.generator.get_state())

    def _over_processes(self, totals: Totals) -> list[float]:
        sums: Any = self.accelerator.reduce(totals.sums, "sum")
        values: list[float] = sums.tolist()
        return values

    @torch.no_grad()
    def _validate(self) -> Totals:
        self.module.eval()
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        batches = self.val.tokens.lengths.argsort(stable=True).split(self.params.batch_size)
        totals = Totals(self.accelerator.device)
        for batch in self.val.read([Rows.share(rows, process, processes) for rows in batches]):
            loss, correct = self.module(*batch.arguments())
            if batch.counted:
                totals.add(loss, correct, len(batch.tokens.labels))
        return totals

    def _captions_after(self, epoch: int) -> bool:
        every = self.params.caption_every
        return every is not None and (epoch % every == 0 or epoch == self.params.epochs)

    @torch.no_grad()
    def _caption(self) -> float:
        """The score of greedy captions of some validation images, the same ones every time.

        Every process writes all of them: under FSDP they take each step together.
        """
        assert self.score_captions is not None
        self.module.eval()
        number = min(self.params.caption_images, len(self.val))
        rows = torch.tensor(sorted(random.Random(self.seed).sample(range(len(self.val)), number)))
        captions: list[str] = []
        with ExitStack() as stack:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            if isinstance(self.module, FSDPModule):
                self.module.unshard()
                stack.callback(self.module.reshard)
            for part in rows.split(self.params.batch_size):
                with self.captioner.autocast():
                    inputs = self.val.images(part).to(self.captioner.device)
                    queries = queries_of(self.captioner.model, inputs)
                captions += generate_captions(
                    self.captioner, queries, num_beams=1, max_new_tokens=self.params.max_tokens
                )
        score = self.score_captions(captions, [self.val_captions[row] for row in rows.tolist()])
        # One opinion for all, or they might disagree on when to stop.
        agreed: Any = self.accelerator.reduce(
            torch.tensor(score, dtype=torch.float64, device=self.accelerator.device), "mean"
        )
        return float(agreed)

    def _save(self) -> None:
        """Write a checkpoint; all processes take part."""
        own = {
            "random": random_state(self.accelerator.device),
            "totals": self.totals.sums.cpu(),
        }
        position = self.position
        self.checkpoints.save(
            {
                "epoch": position.epoch,
                "epoch_steps": position.epoch_steps,
                "steps": position.steps,
                "order": position.order,
                "learning_rate": self.learning_rate,
                "adapter": self.adapter(),
                "optimizer": optimizer_state(self.optimizer),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "history": [asdict(record) for record in self.history],
                "best": self.best,
                "processes": gather_object([own]),
            }
        )

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one.

        Raises:
            CheckpointError: it is damaged.
        """
        found: list[Any] = broadcast_object_list([self.checkpoints.load()])
        state = found[0]
        if state is None:
            return
        self.position = _Position(*(state[k] for k in ("epoch", "epoch_steps", "steps", "order")))
        self.generator.set_state(self.position.order)
        self.learning_rate = state["learning_rate"]
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(spread_like(state["adapter"][name], parameter))
        set_optimizer_state(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best = state["best"]
        own = state["processes"][self.accelerator.process_index]
        self.totals.sums.copy_(own["totals"])
        set_random_state(own["random"], self.accelerator.device)
        logger.info(
            "going on from a checkpoint: epoch %d, %d steps of it done",
            self.position.epoch,
            self.position.epoch_steps,
        )


def _decoder_layers(captioner: Captioner) -> list[nn.Module]:
    language_model: Any = captioner.model.language_model
    names = set(language_model._no_split_modules)
    return [module for module in language_model.modules() if type(module).__name__ in names]


def _prepare_language_model(captioner: Captioner, params: Finetune) -> ExitStack:
    """Switch on what ``params`` asks for; closing the stack switches it off again."""
    stack = ExitStack()
    language_model: Any = captioner.model.language_model
    if params.gradient_checkpointing:
        language_model.gradient_checkpointing_enable({"use_reentrant": False})
        stack.callback(language_model.gradient_checkpointing_disable)
    if params.compile:
        # Layer by layer: they share their code, so one is compiled for all.
        for layer in _decoder_layers(captioner):
            layer.compile(dynamic=True)
            stack.callback(setattr, layer, "_compiled_call_impl", None)
    return stack


def finetune(
    captioner: Captioner,
    inputs: ImageInputs,
    train: CaptionPairs,
    val: CaptionPairs,
    params: Finetune,
    *,
    seed: int,
    adapter: Path,
    curve: Path,
    val_inputs: ImageInputs | None = None,
    accelerator: Accelerator | None = None,
    checkpoints: Checkpoints | None = None,
    score_captions: CaptionScore | None = None,
    grammar: Sequence[Sequence[str]] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> Outcome:
    """Train an adapter and write the best, by ``params.best_metric``, and the last one.

    Args:
        captioner: the untrained model; its language model is adapted in place.
        inputs: the images of ``train``, cached or not; those of ``val`` too without ``val_inputs``.
        train: what to learn.
        val: what the best epoch is chosen on.
        params: hyper-parameters. A step has ``gradient_accumulation`` batches of ``batch_size``
            images over all processes; its loss is the mean over all their labelled tokens.
        seed: of the adapter, the order of the batches, and dropout.
        adapter: folder to write, in PEFT's layout; :data:`LAST` inside it holds the last epoch's.
        curve: CSV file to write, a row an epoch (the fields of :class:`EpochRecord`).
        val_inputs: where validation images are read, if those of ``inputs`` are augmented.
        accelerator: the processes that train together; by default this one alone.
        checkpoints: where to go on from and what to write on the way; by default nothing.
        score_captions: gives val_bleu; needed with ``params.caption_every``.
        grammar: what captions are made of, to lie beside the adapter.
        after_step: called with the number of steps done, after each of them and its checkpoint.

    Returns:
        Parameter counts, min, max and mean of the epochs' losses, epochs and steps run, the best
        epoch. Only the main process has written files.

    Raises:
        ValueError: there is nothing to train or validate on, a caption is too long, or the
            adapter would train what comes before the cached features.
        CheckpointError: the checkpoint to go on from is damaged.
        FloatingPointError: a loss is not finite.
    """
    for name, pairs in (("training", train), ("validation", val)):
        if not pairs.image_ids:
            raise ValueError(
                f"No {name} images to fine-tune with: bring more products, or change "
                "split.fractions."
            )
    if params.caption_every is not None and score_captions is None:
        raise ValueError("finetune.caption_every needs a score of captions, and none is given.")
    accelerator = accelerator or join_processes(captioner.device)
    if params.precision == "float16" and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "finetune.precision float16 scales gradients, which FSDP spreads over processes: "
            "set it to bfloat16."
        )
    if accelerator.num_processes > 1:
        logger.info("%d processes train together", accelerator.num_processes)
    seed_everything(seed)
    train_tokens = tokenize_repeated(captioner, train.captions, params.max_tokens)
    val_tokens = tokenize_repeated(captioner, val.captions, params.max_tokens)
    train_batches = CaptionBatches(captioner, inputs, train, train_tokens)
    val_batches = CaptionBatches(captioner, val_inputs or inputs, val, val_tokens)
    cached = train_batches.images(torch.tensor([0])).ndim == 3
    adapted = add_adapter(captioner, params.lora, cached=cached).to(captioner.device)
    parameters = count_parameters(captioner, adapted)
    with _prepare_language_model(captioner, params):
        trainer = _Trainer(
            captioner,
            adapted,
            train_batches,
            val_batches,
            val.captions,
            params,
            seed=seed,
            accelerator=accelerator,
            checkpoints=checkpoints or Checkpoints(None, 0),
            score_captions=score_captions,
            after_step=after_step,
        )
        trainer.resume()
        trainer.run()
        last = trainer.adapter()
    if accelerator.is_main_process:
        with atomic_directory(adapter) as directory:
            save_adapter(adapted, trainer.best, directory)
            save_adapter(adapted, last, directory / LAST)
            if grammar is not None:
                write_grammar(grammar, directory)
        write_curve(trainer.history, curve)
    accelerator.wait_for_everyone()
    metrics = {
        "parameters": parameters,
        "trainable_percent": 100 * parameters["trainable"] / parameters["total"],
        **summarise(trainer.history, params.best_metric),
        "steps": trainer.position.steps,
        "train_images": len(train_tokens),
        "val_images": len(val_tokens),
    }
    return Outcome(metrics, trainer.images)
