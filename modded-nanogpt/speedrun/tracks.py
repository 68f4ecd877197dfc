"""Tracks: every number of a training recipe, its model, optimizers, schedule and data.

- A track is a value; nothing outside this file knows a recipe's literal numbers.
- `small` is the modded-nanogpt record of 2026-01-04 (GPT-2 124M scale, validation loss 3.28), `medium` that of
  2025-12-31 (GPT-2 350M scale, 2.92); `tiny` is the algorithm of `small` at a CPU's size.
"""

import importlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and the role of every layer."""

    vocab_size: int
    """Rows of every token table, padding included; padding rows are ordinary classes of the softmax."""
    num_layers: int
    num_heads: int
    head_dim: int
    """A multiple of 4: half of the dimensions rotate, in pairs, the others stand still."""
    gate_dim: int = 12
    """Leading dimensions of the stream that the gates read."""
    gate_banks: bool = True
    """Attention and value gates of all layers in two banks; False: each layer has its own matrix."""
    attention_free_layers: tuple[int, ...] = ()
    long_window_layers: tuple[int, ...]
    """Layers with the long attention window and the partial key offset; all others use the short window."""
    value_embed_of_layer: tuple[tuple[int, int], ...]
    """(layer, value table) pairs in layer order; their ordinal is that of the value gate."""
    num_value_embeds: int
    skips: tuple[tuple[int, int], ...]
    """(source, target): the output of block `source` is added to the input of layer `target`."""
    backout_layer: int
    """The block whose output is partly subtracted before the head."""
    second_embedding: bool = False
    """A second token table, without smear, is mixed into the input of every layer in addition to the first."""
    float32_matrices: bool = False
    """Attention and MLP matrices in at least float32 whatever the model's dtype, to which each pass casts them."""
    residual_init: float = 1.1
    rope_base: float = 1024.0
    window_block: int
    """Tokens in one block of the window schedule."""

    def __post_init__(self) -> None:
        if self.head_dim % 4:
            raise ValueError(f"head_dim is {self.head_dim}; half-truncated rotary tables need a multiple of 4")
        if self.gate_dim > self.model_dim:
            raise ValueError(f"gate_dim is {self.gate_dim} but the model is only {self.model_dim} wide")
        roles = {
            "attention_free_layers": self.attention_free_layers,
            "long_window_layers": self.long_window_layers,
            "value_embed_of_layer": tuple(layer for layer, _ in self.value_embed_of_layer),
            "skips": tuple(layer for skip in self.skips for layer in skip),
            "backout_layer": (self.backout_layer,),
        }
        for role, layers in roles.items():
            for layer in layers:
                if not 0 <= layer < self.num_layers:
                    raise ValueError(f"{role} names layer {layer}; this model has layers 0 to {self.num_layers - 1}")
        for layer in (*roles["long_window_layers"], *roles["value_embed_of_layer"]):
            if layer in self.attention_free_layers:
                raise ValueError(f"layer {layer} has no attention and cannot have a window or value embedding")
        for source, target in self.skips:
            if source >= target:
                raise ValueError(f"skip {source} -> {target} runs backwards; the source must be an earlier layer")
        for layer, table in self.value_embed_of_layer:
            if not 0 <= table < self.num_value_embeds:
                raise ValueError(f"layer {layer} asks for value table {table} of {self.num_value_embeds}")

    @property
    def model_dim(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """Layers with attention; their ordinal is that of the attention gate."""
        return tuple(i for i in range(self.num_layers) if i not in self.attention_free_layers)

    @property
    def num_scalars(self) -> int:
        """Residual multipliers, (QKV, O) multiplier pairs, smear, backout, one per skip: 36 in `small`, 53 in
        `medium`."""
        return 3 * self.num_layers + 2 + len(self.skips)


@dataclass(frozen=True, kw_only=True)
class MatrixGroup:
    """Multipliers of the NorMuon parameters that carry `label`."""

    label: str
    lr_mul: float = 1.0
    wd_mul: float = 1.0


@dataclass(frozen=True, kw_only=True)
class AdamGroup:
    """Multipliers and moment decays of the Adam parameters that carry `label`."""

    label: str
    lr_mul: float = 1.0
    wd_mul: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Base rates at schedule multiplier 1, and one group per label; every label is in exactly one group."""

    state: Literal["float32", "parameter"] = "float32"
    """Precision of moments and momentum. float32: at least that, and bfloat16 matrices have a float32 master;
    parameter: that of the parameter, which is rounded to nearest at every update."""
    normuon_lr: float = 0.023
    normuon_weight_decay: float = 1.2
    normuon_beta2: float = 0.95
    normuon_groups: tuple[MatrixGroup, ...] = (
        MatrixGroup(label="attn"),
        MatrixGroup(label="c_fc"),
        MatrixGroup(label="c_proj", lr_mul=2.0),
    )
    polar_dtype: Literal["bfloat16", "float32", "float64"] = "bfloat16"
    """Precision of the Polar Express iteration."""
    adam_lr: float = 0.008
    adam_eps: float = 1e-10
    adam_weight_decay: float = 0.005
    adam_groups: tuple[AdamGroup, ...] = (
        AdamGroup(label="lm_head", wd_mul=150.0, betas=(0.5, 0.95)),
        AdamGroup(label="smear_gate", lr_mul=0.01, wd_mul=0.0),
        AdamGroup(label="attn_gate_bank"),
        AdamGroup(label="ve_gate_bank"),
        AdamGroup(label="skip_gate", lr_mul=0.05, wd_mul=0.0),
        AdamGroup(label="x0_lambdas", lr_mul=5.0, wd_mul=0.0, betas=(0.65, 0.95)),
        AdamGroup(label="scalars", lr_mul=5.0, wd_mul=0.0),
        AdamGroup(label="embed", wd_mul=150.0, betas=(0.5, 0.95)),
        AdamGroup(label="value_embed", lr_mul=75.0, wd_mul=5.0, betas=(0.75, 0.95)),
    )
    """In the order in which Adam visits them."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What changes with the step s; fractions are of `scheduled_steps`."""

    scheduled_steps: int
    extension_steps: int
    """Steps after the schedule, with the widest training window, the last batch size and the lowest rate."""
    batch_tokens: tuple[int, ...]
    """Tokens per step over all ranks, one value for each equal share of the scheduled steps."""
    long_window_blocks: tuple[int, ...]
    """Long attention window, one value for each equal share of the scheduled steps; the short one is half of it."""
    yarn_until_blocks: int = 13
    """Rotary tables and attention scale follow the long window up to this one."""
    extension_window_blocks: int
    final_validation_window_blocks: int
    """Long window of the last validation only; rotary tables and attention scale stay."""
    lr_peaks: tuple[float, ...]
    """Rate multiplier before the cooldown, by window stage: peak k holds once s is past stage k's start."""
    lr_cooldown: float = 0.5
    """Fraction of the scheduled steps over which the multiplier falls to `lr_floor`."""
    lr_floor: float = 0.1
    momentum: tuple[float, float] = (0.85, 0.95)
    """At the first and last step, and in between."""
    momentum_warmup_steps: int
    momentum_cooldown_steps: int
    """Up to the very last step."""
    mtp_steps: int
    """Multi-token prediction: three targets in the first third of these steps, then two, then one."""
    untie_fraction: float
    """The input embedding leaves the head after about this fraction; see `untie_step`."""

    def __post_init__(self) -> None:
        if len(self.lr_peaks) > len(self.long_window_blocks):
            raise ValueError(f"{len(self.lr_peaks)} lr peaks need as many window stages, not {self.long_window_blocks}")
        if not self.untie_step < self.last_step:
            raise ValueError(f"untie_fraction {self.untie_fraction} unties after the last of {self.last_step} steps")

    @property
    def last_step(self) -> int:
        """Number of updates; steps 0 (nothing trained) to this one (all done) can be asked for."""
        return self.scheduled_steps + self.extension_steps

    @property
    def untie_step(self) -> int:
        """The odd step (Adam steps on odd ones) after whose update `embed` starts as a copy of the head."""
        # Rounded first: a fraction such as 2/3 may land a rounding error above the integer that is meant.
        exact = round(self.untie_fraction * self.scheduled_steps, 6)
        return -int(-exact // 1) | 1


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where tokens come from and how they are dealt out."""

    train_glob: str
    val_glob: str
    """Both relative to the data root."""
    num_slots: int
    """Micro-batches of one step over all ranks; the world size divides it."""
    max_document_tokens: int
    """Training documents are cut at this length; also the longest document that can be scored."""
    val_tokens: int
    val_chunk_tokens: int
    """Tokens of the validation stream that one forward pass takes."""
    made_on_first_use: bool = False
    """The shards are the tiny corpus, which code makes where they are missing (tiny_corpus.py)."""
    vocabulary: str | None = None
    """File in the tokenizer's folder that maps GPT-2 ids to table rows; None: the id is the row."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One complete recipe."""

    name: str
    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    data: DataConfig
    dtype: Literal["bfloat16", "float32"]
    """Of weights and activations; the few scalar parameters are float32 always."""
    needs_gpu: bool = True
    fp8_head: bool = True
    """Training may use 8-bit products in the head; False: never."""
    validate_every: int
    """Steps between validations of the trainer's own loop; the last step is always validated."""

    def __post_init__(self) -> None:
        for tokens in self.schedule.batch_tokens:
            if tokens % (16 * self.data.num_slots):
                raise ValueError(
                    f"batch of {tokens} tokens is not {self.data.num_slots} slots of a multiple of 16 tokens"
                )
        if self.data.val_tokens % (self.data.val_chunk_tokens * self.data.num_slots):
            raise ValueError(
                f"val_tokens {self.data.val_tokens} is not a multiple of {self.data.num_slots} chunks "
                f"of {self.data.val_chunk_tokens} tokens"
            )


tiny = Track(
    name="tiny",
    model=ModelConfig(
        vocab_size=3072,  # the vocabulary of the tiny corpus exactly: 3,070 ids, BOS, all others
        num_layers=6,
        num_heads=2,
        head_dim=32,
        attention_free_layers=(3,),
        long_window_layers=(2, 5),
        value_embed_of_layer=((0, 1), (4, 0), (5, 1)),
        num_value_embeds=2,
        skips=((1, 3),),
        backout_layer=3,
        window_block=16,
    ),
    optimizer=OptimizerConfig(normuon_lr=0.046, adam_lr=0.016, polar_dtype="float32"),
    schedule=ScheduleConfig(
        scheduled_steps=342,
        extension_steps=18,
        batch_tokens=(256, 512, 768),  # 2 slots of 128, 256, 384; 188928 tokens in all
        long_window_blocks=(3, 7, 11),
        extension_window_blocks=13,
        final_validation_window_blocks=20,
        lr_peaks=(1.0, 1.52, 1.73),
        momentum_warmup_steps=60,
        momentum_cooldown_steps=20,
        mtp_steps=342,
        untie_fraction=2 / 3,
    ),
    data=DataConfig(
        train_glob="data/tiny/tiny_train_*.bin",
        val_glob="data/tiny/tiny_val_*.bin",
        num_slots=2,
        max_document_tokens=512,
        val_tokens=8192,
        val_chunk_tokens=2048,
        made_on_first_use=True,
        vocabulary="tiny_vocabulary.txt",
    ),
    dtype="float32",
    needs_gpu=False,
    validate_every=60,
)

small = Track(
    name="small",
    model=ModelConfig(
        vocab_size=50304,  # 50257 GPT-2 ids, rounded up to a multiple of 128
        num_layers=11,
        num_heads=6,
        head_dim=128,
        attention_free_layers=(6,),
        long_window_layers=(3, 10),
        value_embed_of_layer=((0, 1), (1, 2), (8, 0), (9, 1), (10, 2)),
        num_value_embeds=3,
        skips=((3, 6),),
        backout_layer=7,
        window_block=128,
    ),
    optimizer=OptimizerConfig(),
    schedule=ScheduleConfig(
        scheduled_steps=1800,
        extension_steps=40,
        batch_tokens=(131072, 262144, 393216),  # 8 slots of 16384, 32768, 49152
        long_window_blocks=(3, 7, 11),
        extension_window_blocks=13,
        final_validation_window_blocks=20,
        lr_peaks=(1.0, 1.52, 1.73),
        momentum_warmup_steps=300,
        momentum_cooldown_steps=50,
        mtp_steps=1800,
        untie_fraction=2 / 3,
    ),
    data=DataConfig(
        train_glob="data/fineweb10B/fineweb_train_*.bin",
        val_glob="data/fineweb10B/fineweb_val_*.bin",
        num_slots=8,
        max_document_tokens=2048,
        val_tokens=10485760,  # 40 chunks
        val_chunk_tokens=262144,
    ),
    dtype="bfloat16",
    validate_every=250,
)

medium = Track(
    name="medium",
    model=ModelConfig(
        vocab_size=50304,
        num_layers=16,
        num_heads=8,
        head_dim=128,
        gate_dim=16,
        gate_banks=False,
        long_window_layers=(0, 4, 11, 15),
        value_embed_of_layer=((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (11, 0), (12, 1), (13, 2), (14, 3), (15, 4)),
        num_value_embeds=5,
        skips=((6, 9), (4, 10), (2, 11)),  # last in, first out
        backout_layer=11,
        second_embedding=True,
        float32_matrices=True,
        residual_init=1.05,
        window_block=128,
    ),
    optimizer=OptimizerConfig(
        state="parameter",
        normuon_lr=0.015,
        normuon_groups=(
            MatrixGroup(label="attn_gate", lr_mul=0.1),
            MatrixGroup(label="value_embed_gate", lr_mul=0.1),
            MatrixGroup(label="attn"),
            MatrixGroup(label="c_fc"),
            MatrixGroup(label="c_proj", lr_mul=2.0),
        ),
        adam_lr=0.004,
        adam_eps=1e-8,
        adam_groups=(
            AdamGroup(label="lm_head", wd_mul=150.0, betas=(0.8, 0.95)),
            AdamGroup(label="value_embed", lr_mul=75.0, wd_mul=5.0, betas=(0.8, 0.95)),
            AdamGroup(label="smear_gate", lr_mul=0.01, wd_mul=0.0, betas=(0.8, 0.95)),
            AdamGroup(label="skip_gate", lr_mul=0.01, wd_mul=0.0, betas=(0.8, 0.95)),
            AdamGroup(label="x0_lambdas", lr_mul=5.0, wd_mul=0.0, betas=(0.8, 0.95)),
            AdamGroup(label="scalars", lr_mul=10.0, wd_mul=0.0),  # 5 times a base rate of its own, 0.008
            AdamGroup(label="embed2", lr_mul=75.0, wd_mul=5.0, betas=(0.8, 0.95)),
            AdamGroup(label="embed", wd_mul=150.0, betas=(0.8, 0.95)),
        ),
    ),
    schedule=ScheduleConfig(
        scheduled_steps=4700,
        extension_steps=40,
        batch_tokens=(131072, 262144, 393216, *[524288] * 9),  # 8 slots of 16384 to 65536; 2176974848 tokens in all
        long_window_blocks=(3, 7, 11, 13, 15, 17, 19, 21, 23, 23, 23, 23),
        extension_window_blocks=23,
        final_validation_window_blocks=27,
        lr_peaks=(1.0, 1.52, 1.73, 2.0),
        lr_cooldown=0.7,
        momentum_warmup_steps=300,
        momentum_cooldown_steps=50,
        mtp_steps=1175,
        untie_fraction=1 / 6,
    ),
    data=replace(small.data, max_document_tokens=4096),
    dtype="bfloat16",
    fp8_head=False,
    validate_every=250,
)


def track(name: str) -> Track:
    """The track of that name, or a track of your own: "package.module:name", of a module on Python's path or in the
    current folder. Raises ValueError if there is no such track."""
    known = {value.name: value for value in (tiny, small, medium)}
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"no track is named {name!r}; use {', '.join(known)}, or your own as package.module:name")
    # Some programs are started with the current folder on the path, and some without. Last, so that it hides nothing.
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    try:
        value = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"track {name!r}: {error}; use package.module:name of a module in {Path.cwd()} or on PYTHONPATH"
        ) from None
    if not isinstance(value, Track):
        raise ValueError(f"track {name!r} is a {type(value).__name__}, not a speedrun.tracks.Track")
    return value
