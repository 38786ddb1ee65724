/* Numbers of 16 bits as float: float16 (IEEE 754 binary16) and bfloat16 (the upper half of a float). */
#ifndef NORMPROBE_HALF_TYPES_H
#define NORMPROBE_HALF_TYPES_H

#include "numerics/moments.h"

static float half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    union {
        uint32_t u;
        float f;
    } bits;
    if (exponent == 31) bits.u = sign | 0x7F800000u | (fraction << 13);
    else if (exponent) bits.u = sign | ((exponent + 112u) << 23) | (fraction << 13);
    else {
        bits.f = (float)fraction * 5.9604644775390625e-8f;
        bits.u |= sign;
    }
    return bits.f;
}

static float bfloat_to_float(uint16_t b) {
    const union {
        uint32_t u;
        float f;
    } bits = {(uint32_t)b << 16};
    return bits.f;
}

CLONES static void widen_bfloat16(const uint16_t *restrict from, float *restrict to, int64_t n) {
    uint32_t *restrict bits = (uint32_t *)(void *)to;
    for (int64_t i = 0; i < n; i++) bits[i] = (uint32_t)from[i] << 16;
}

/* Without branches, so that it vectorises: the exponent is re-biased by a multiplication. */
CLONES static void widen_float16(const uint16_t *restrict from, float *restrict to, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t h = from[i], magnitude = (h & 0x7FFFu) << 13;
        union {
            uint32_t u;
            float f;
        } v, scale;
        v.u = magnitude;
        scale.u = 0x77800000u; /* 2**112 */
        v.f *= scale.f;
        v.u |= (magnitude >= 0x0F800000u) ? 0x7F800000u : 0u;
        v.u |= (h & 0x8000u) << 16;
        to[i] = v.f;
    }
}

#endif
