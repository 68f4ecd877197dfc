"""packed tokens + schedule state -> training loss, or the loss of every token.

Shape legend: T packed tokens, D model width, H heads, d head width, V rows of a token table, B documents.
The network of the modded-nanogpt record of 2026-01-04. Layer roles come from the configuration; parameter
names are those of the record's state dict.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedrun.attention import attention
from speedrun.schedules import ForwardState
from speedrun.tracks import ModelConfig

ALIGNMENT = 64  # elements; keeps every parameter on a 128-byte boundary in bfloat16
RMS_EPS = 2.0**-23  # of float32, also in bfloat16: fresh embeddings are small enough to notice
SMEAR_INIT, BACKOUT_INIT, SKIP_INIT = 0.0, 0.5, -1.5
QKV_INIT, O_INIT = 0.5, 1.0
HEAD_STD = 0.005
SOFTCAP, SOFTCAP_SHIFT, SOFTCAP_WIDTH = 23.0, 5.0, 7.5  # logits = 23 sigmoid((z + 5) / 7.5), record #181
FLOAT32_PARAMETERS = ("x0_lambdas", "scalars")


@dataclass(frozen=True)
class PackedTokens:
    """Documents one after another on one axis of T tokens.

    Reference packing lets smear, key offset and positions run across document borders, as in training;
    isolated packing restarts all three at each document, whose losses then do not depend on its neighbours.
    """

    ids: Tensor
    """(T,) int: rows of the token tables."""
    targets: Tensor
    """(T,) int64: the token after each."""
    positions: Tensor
    """(T,) int: rows of the rotary tables."""
    starts: Tensor
    """(T,) bool: True where smear and key offset restart; always at index 0."""
    cu_seqlens: Tensor
    """(B+1,) int32: document borders from 0 to T; equal neighbours are empty documents."""
    max_seqlen: int
    """No document is longer."""


@dataclass(frozen=True)
class Slot:
    """Where a parameter lies in the buffer of its dtype; offset and numel count elements."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    numel: int


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads, self.head_dim, self.gate_dim = config.num_heads, config.head_dim, config.gate_dim
        # Rows: queries, keys, values, output, each D of them.
        self.qkvo_w = nn.Parameter(torch.empty(4 * config.model_dim, config.model_dim))

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
        window: int,
        scale: float,
    ) -> Tensor:
        """h: (T, D), the normalised stream. Returns (T, D).

        gate, value_gate: (H, gate_dim). value_embed: (T, D) or None. rotation: see `rotate`. moves: (T, 1, d)
        bool, where a key takes over the previous token's; None: nowhere.
        """
        width = h.shape[1]
        qkv_w, o_w = self.qkvo_w.split([3 * width, width])
        qkv = F.linear(h, qkv_lambda * qkv_w).view(-1, 3 * self.num_heads, self.head_dim)
        qk, v = qkv.split([2 * self.num_heads, self.num_heads], dim=1)
        q, k = rotate(rms_norm(qk), *rotation).chunk(2, dim=1)
        if moves is not None:
            k = torch.where(moves, k.roll(1, 0), k)
        gate_input = h[:, : self.gate_dim]
        if value_embed is not None:
            assert value_gate is not None
            amount = 2 * torch.sigmoid(F.linear(gate_input, value_gate))
            v = v + amount.unsqueeze(-1) * value_embed.view_as(v)
        y = attention(q, k, v, packed.cu_seqlens, packed.max_seqlen, window, scale)
        y = y * torch.sigmoid(F.linear(gate_input, gate)).unsqueeze(-1)
        return F.linear(y.flatten(1), o_lambda * o_w)


