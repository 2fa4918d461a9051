"""Codes of quantised blocks as operands of matrix products.

An integer put into the low bits of the mantissa of a number of fixed exponent is that number plus
the integer: 128 + n in bfloat16 for n < 128. With that a few operations on whole 32-bit words
convert two or four codes; conversions one by one would take longer than the loads. Types other
than bfloat16, and the interpreter, take the plain way.
"""

from __future__ import annotations

import triton
import triton.language as tl

from executor.kernels.tiles import INTERPRET

# d = (a & mask) | 0x4300 in both halves of a word: 128 + the masked bits.
_EVEN_ODD = tl.constexpr("""{
    .reg .b32 w, x, y, minus;
    mov.b32 minus, 0xBF80BF80;
    lop3.b32 x, $2, 0x007F007F, 0x43004300, 0xEA;
    lop3.b32 y, $2, 0x00800080, 0x43004300, 0xEA;
    fma.rn.bf16x2 $0, y, minus, x;
    shr.u32 w, $2, 8;
    lop3.b32 x, w, 0x007F007F, 0x43004300, 0xEA;
    lop3.b32 y, w, 0x00800080, 0x43004300, 0xEA;
    fma.rn.bf16x2 $1, y, minus, x;
}""")
_LOW_HIGH = tl.constexpr("""{
    .reg .b32 low, high, top, one, less;
    mov.b32 top, 0x43434343;
    mov.b32 one, 0x3F803F80;
    mov.b32 less, 0xC300C300;
    and.b32 low, $4, 0x0F0F0F0F;
    shr.u32 high, $4, 4;
    and.b32 high, high, 0x0F0F0F0F;
    prmt.b32 $0, low, top, 0x4140;
    prmt.b32 $1, low, top, 0x4342;
    prmt.b32 $2, high, top, 0x4140;
    prmt.b32 $3, high, top, 0x4342;
    fma.rn.bf16x2 $0, $0, one, less;
    fma.rn.bf16x2 $1, $1, one, less;
    fma.rn.bf16x2 $2, $2, one, less;
    fma.rn.bf16x2 $3, $3, one, less;
}""")


@triton.jit
def number(codes, DTYPE: tl.constexpr):
    """int8 codes as numbers of a type that holds them exactly."""
    if INTERPRET:
        return codes.to(tl.float32)
    else:
        return codes.to(DTYPE)


@triton.jit
def halves_of_bytes(codes, DTYPE: tl.constexpr):
    """Low and high nibbles of uint8 `codes`, 0 to 15."""
    if INTERPRET or tl.bfloat16 != DTYPE:
        low = number((codes & 15).to(tl.int8), DTYPE)
        high = number((codes >> 4).to(tl.int8), DTYPE)
    else:
        low, high = tl.inline_asm_elementwise(
            _LOW_HIGH, "=&r,=&r,=&r,=&r,r", [codes], (tl.bfloat16, tl.bfloat16), True, 4
        )
    return low, high


@triton.jit
def bytes_of_words(words, DTYPE: tl.constexpr):
    """Low and high bytes of int16 `words`, -127 to 127."""
    if INTERPRET or tl.bfloat16 != DTYPE:
        low = number(words.to(tl.int8), DTYPE)
        high = number((words >> 8).to(tl.int8), DTYPE)
    else:
        low, high = tl.inline_asm_elementwise(
            _EVEN_ODD, "=&r,=&r,r", [words], (tl.bfloat16, tl.bfloat16), True, 2
        )
    return low, high
