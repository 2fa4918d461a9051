"""The operations once more, as short as they can be, for 16-bit blocks and without a loop's care.

An independent reading of `executor.kernels.ops`: models are tested on these and on the project's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


class PlainOps:
    def rms_norm(self, x, weight, eps, residual=None):
        total = x if residual is None else x + residual
        wide = total.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return (normed * weight.float()).to(x.dtype), total

    def rope_write(
        self, q, k, v, cos, sin, positions, arena, layout, layer, write_offsets, write_slots
    ):
        if cos is not None:
            c, s = cos[positions.long()][:, None], sin[positions.long()][:, None]
            q.copy_(self._rotate(q, c, s))
            k = self._rotate(k, c, s)
        for row, slot in enumerate(write_slots.tolist()):
            if slot >= 0:
                keys, values = self._block(arena, layout, layer, int(write_offsets[row]))
                keys[:, slot], values[:, slot] = k[row], v[row]

    @staticmethod
    def _rotate(x, cos, sin):
        low, high = x.float().chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(x.dtype)

    @staticmethod
    def _block(arena, layout, layer, offset):
        """Keys and values of a block, [kv_heads, T, D] each, as views."""
        start = offset + layout.unit_offset(16, layer)
        raw = arena[start : start + layout.layer_bytes[16]].view(layout.dtype)
        both = raw.view(layout.kv_heads, 2, layout.block_tokens, layout.head_dim)
        return both[:, 0], both[:, 1]

    def _keys(self, arena, layout, layer, blocks, first, tokens):
        count = -(-tokens // layout.block_tokens)
        pairs = [
            self._block(arena, layout, layer, offset)
            for offset in blocks.offsets[first : first + count].tolist()
        ]
        keys = torch.cat([pair[0] for pair in pairs], 1)[:, :tokens]
        values = torch.cat([pair[1] for pair in pairs], 1)[:, :tokens]
        starts = blocks.positions[first : first + count].long()
        places = (starts[:, None] + torch.arange(layout.block_tokens)).reshape(-1)[:tokens]
        return keys, values, places

    def _one(self, q, keys, values, places, position, scale, bias, causal):
        repeat = q.shape[0] // keys.shape[0]
        keys, values = keys.repeat_interleave(repeat, 0), values.repeat_interleave(repeat, 0)
        scores = torch.einsum("hd,htd->ht", q.float(), keys.float()) * scale
        if bias is not None:
            reach = bias.shape[1] // 2
            scores += bias[:, (places - position).clamp(-reach, reach) + reach]
        if causal:
            scores[:, places > position] = -torch.inf
        return torch.einsum("ht,htd->hd", scores.softmax(-1), values.float()).to(q.dtype)

    def decode_attention(self, q, arena, layout, layer, items, scale, bias=None):
        out = torch.zeros(q.shape, dtype=q.dtype)
        for row in range(q.shape[0]):
            found = [
                self._keys(
                    arena, layout, layer, items.blocks, int(items.first[i]), int(items.tokens[i])
                )
                for i in range(int(items.row_items[row]), int(items.row_items[row + 1]))
                if items.tokens[i]
            ]
            if found:
                keys, values = (torch.cat([f[n] for f in found], 1) for n in (0, 1))
                places, place = torch.cat([f[2] for f in found]), int(items.positions[row])
                out[row] = self._one(q[row], keys, values, places, place, scale, bias, False)
        return out

    def prefill_attention(self, q, arena, layout, layer, chunks, scale, bias=None, causal=True):
        out = torch.zeros(q.shape, dtype=q.dtype)
        for c in range(len(chunks.context)):
            keys, values, places = self._keys(
                arena,
                layout,
                layer,
                chunks.blocks,
                int(chunks.first[c, 0]),
                int(chunks.tokens[c, 0]),
            )
            start = int(chunks.first_row[c])
            for row in range(start, int(chunks.first_row[c + 1])):
                place = int(chunks.context[c]) + row - start
                out[row] = self._one(q[row], keys, values, places, place, scale, bias, causal)
        return out

    def silu_mul(self, x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    def gelu_mul(self, x):
        gate, up = x.chunk(2, dim=-1)
        return F.gelu(gate, approximate="tanh") * up

    def linear(self, x, weight):
        return F.linear(x, weight)

    def fuses(self, x):
        return False

    def linear_int8(self, x, weight, scales):
        return (x.float() @ weight.float().T * scales.float()).to(x.dtype)

    def moe(self, x, weights, experts, gate_up, down, scales=None):
        up_scales, down_scales = scales or (
            torch.ones(gate_up.shape[:2]),
            torch.ones(down.shape[:2]),
        )
        out = torch.zeros_like(x)
        for row in range(x.shape[0]):
            for share, expert in zip(weights[row], experts[row].tolist(), strict=True):
                up = x[row] @ gate_up[expert].to(x.dtype).T * up_scales[expert]
                inner = self.silu_mul(up)
                out[row] += share * (inner @ down[expert].to(x.dtype).T * down_scales[expert])
        return out
