"""The network of the modded-nanogpt records (SPEEDRUN 1 and 11): packed tokens to a loss, summed or of every token.

- Layer roles come from the configuration; parameter names are those of the records' state dicts.
- All parameters of a dtype lie in one buffer, so a checkpoint is a few copies.
- The graph knows no schedule: what a step changes comes as tensors, in a `Stage`.

Shape legend: T packed tokens, D model width, H heads, d head width, V rows of a token table, B documents.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedrun.execution import Execution
from speedrun.model.attention import attention
from speedrun.model.head import head_loss, token_losses
from speedrun.model.lookup import lookup
from speedrun.schedules import ForwardState
from speedrun.tracks import ModelConfig

ALIGNMENT = 64  # elements; keeps every parameter on a 128-byte boundary in bfloat16
FLOAT32_PARAMETERS = ("x0_lambdas", "scalars")
MATRICES = ("qkvo_w", "c_fc", "c_proj")


@dataclass(frozen=True)
class PackedTokens:
    """Documents one after another on one axis of T tokens.

    Reference packing lets smear, key offset and positions run across document borders, as in training, where
    they restart at each slot only; isolated packing restarts all three at each document, whose losses then do
    not depend on its neighbours.
    """

    ids: Tensor
    """(T,) int: rows of the token tables."""
    targets: Tensor
    """(T, n) int64: column k is the token k + 1 places on; -1 where there is none."""
    positions: Tensor
    """(T,) int: rows of the rotary tables."""
    starts: Tensor
    """(T,) bool: True where smear and key offset restart; always at index 0."""
    cu_seqlens: Tensor
    """(B+1,) int32: document borders from 0 to T; equal neighbours are empty documents."""
    max_seqlen: Tensor
    """() int64 on the CPU: no document is longer."""
    order: Tensor | None = None
    """(T,) int64: sorts `ids`, stable; only training needs it (lookup.py)."""


@dataclass(frozen=True)
class Stage:
    """A ForwardState as tensors, so that one compiled graph serves every step; of `GPT.stage`.

    What only the attention operator reads lies on the CPU, where reading it waits for nothing.
    """

    cos: Tensor
    sin: Tensor
    """(positions, d/2) rotary tables in the model's dtype."""
    short_window: Tensor
    long_window: Tensor
    """() int64 on the CPU: tokens before the query."""
    attention_scale: Tensor
    """(1,) float64 on the CPU; of shape () torch.compile takes it for a Python number and traces everything twice."""