class MLP(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        # Both stored (4D, D): NorMuon's row statistics are per hidden unit in each.
        self.c_fc = nn.Parameter(torch.empty(4 * config.model_dim, config.model_dim))
        self.c_proj = nn.Parameter(torch.empty(4 * config.model_dim, config.model_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.c_fc).relu().square() @ self.c_proj


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        if layer in config.attention_layers:
            self.attn = Attention(config)
        self.mlp = MLP(config)


class Weight(nn.Module):
    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class GPT(nn.Module):
    """The network, its parameters laid out in one contiguous buffer a dtype.

    dtype: of the weights and activations; `scalars` and `x0_lambdas` are float32 beside bfloat16 weights.
    `layout` and `buffers_by_dtype` are in canonical order: the scalar parameters first, `embed.weight` last,
    so that a checkpoint of a tied model is a prefix. Weights are zero until `init_weights`.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu"):
        super().__init__()
        self.config = config
        self.dtype = dtype
        with torch.device("meta"):
            table = (config.vocab_size, config.model_dim)
            gate = (config.num_heads, config.gate_dim)
            self.lm_head = Weight(*table)
            self.smear_gate = Weight(1, config.gate_dim)
            self.attn_gate_bank = nn.Parameter(torch.empty(len(config.attention_layers), *gate))
            self.ve_gate_bank = nn.Parameter(torch.empty(len(config.value_embed_of_layer), *gate))
            self.skip_gate = Weight(len(config.skips), config.gate_dim)
            self.x0_lambdas = nn.Parameter(torch.empty(config.num_layers))
            self.scalars = nn.Parameter(torch.empty(config.num_scalars))
            value_embeds = nn.ModuleList(Weight(*table) for _ in range(config.num_value_embeds))
            self.value_embeds: Iterable[Weight] = value_embeds  # type: ignore[assignment]
            blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
            self.blocks: Iterable[Block] = blocks  # type: ignore[assignment]
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
        scalar_dtype = torch.promote_types(self.dtype, torch.float32)
        order = sorted(parameters, key=lambda name: (name not in FLOAT32_PARAMETERS, name == "embed.weight"))
        slots, ends = [], {scalar_dtype: 0, self.dtype: 0}
        for name in order:
            dtype = scalar_dtype if name in FLOAT32_PARAMETERS else self.dtype
            shape, numel = tuple(parameters[name].shape), parameters[name].numel()
            slots.append(Slot(name, shape, _dtype_name(dtype), ends[dtype], numel))
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
    def init_weights(self, seed: int) -> None:
        """Fresh weights of that seed, in place, drawn on the CPU in the order of the record's trainer."""
        config, generator = self.config, torch.Generator().manual_seed(seed)

        def normal(std: float) -> Tensor:
            drawn = torch.empty(config.vocab_size, config.model_dim)
            return drawn.normal_(0, std, generator=generator)

        def uniform(rows: int, bound: float) -> Tensor:
            drawn = torch.empty(rows, config.model_dim, dtype=self.dtype)
            return drawn.uniform_(-bound, bound, generator=generator)

        for buffer in self.buffers_by_dtype.values():
            buffer.zero_()
        for _ in self.value_embeds:
            normal(1.0)  # the record draws them, then starts from zero
        bound = (3 / config.model_dim) ** 0.5
        for layer, block in enumerate(self.blocks):
            if layer in self.gate_of_layer:
                block.attn.qkvo_w[: 3 * config.model_dim] = uniform(3 * config.model_dim, bound)
            block.mlp.c_fc.copy_(uniform(4 * config.model_dim, bound / 2))
        self.lm_head.weight.copy_(normal(HEAD_STD))
        self.embed.weight.copy_(normal(1.0))
        per_layer = [config.residual_init] * config.num_layers + [QKV_INIT, O_INIT] * config.num_layers
        self.scalars.copy_(torch.tensor([*per_layer, SMEAR_INIT, BACKOUT_INIT, *[SKIP_INIT] * len(config.skips)]))

    def state_dict_reference(self, world_size: int) -> dict[str, Tensor]:
        """State dict as the record's trainer has it: `scalars` padded by ones to a multiple of W."""
        state = {slot.name: self.get_parameter(slot.name).detach() for slot in self.layout}
        state["scalars"] = F.pad(state["scalars"], (0, -self.config.num_scalars % world_size), value=1.0)
        return state

    def rotary_tables(self, state: ForwardState, num_positions: int) -> tuple[Tensor, Tensor]:
        """Half-truncated RoPE (arXiv 2104.09864): cos and sin, (num_positions, d/2), in the model's dtype.

        The second half of the frequencies is zero: those dimensions stand still.
        """
        angle_dtype = torch.promote_types(self.dtype, torch.float32)
        device = self.scalars.device
        frequencies = torch.tensor(state.frequencies, dtype=angle_dtype, device=device)
        frequencies = F.pad(frequencies, (0, len(state.frequencies)))
        angles = torch.arange(num_positions, dtype=angle_dtype, device=device).outer(frequencies)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def forward(
        self,
        packed: PackedTokens,
        tables: tuple[Tensor, Tensor],
        state: ForwardState,
        mtp_weights: Tensor | Sequence[float] = (1.0,),
    ) -> Tensor:
        """Training loss, 0-dim, at least float32: a sum over tokens and weighted targets.

        tables: of `rotary_tables`, longer than the largest position. mtp_weights: weights of the losses of
        the next n tokens (arXiv 2404.19737), by default of the next alone; targets cross document borders.
        Of a compiled model they should be a tensor, since they change every step.
        """
        z = F.linear(self.hidden(packed, tables, state), self.lm_head.weight)
        dtype = torch.promote_types(z.dtype, torch.float32)
        weights = torch.as_tensor(mtp_weights, dtype=dtype, device=z.device)
        num_tokens, ahead = len(packed.targets), len(weights)
        targets = F.pad(packed.targets, (0, ahead - 1)).unfold(0, ahead, 1)
        position = torch.arange(num_tokens, device=z.device).unsqueeze(1)
        exists = position + torch.arange(ahead, device=z.device) < num_tokens
        loss: Tensor = SoftcapLoss.apply(z, targets, weights * exists)
        return loss

    @torch.no_grad()
    def token_losses(
        self,
        packed: PackedTokens,
        tables: tuple[Tensor, Tensor],
        state: ForwardState,
        slice_tokens: int = 2048,
    ) -> Tensor:
        """Cross-entropy in nats of each target, (T,) float32 (float64 of a float64 model).

        The head sees `slice_tokens` tokens at a time: its logits take slice_tokens x V x 4 bytes.
        """
        hidden = self.hidden(packed, tables, state)
        losses = [
            F.cross_entropy(self.logits(rows), targets, reduction="none")
            for rows, targets in zip(hidden.split(slice_tokens), packed.targets.split(slice_tokens), strict=True)
        ]
        return torch.cat(losses)

    def logits(self, hidden: Tensor) -> Tensor:
        """(T, D) -> (T, V), softly capped to (0, SOFTCAP), in at least float32."""
        return SOFTCAP * softcap_gate(F.linear(hidden, self.lm_head.weight))

    def hidden(self, packed: PackedTokens, tables: tuple[Tensor, Tensor], state: ForwardState) -> Tensor:
        """(T, D): what the head reads."""
        config, scalars, x0_lambdas = self.config, self.scalars.unbind(), self.x0_lambdas.unbind()
        smear, backout, *skip_lambdas = scalars[3 * config.num_layers :]
        attn_gates, ve_gates = self.attn_gate_bank.unbind(), self.ve_gate_bank.unbind()
        cos, sin = (table[packed.positions].unsqueeze(1) for table in tables)
        rotation = torch.cat([cos, cos], -1), torch.cat([sin, -sin], -1)
        moves = ~packed.starts.view(-1, 1, 1) & ~self.rotating_dims

        e = F.embedding(packed.ids, (self.lm_head if state.tied else self.embed).weight)
        values = [F.embedding(packed.ids, table.weight) for table in self.value_embeds]
        gate = smear * torch.sigmoid(F.linear(e[:, : config.gate_dim], self.smear_gate.weight))
        e = e + gate.masked_fill(packed.starts.unsqueeze(1), 0) * e.roll(1, 0)
        x = x0 = rms_norm(e)

        outputs: dict[int, Tensor] = {}
        for layer, block in enumerate(self.blocks):
            if layer in self.skip_of_layer:
                i, source = self.skip_of_layer[layer]
                gate = 2 * torch.sigmoid(F.linear(x0[:, : config.gate_dim], self.skip_gate.weight[i : i + 1]))
                x = x + torch.sigmoid(skip_lambdas[i]) * gate * outputs[source]
            x = scalars[layer] * x + x0_lambdas[layer] * x0
            if layer in self.gate_of_layer:
                long = layer in config.long_window_layers
                ordinal, j = self.value_of_layer.get(layer, (None, None))
                x = x + block.attn(
                    rms_norm(x),
                    packed,
                    qkv_lambda=scalars[config.num_layers + 2 * layer],
                    o_lambda=scalars[config.num_layers + 2 * layer + 1],
                    gate=attn_gates[self.gate_of_layer[layer]],
                    value_gate=None if ordinal is None else ve_gates[ordinal],
                    value_embed=None if j is None else values[j],
                    rotation=rotation,
                    moves=moves if long else None,
                    window=state.long_window if long else state.short_window,
                    scale=state.attention_scale,
                )
            x = x + block.mlp(rms_norm(x))
            if layer in self.kept_layers:
                outputs[layer] = x
        return rms_norm(x - backout * outputs[config.backout_layer])


def rms_norm(x: Tensor) -> Tensor:
    """RMS normalisation of the last axis without gain, in at least float32, returned in the input's dtype."""
    return F.rms_norm(x, x.shape[-1:], eps=RMS_EPS)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the dimension pairs (m, m + d/2): x (T, H, d) by cos and signed sin (T, 1, d)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def softcap_gate(z: Tensor) -> Tensor:
    """Head output -> logits / SOFTCAP in (0, 1), at least float32."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z.add(SOFTCAP_SHIFT).div_(SOFTCAP_WIDTH).sigmoid_()


class SoftcapLoss(torch.autograd.Function):
    """Head output (T, V), targets and weights (T, n) -> weighted sum of the capped logits' cross-entropies.

    The derivative is written out because passes over (T, V) are most of a small model's step on a CPU.
    No maximum is subtracted: logits lie in (0, SOFTCAP), whose exponentials float32 holds.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        gate = softcap_gate(z)
        exps = (SOFTCAP * gate).exp_()
        total = exps.sum(-1, keepdim=True)
        ctx.save_for_backward(gate, exps, total, targets, weights)
        ctx.z_dtype = z.dtype
        return (weights * (total.log() - SOFTCAP * gate.gather(-1, targets))).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        gate, exps, total, targets, weights = ctx.saved_tensors
        grad = exps * (weights.sum(-1, keepdim=True) / total)
        grad.scatter_add_(-1, targets, -weights.to(grad.dtype))
        grad.mul_(gate).addcmul_(grad, gate, value=-1)  # gate (1 - gate) is the sigmoid's slope
        return grad.mul_(grads[0] * (SOFTCAP / SOFTCAP_WIDTH)).to(ctx.z_dtype), None, None


def optimizer_label(name: str) -> str:
    """Parameter name -> the label of its optimizer group, for example `blocks.3.mlp.c_fc` -> `c_fc`."""
    if name.startswith("value_embeds."):
        return "value_embed"
    if name.endswith(".attn.qkvo_w"):
        return "attn"
    return name.removesuffix(".weight").rpartition(".")[2]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
