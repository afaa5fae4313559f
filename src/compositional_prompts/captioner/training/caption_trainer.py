"""LoRA fine-tuning of BLIP-2's language model on images and their enhanced prompts."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import get_scheduler

from compositional_prompts.captioner.decoding.caption_generation import generate_captions
from compositional_prompts.captioner.decoding.grammar_file import write_grammar
from compositional_prompts.captioner.features.feature_store import ImageInputs
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.caption_tokens import random_batches, tokenize_repeated
from compositional_prompts.captioner.model.forward import queries_of
from compositional_prompts.captioner.model.lora import (
    add_adapter,
    count_parameters,
    save_adapter,
    trained_before_the_cache,
)
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_batches import (
    Batch,
    CaptionBatches,
    CaptionLoss,
    CaptionPairs,
)
from compositional_prompts.captioner.training.caption_curve import (
    CaptionEpoch,
    Totals,
    metric_value,
    nothing_learnt,
    summarise,
)
from compositional_prompts.captioner.training.caption_room import require_room
from compositional_prompts.compute.devices import seed_everything
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.side_by_side import SideBySide, in_parts
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.compute.training.few_bits_dropout import FewBitsDropout
from compositional_prompts.compute.training.training_run import Share, TrainingError, TrainingRun
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.prompt.pair import Pair, objects_alone
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.prompt.text_metrics import sentence_bleu

log = logging.getLogger(__name__)

LAST = "last"
"""Folder of the last epoch's adapter, inside the folder that holds the best one."""

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
"""transformers' names of ``finetune.schedule``; all of them warm up."""


@dataclass(frozen=True)
class Outcome:
    """What a run was: its metrics, and the training images that this process of it went through
    (fewer than all where it went on from a checkpoint), repeats counted.
    """

    metrics: dict[str, Any]
    images: int


