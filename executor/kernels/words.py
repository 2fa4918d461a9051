"""Codes of quantised blocks as float16 numbers, two at a time and with little arithmetic.

An integer of up to ten bits that is taken for a float16 is that integer times 2^-24: a subnormal
number, which tensor cores multiply like any other. So codes only have to be masked apart, one
operation for two of them, and the power of two goes into the scale of the product. A code of 8 bits
is made unsigned first, which adds 128 to it.

Where a scale has to be applied to the codes themselves, they are put into the mantissa of 1024, and
one multiply-add with the scale takes the 1024 away again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from executor.kernels.tiles import INTERPRET

UNIT = tl.constexpr(2.0**24)
"""One over what a code of 1 is worth; 16 times too much for high nibbles."""
SIXTEENTH = tl.constexpr(1.0 / 16.0)
CENTRE = tl.constexpr(128.0)
"""What `bytes_of` adds to a code of 8 bits."""
_NIBBLES = tl.constexpr("""{
    .reg .b32 w;
    and.b32 $0, $4, 0x000F000F;
    and.b32 $1, $4, 0x00F000F0;
    shr.u32 w, $4, 8;
    and.b32 $2, w, 0x000F000F;
    and.b32 $3, w, 0x00F000F0;
}""")
# (a & mask) ^ flip in one operation.
_BYTES = tl.constexpr("""{
    .reg .b32 w;
    lop3.b32 $0, $2, 0x00FF00FF, 0x00800080, 0x6A;
    shr.u32 w, $2, 8;
    lop3.b32 $1, w, 0x00FF00FF, 0x00800080, 0x6A;
}""")


# (1024 + n) * scale - 1024 * scale, of which the last product is exact and 0xE400 is -1024.
_SCALED = tl.constexpr("""{
    .reg .b32 w, n, l, low;
    mov.b32 low, 0xE400E400;
    lop3.b32 n, $4, 0x000F000F, 0x64006400, 0xEA;
    mul.rn.f16x2 l, $5, low;
    fma.rn.f16x2 $0, n, $5, l;
    shr.u32 w, $4, 8;
    lop3.b32 n, w, 0x000F000F, 0x64006400, 0xEA;
    mul.rn.f16x2 l, $7, low;
    fma.rn.f16x2 $2, n, $7, l;
    lop3.b32 n, $4, 0x00F000F0, 0x64006400, 0xEA;
    mul.rn.f16x2 l, $6, low;
    fma.rn.f16x2 $1, n, $6, l;
    lop3.b32 n, w, 0x00F000F0, 0x64006400, 0xEA;
    mul.rn.f16x2 l, $8, low;
    fma.rn.f16x2 $3, n, $8, l;
}""")


@triton.jit
def half(bits):
    """The low 16 bits of integers as a float16."""
    return bits.to(tl.uint16).to(tl.float16, bitcast=True)


@triton.jit
def nibbles_of(words, DTYPE: tl.constexpr):
    """The nibbles of uint16 `words`, lowest first: times 2^-24, 2^-20, 2^-24 and 2^-20."""
    if INTERPRET:
        n_0 = half(words & 0x0F)
        n_1 = half(words & 0xF0)
        n_2 = half((words >> 8) & 0x0F)
        n_3 = half((words >> 8) & 0xF0)
    else:
        n_0, n_1, n_2, n_3 = tl.inline_asm_elementwise(
            _NIBBLES, "=&r,=&r,=&r,=&r,r", [words],
            (tl.float16, tl.float16, tl.float16, tl.float16), True, 2,
        )  # fmt: skip
    return n_0.to(DTYPE), n_1.to(DTYPE), n_2.to(DTYPE), n_3.to(DTYPE)


@triton.jit
def scaled_nibbles_of(words, s_0, s_1, s_2, s_3, DTYPE: tl.constexpr):
    """The nibbles of uint16 `words`, lowest first, times scales (float16, less than 64).

    `s_1` and `s_3` are a sixteenth of the scales.
    """
    if INTERPRET or tl.float16 != DTYPE:
        n_0 = (words & 15).to(tl.float32) * s_0.to(tl.float32)
        n_1 = (words & 0xF0).to(tl.float32) * s_1.to(tl.float32)
        n_2 = ((words >> 8) & 15).to(tl.float32) * s_2.to(tl.float32)
        n_3 = ((words >> 8) & 0xF0).to(tl.float32) * s_3.to(tl.float32)
    else:
        n_0, n_1, n_2, n_3 = tl.inline_asm_elementwise(
            _SCALED, "=&r,=&r,=&r,=&r,r,r,r,r,r", [words, s_0, s_1, s_2, s_3],
            (tl.float16, tl.float16, tl.float16, tl.float16), True, 2,
        )  # fmt: skip
    return n_0, n_1, n_2, n_3


@triton.jit
def bytes_of(words, DTYPE: tl.constexpr):
    """The two int8 codes of uint16 `words`, low one first, plus 128 and times 2^-24."""
    if INTERPRET:
        low = half((words & 0xFF) ^ 0x80)
        high = half((words >> 8) ^ 0x80)
    else:
        low, high = tl.inline_asm_elementwise(
            _BYTES, "=&r,=&r,r", [words], (tl.float16, tl.float16), True, 2
        )
    return low.to(DTYPE), high.to(DTYPE)


@triton.jit
def halves_of(pairs, DTYPE: tl.constexpr):
    """The two float16 numbers in int32 words, low one first."""
    return half(pairs & 0xFFFF).to(DTYPE), half((pairs >> 16) & 0xFFFF).to(DTYPE)