@dataclass(frozen=True)
class Slot:
    """Where a parameter lies in the buffer of its dtype; offset and numel count elements."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    read_dtype: str
    """What the forward pass casts it to: all that a checkpoint needs."""
    offset: int
    numel: int


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.num_heads, self.head_dim, self.gate_dim = config.num_heads, config.head_dim, config.gate_dim
        # Rows: queries, keys, values, output, each D of them.
        self.qkvo_w = nn.Parameter(torch.empty(4 * config.model_dim, config.model_dim))
        if not config.gate_banks:
            self.attn_gate = nn.Parameter(torch.empty(config.num_heads, config.gate_dim))
            if layer in dict(config.value_embed_of_layer):
                self.value_embed_gate = nn.Parameter(torch.empty(config.num_heads, config.gate_dim))

    def forward(
        self,
        h: Tensor,
        packed: PackedTokens,
        *,
        qkv_lambda: Tensor,
        o_lambda: Tensor,
        gate: Tensor,
        value_gate: Tensor | None,
        value_embed: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        moves: Tensor | None,
        window: Tensor,
        scale: Tensor,
        execution: Execution,
    ) -> Tensor:
        """h: (T, D), the normalised stream. Returns (T, D).

        gate, value_gate: (H, gate_dim). value_embed: (T, D) or None. rotation: see `rotate`. moves: (T, 1, d)
        bool, where a key takes over the previous token's; None: nowhere.
        """
        # Queries, keys and values of each head; the matrix has a learned multiplier.
        width = h.shape[1]
        qkv_w, o_w = self.qkvo_w.to(h.dtype).split([3 * width, width])
        qkv = F.linear(h, qkv_lambda * qkv_w).view(-1, 3 * self.num_heads, self.head_dim)
        qk, v = qkv.split([2 * self.num_heads, self.num_heads], dim=1)
        # Normalised first, then rotated: RoPE (Su et al. 2021, arXiv 2104.09864) on half of the dimensions.
        q, k = rotate(rms_norm(qk), *rotation).chunk(2, dim=1)
        # Partial key offset (record #169), in layers with the long window: the dimensions that do not rotate come from
        # the previous token's key.
        if moves is not None:
            k = torch.where(moves, k.roll(1, 0), k)
        # Value embeddings (after Zhou et al. 2024, arXiv 2410.17897): a table's row joins the values, with a gate per
        # token and head, which is 1 at the start (record #186).
        gate_input = h[:, : self.gate_dim]
        if value_embed is not None:
            assert value_gate is not None
            amount = 2 * torch.sigmoid(F.linear(gate_input, value_gate))
            v = v + amount.unsqueeze(-1) * value_embed.view_as(v)
        # Causal, within each document and the window of `window` + 1 keys. The scale follows YaRN (schedules.widen).
        cu_seqlens, max_seqlen = packed.cu_seqlens, packed.max_seqlen
        how = execution.attention, execution.deterministic
        y = attention(q, k, v, cu_seqlens, max_seqlen, window, scale, *how)
        # Attention gate (record #117): one number per token and head, 0.5 at the start.
        y = y * torch.sigmoid(F.linear(gate_input, gate)).unsqueeze(-1)
        return F.linear(y.flatten(1), o_lambda * o_w)


class MLP(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        # Both stored (4D, D): NorMuon's row statistics are per hidden unit in each.
        self.c_fc = nn.Parameter(torch.empty(4 * config.model_dim, config.model_dim))
        self.c_proj = nn.Parameter(torch.empty(4 * config.model_dim, config.model_dim))

    def forward(self, x: Tensor) -> Tensor:
        # Squared ReLU (So et al. 2021, arXiv 2109.08668).
        return F.linear(x, self.c_fc.to(x.dtype)).relu().square() @ self.c_proj.to(x.dtype)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        if layer in config.attention_layers:
            self.attn = Attention(config, layer)
        self.mlp = MLP(config)


class Weight(nn.Module):
    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class GPT(nn.Module):
    """The network, its parameters laid out in one contiguous buffer per dtype.

    dtype: of the weights and activations; `scalars`, `x0_lambdas` and, where the configuration asks for it, the
    matrices are float32 even if the weights are bfloat16. `layout` and `buffers_by_dtype` are in canonical order: the
    scalar parameters first, `embed.weight` last, so that a checkpoint of a tied model is a prefix. Weights are zero
    until `set_weights`.

    Tokens are always looked up in `embed`. While it is tied to the head it holds a copy (`tie`), which costs one copy
    per update and saves a second graph: training graphs know no schedule.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        execution: Execution | None = None,
    ):
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.execution = (execution or Execution()).on(device, dtype)
        with torch.device("meta"):
            table = (config.vocab_size, config.model_dim)
            self.lm_head = Weight(*table)
            self.smear_gate = Weight(1, config.gate_dim)
            if config.gate_banks:
                gate = (config.num_heads, config.gate_dim)
                self.attn_gate_bank = nn.Parameter(torch.empty(len(config.attention_layers), *gate))
                self.ve_gate_bank = nn.Parameter(torch.empty(len(config.value_embed_of_layer), *gate))
            self.skip_gate = Weight(len(config.skips), config.gate_dim)
            # Layer by layer: one for the embedding and, where there is one, one for the second.
            self.x0_lambdas = nn.Parameter(torch.empty(config.num_layers * (1 + config.second_embedding)))
            self.scalars = nn.Parameter(torch.empty(config.num_scalars))
            value_embeds = nn.ModuleList(Weight(*table) for _ in range(config.num_value_embeds))
            self.value_embeds: Iterable[Weight] = value_embeds  # type: ignore[assignment]
            blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
            self.blocks: Iterable[Block] = blocks  # type: ignore[assignment]
            if config.second_embedding:
                self.embed2 = Weight(*table)
            self.embed = Weight(*table)
        self.layout, self.buffers_by_dtype = self._allocate(torch.device(device))
        self.gate_of_layer = {layer: i for i, layer in enumerate(config.attention_layers)}
        self.value_of_layer = {layer: (i, j) for i, (layer, j) in enumerate(config.value_embed_of_layer)}
        self.skip_of_layer = {target: (i, source) for i, (source, target) in enumerate(config.skips)}
        self.kept_layers = {config.backout_layer, *(source for source, _ in config.skips)}
        rotating = torch.zeros(2, 2, config.head_dim // 4, dtype=torch.bool)
        rotating[:, 0] = True  # dims [0, d/4) and [d/2, 3d/4) rotate, the ranges after each stand still
        self.rotating_dims = rotating.flatten().to(device)

    def _allocate(self, device: torch.device) -> tuple[tuple[Slot, ...], dict[str, Tensor]]:
        """Replace every parameter by a view of its dtype's buffer; returns layout and zeroed buffers."""
        parameters = dict(self.named_parameters())
        wide = torch.promote_types(self.dtype, torch.float32)
        order = sorted(parameters, key=lambda name: (name not in FLOAT32_PARAMETERS, name == "embed.weight"))
        slots, ends = [], {wide: 0, self.dtype: 0}
        for name in order:
            is_wide_matrix = self.config.float32_matrices and name.endswith(MATRICES)
            read_dtype = wide if name in FLOAT32_PARAMETERS else self.dtype
            dtype = wide if is_wide_matrix else read_dtype
            shape, numel = tuple(parameters[name].shape), parameters[name].numel()
            slots.append(Slot(name, shape, _dtype_name(dtype), _dtype_name(read_dtype), ends[dtype], numel))
            ends[dtype] += -(-numel // ALIGNMENT) * ALIGNMENT
        buffers = {_dtype_name(dtype): torch.zeros(n, dtype=dtype, device=device) for dtype, n in ends.items()}
        for slot in slots:
            view = buffers[slot.dtype][slot.offset : slot.offset + slot.numel].view(slot.shape)
            parameter = nn.Parameter(view)
            parameter.label = optimizer_label(slot.name)  # type: ignore[attr-defined]
            owner, _, leaf = slot.name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, parameter)
        return tuple(slots), buffers

    @torch.no_grad()
    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Start from these (initial_weights.draw_weights), zero elsewhere, tied; in place."""
        for buffer in self.buffers_by_dtype.values():
            buffer.zero_()
        for name, values in weights.items():
            self.get_parameter(name)[: len(values)].copy_(values, non_blocking=True)
        self.tie()

    @torch.no_grad()
    def tie(self) -> None:
        """Copy the head into the lookup table."""
        self.embed.weight.copy_(self.lm_head.weight)

    def state_dict_reference(self, world_size: int) -> dict[str, Tensor]:
        """State dict as the record's trainer has it: `scalars` padded by ones to a multiple of W."""
        state = {slot.name: self.get_parameter(slot.name).detach() for slot in self.layout}
        state["scalars"] = F.pad(state["scalars"], (0, -self.config.num_scalars % world_size), value=1.0)
        return state

    def stage(self, state: ForwardState, num_positions: int) -> Stage:
        """Tensors of a schedule state for sequences whose positions are below `num_positions`.

        Half-truncated RoPE (arXiv 2104.09864): the second half of the frequencies is zero, those dimensions
        stand still.
        """
        angle_dtype = torch.promote_types(self.dtype, torch.float32)
        device = self.scalars.device
        frequencies = F.pad(torch.tensor(state.frequencies, dtype=angle_dtype), (0, len(state.frequencies)))
        if device.type == "cuda":  # from pinned memory, so that a new stage waits for nothing
            frequencies = frequencies.pin_memory().to(device, non_blocking=True)
        angles = torch.arange(num_positions, dtype=angle_dtype, device=device).outer(frequencies.to(device))
        return Stage(
            cos=angles.cos().to(self.dtype),
            sin=angles.sin().to(self.dtype),
            short_window=torch.tensor(state.short_window),
            long_window=torch.tensor(state.long_window),
            attention_scale=torch.tensor([state.attention_scale], dtype=torch.float64),
        )

    def forward(self, packed: PackedTokens, stage: Stage, mtp_weights: Tensor) -> Tensor:
        """Training loss, 0-dim, at least float32: a sum over tokens and weighted targets.

        mtp_weights: (n,), the weight of each column of `packed.targets` (multi-token prediction, arXiv
        2404.19737); targets cross document borders.
        """
        hidden = self.hidden(packed, stage)
        return head_loss(hidden, self.lm_head.weight, packed.targets, mtp_weights, self.execution.fp8_head)

    @torch.no_grad()
    def token_losses(self, packed: PackedTokens, stage: Stage, slice_tokens: int = 2048) -> Tensor:
        """Cross-entropy in nats of the first target, (T,) float32 (float64 of a float64 model).

        The head sees `slice_tokens` tokens at a time, to bound the memory of its logits.
        """
        hidden = self.hidden(packed, stage, wide_stream=True)
        return token_losses(hidden, self.lm_head.weight, packed.targets[:, 0], slice_tokens)

    def hidden(self, packed: PackedTokens, stage: Stage, wide_stream: bool = False) -> Tensor:
        """(T, D): what the head reads, in the model's dtype.

        wide_stream: the residual stream is at least float32 between the layers, as in scoring. In bfloat16, as in
        training, its sums make most of the distance between a score and that of the same weights in float32.
        """
        config, scalars, x0_lambdas = self.config, self.scalars.unbind(), self.x0_lambdas.unbind()
        smear, backout, *skip_lambdas = scalars[3 * config.num_layers :]
        attn_gates, ve_gates = self.gates()

        # Rotary tables of this stage, at the positions of the tokens. `moves`: where a key takes over the previous
        # token's dimensions, those that do not rotate.
        cos, sin = (table[packed.positions].unsqueeze(1) for table in (stage.cos, stage.sin))
        rotation = torch.cat([cos, cos], -1), torch.cat([sin, -sin], -1)
        moves = ~packed.starts.view(-1, 1, 1) & ~self.rotating_dims

        # Token embedding, and one value embedding per table.
        stream = torch.promote_types(self.dtype, torch.float32) if wide_stream else self.dtype
        e = lookup(self.embed.weight, packed.ids, packed.order).to(stream)
        values = [lookup(embed.weight, packed.ids, packed.order) for embed in self.value_embeds]
        # Smear (record #130): each embedding takes some of the one before it, except where a sequence starts.
        gate = smear * torch.sigmoid(F.linear(e[:, : config.gate_dim], self.smear_gate.weight.to(stream)))
        e = e + gate.masked_fill(packed.starts.unsqueeze(1), 0) * e.roll(1, 0)
        x = x0 = rms_norm(e)
        starts = [x0]
        if config.second_embedding:
            starts.append(rms_norm(lookup(self.embed2.weight, packed.ids, packed.order).to(stream)))

        outputs: dict[int, Tensor] = {}
        for layer, block in enumerate(self.blocks):
            # U-net skips: the output of an earlier block, with a learned weight and a gate per token (record #186).
            if layer in self.skip_of_layer:
                i, source = self.skip_of_layer[layer]
                gate_w = self.skip_gate.weight[i : i + 1].to(stream)
                gate = 2 * torch.sigmoid(F.linear(x0[:, : config.gate_dim], gate_w))
                x = x + torch.sigmoid(skip_lambdas[i]) * gate * outputs[source]
            # Residual stream with learned multipliers, into which every layer mixes the embeddings once more.
            x = scalars[layer] * x
            for j, start in enumerate(starts):
                x = x + x0_lambdas[len(starts) * layer + j] * start
            # Attention, in most layers; MLP, in every layer.
            if layer in self.gate_of_layer:
                long = layer in config.long_window_layers
                ordinal, table = self.value_of_layer.get(layer, (None, None))
                x = x + block.attn(
                    rms_norm(x).to(self.dtype),
                    packed,
                    qkv_lambda=scalars[config.num_layers + 2 * layer],
                    o_lambda=scalars[config.num_layers + 2 * layer + 1],
                    gate=attn_gates[self.gate_of_layer[layer]],
                    value_gate=None if ordinal is None else ve_gates[ordinal],
                    value_embed=None if table is None else values[table],
                    rotation=rotation,
                    moves=moves if long else None,
                    window=stage.long_window if long else stage.short_window,
                    scale=stage.attention_scale,
                    execution=self.execution,
                )
            x = x + block.mlp(rms_norm(x).to(self.dtype))
            if layer in self.kept_layers:
                outputs[layer] = x
        # Backout (record #140): a share of an earlier block's output is taken away again before the head. The head's
        # softcap is in kernels/softcap.py.
        return rms_norm(x - backout * outputs[config.backout_layer]).to(self.dtype)

    def gates(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """(H, gate_dim) each: of the layers with attention, of those with a value embedding."""
        if self.config.gate_banks:
            return self.attn_gate_bank.unbind(), self.ve_gate_bank.unbind()
        attentions = [block.attn for block in self.blocks if hasattr(block, "attn")]
        with_values = [attn for attn in attentions if hasattr(attn, "value_embed_gate")]
        return [attn.attn_gate for attn in attentions], [attn.value_embed_gate for attn in with_values]


def rms_norm(x: Tensor) -> Tensor:
    """RMS normalisation of the last axis without gain, in at least float32, returned in the input's dtype."""
    # float32's epsilon also in bfloat16: fresh embeddings are small enough to notice. Literal: torch.compile takes a
    # global float for a variable, and traces the whole model a second time to find that it is none.
    return F.rms_norm(x, x.shape[-1:], eps=2.0**-23)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the dimension pairs (m, m + d/2): x (T, H, d) by cos and signed sin (T, 1, d)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def optimizer_label(name: str) -> str:
    """Parameter name -> the label of its optimizer group, for example `blocks.3.mlp.c_fc` -> `c_fc`."""
    if name.startswith("value_embeds."):
        return "value_embed"
    if name.endswith(".attn.qkvo_w"):
        return "attn"
    return name.removesuffix(".weight").rpartition(".")[2]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