class _CaptionRun(TrainingRun[CaptionEpoch, list[Batch]]):
    """Training of an adapter; a step's loss is the mean over all its labelled tokens."""

    record_type = CaptionEpoch
    remedy = "lower finetune.learning_rate, or set finetune.max_grad_norm or warmup_ratio."
    params: Finetune

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
    ) -> None:
        self.captioner = captioner
        self.train = train
        self.val = val
        self.val_captions = val_captions
        self.seed = seed
        loss = CaptionLoss(captioner, params.label_smoothing)
        trained = [p for p in loss.parameters() if p.requires_grad]
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            # With bias: all, parts of the Q-Former train that a pass without text leaves out.
            find_unused_parameters=bool(trained_before_the_cache(adapted))
        )
        adamw = torch.optim.AdamW(
            trained, lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
        )
        module, prepared = accelerator.prepare(loss, adamw)
        batches = -(-len(train) // params.batch_size)
        steps = params.epochs * -(-batches // params.gradient_accumulation)
        scheduler = get_scheduler(
            SCHEDULES[params.schedule],
            prepared.optimizer,
            num_warmup_steps=round(params.warmup_ratio * steps),
            num_training_steps=steps,
        )
        threads = SideBySide.of(accelerator)
        if params.compile or params.gradient_checkpointing or _draws_numbers(captioner):
            threads = None  # random numbers of torch's are of no part: they come in any order
        of = params, accelerator, checkpoints, threads
        super().__init__(module, prepared.optimizer, scheduler, *of)
        self.trained_parameters = trained
        self.scaler = torch.amp.GradScaler(
            accelerator.device.type, enabled=params.precision == "float16"
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.order = self.generator.get_state()
        self.totals = Totals(accelerator.device)
        self.learning_rate = params.learning_rate
        # The adapter begins the same everywhere; dropout then differs from process to process.
        if accelerator.process_index:
            torch.manual_seed(seed + accelerator.process_index)

    def tensors(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters, by the names that PEFT's model has for them."""
        module = self.accelerator.unwrap_model(self.module)
        return {f"base_model.{name}": p for name, p in module.named_parameters() if p.requires_grad}

    def batches(self) -> list[Tensor]:
        self.train.set_epoch(self.epoch)
        self.order = self.generator.get_state()
        return random_batches(len(self.train), self.params.batch_size, self.generator)

    def load(self, shares: Iterable[Share]) -> Iterator[list[Batch]]:
        return self.train.read(shares, parted=self.threads is not None)

    def loss(self, share: Share, loaded: list[Batch], step: Sequence[Share]) -> Tensor:
        arguments = [batch.arguments() for batch in loaded]
        if self.threads is None:
            parts = [self.module(*one) for one in arguments]
        else:
            parts = in_parts(self.module, arguments, [], self.trained_parameters, self.threads)
        loss, correct = (torch.stack(one).sum() for one in zip(*parts, strict=True))
        if share.counted:
            labels = sum(len(batch.tokens.labels) for batch in loaded)
            self.totals.add(loss.detach(), correct, labels)
        labelled = self.train.labelled
        tokens = sum(int(labelled[other.batch].sum()) for other in step)
        # Accelerate takes the mean over processes, which here must be their sum.
        weight = self.accelerator.num_processes / tokens if share.counted else 0.0
        scaled: Tensor = self.scaler.scale(loss * weight)
        return scaled

    @property
    def loss_scale(self) -> float:
        return self.scaler.get_scale()

    def update(self, *, last: bool) -> None:
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

    def training_figures(self) -> dict[str, float]:
        loss, correct, tokens, norms = self._over_processes(self.totals)
        self.totals = Totals(self.accelerator.device)
        return {
            "train_loss": loss / tokens,
            "train_token_accuracy": correct / tokens,
            "learning_rate": self.learning_rate,
            "grad_norm": norms / self.epoch_steps / self.accelerator.num_processes,
        }

    def validation_figures(self) -> dict[str, float | None]:
        loss, correct, tokens, _ = self._over_processes(self._validate())
        every = self.params.caption_every
        due = every is not None and (self.epoch % every == 0 or self.epoch == self.params.epochs)
        return {
            "val_loss": loss / tokens,
            "val_token_accuracy": correct / tokens,
            "val_bleu": self._bleu() if due else None,
        }

    def value(self, record: CaptionEpoch) -> float | None:
        return metric_value(self.params.best_metric, record)

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
        shares = [Share.of(batch, process, processes) for batch in batches]
        for share, (batch,) in zip(shares, self.val.read(shares), strict=True):
            loss, correct = self.module(*batch.arguments())
            if share.counted:
                totals.add(loss, correct, len(batch.tokens.labels))
        return totals

    @torch.no_grad()
    def _bleu(self) -> float:
        """Mean BLEU of greedy captions of some validation images, the same ones every time.

        Every process writes all of them: under FSDP they take each step together.
        """
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
        references = [self.val_captions[row] for row in rows.tolist()]
        score = float(sentence_bleu(captions, references, "none").mean())
        # One opinion for all, or they might disagree on when to stop.
        agreed: Any = self.accelerator.reduce(
            torch.tensor(score, dtype=torch.float64, device=self.accelerator.device), "mean"
        )
        return float(agreed)

    def state(self) -> dict[str, Any]:
        return {
            # The order of an epoch's batches follows from where it began.
            "order": self.order if self.epoch_steps else self.generator.get_state(),
            "learning_rate": self.learning_rate,
            "scaler": self.scaler.state_dict(),
            "totals": self.totals.sums.cpu(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["order"])
        self.learning_rate = state["learning_rate"]
        self.scaler.load_state_dict(state["scaler"])
        self.totals.sums.copy_(state["totals"])


def _draws_numbers(captioner: Captioner) -> bool:
    """Whether the language model drops anything while it trains, but for what an adapter drops."""
    language_model: Any = captioner.model.language_model
    return any(
        isinstance(value, float) and value > 0
        for module in language_model.modules()
        if not isinstance(module, FewBitsDropout)
        for name, value in vars(module).items()
        if "drop" in name or (name == "p" and isinstance(module, nn.Dropout))
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
    pairs: Sequence[Pair],
    words: Mapping[str, Sequence[str]],
    seed: int,
    adapter: Path,
    curve: Path,
    val_inputs: ImageInputs | None = None,
    accelerator: Accelerator | None = None,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Train an adapter and write the best, by ``params.best_metric``, and the last one.

    Args:
        captioner: the untrained model; its language model is adapted in place.
        inputs: the images of ``train``, cached or not; those of ``val`` too without ``val_inputs``.
        train: what to learn.
        val: what the best epoch is chosen on.
        params: hyper-parameters. A step has ``gradient_accumulation`` batches of ``batch_size``
            images over all processes; its loss is the mean over all their labelled tokens.
        pairs: those that captions may name, and
        words: those of each attribute group: the grammar of captions, which lies by the adapter;
            of titles there is none.
        seed: of the adapter, the order of the batches, and dropout.
        adapter: folder to write, in PEFT's layout; :data:`LAST` inside it holds the last epoch's.
        curve: folder of the curve (:func:`write_curve`), a step an epoch.
        val_inputs: where validation images are read, if those of ``inputs`` are augmented.
        accelerator: the processes that train together; by default this one alone.
        checkpoints: where to go on from and what to write on the way; by default nothing.

    Returns:
        Parameter counts, min, max and mean of the epochs' losses, epochs and steps run, the best
        epoch; ``warnings`` where nothing was learnt. Only the main process has written files.

    Raises:
        TrainingError: there is nothing to train or validate on, the language model has too few
            positions for a caption, or a loss is not finite.
        ValueError: a caption is too long, the adapter would train what comes before the cached
            features, or a pair or word cannot stand in a caption.
        CheckpointError: the checkpoint to go on from is damaged.
    """
    for name, images in (("training", train), ("validation", val)):
        if not images.image_ids:
            raise TrainingError(
                f"No {name} images to fine-tune with: bring more products, or change "
                "split.fractions."
            )
    accelerator = accelerator or join_processes(captioner.device)
    if params.precision == "float16" and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "finetune.precision float16 scales gradients, which FSDP spreads over processes: "
            "set it to bfloat16."
        )
    alone = objects_alone(attribute for attribute, _ in pairs)
    grammar = PromptTemplate(list(words), objects_alone=alone).alternatives(pairs, words)
    seed_everything(seed)
    train_tokens = tokenize_repeated(captioner, train.captions, params.max_tokens)
    val_tokens = tokenize_repeated(captioner, val.captions, params.max_tokens)
    longest = max(int(tokens.lengths.max()) for tokens in (train_tokens, val_tokens))
    require_room(captioner, longest, params)
    train_batches = CaptionBatches(captioner, inputs, train, train_tokens)
    val_batches = CaptionBatches(captioner, val_inputs or inputs, val, val_tokens)
    cached = train_batches.images(torch.tensor([0])).ndim == 3
    adapted = add_adapter(captioner, params.lora, cached=cached).to(captioner.device)
    parameters = count_parameters(captioner, adapted)
    with _prepare_language_model(captioner, params):
        run = _CaptionRun(
            captioner,
            adapted,
            train_batches,
            val_batches,
            val.captions,
            params,
            seed=seed,
            accelerator=accelerator,
            checkpoints=checkpoints or Checkpoints(None, 0),
        )
        run.run(curve)
        last = run.trained()
    if accelerator.is_main_process:
        with atomic_directory(adapter) as directory:
            save_adapter(adapted, run.best, directory)
            save_adapter(adapted, last, directory / LAST)
            if params.target == "enhanced":  # titles follow no grammar
                write_grammar(grammar, directory)
    accelerator.wait_for_everyone()
    metrics = {
        "mode": params.mode,
        **({"target": params.target} if params.target == "title" else {}),
        "parameters": parameters,
        "trainable_percent": 100 * parameters["trainable"] / parameters["total"],
        **summarise(run.records, params.best_metric, run.best_epoch),
        "steps": run.steps,
        "train_images": len(train_tokens),
        "val_images": len(val_tokens),
    }
    if said := nothing_learnt(run.learnt_nothing(), metrics["val_token_accuracy"]):
        log.warning("%s", said)
        metrics["warnings"] = [said]
    return Outcome(metrics, run.images)
