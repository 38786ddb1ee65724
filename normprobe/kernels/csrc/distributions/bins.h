/* Counts of numbers in bins of their sign, exponent and first three bits of the fraction: eight bins an octave, found
 * without a logarithm. Twin of `normprobe.kernels.distributions.bins`.
 */
#ifndef NORMPROBE_BINS_H
#define NORMPROBE_BINS_H

#include "numerics/traverse.h"

/* A float's upper 12 bits number its bin: the sign, then 256 exponents of 8 bins, the last one of which is NaN and Inf.
 * Below the smallest normal number bins are of one width. Zeros, of either sign, have a bin of their own behind these;
 * so many TABLES are filled in turn, for adding to one number twice in a row has to wait. */
enum { FRACTION_BITS = 3, SIGN_BIN = 1 << 11, NONFINITE_BIN = 255 << FRACTION_BITS, ZERO_BIN = 1 << 12, BINS };
enum { TABLES = 4 };

/* Fewer numbers than these are counted in one table: clearing and adding up the others costs more. */
enum { FEW_NUMBERS = 1 << 13 };

typedef struct {
    int tables;
    int64_t held; /* how many numbers the tables hold: fewer than overflow them */
    uint16_t index[CHUNK];
    uint32_t table[TABLES][BINS];
} BinTables;

CLONES static void bin_indices_f32(const float *restrict x, int n, uint16_t *restrict to) {
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const union {
            float f;
            uint32_t u;
        } bits = {x[i]};
        to[i] = (uint16_t)(bits.u << 1 == 0 ? ZERO_BIN : bits.u >> (23 - FRACTION_BITS));
    }
}

/* The same bins for double; those at either end also hold what float cannot. */
static void bin_indices_f64(const double *restrict x, int n, uint16_t *restrict to) {
    for (int i = 0; i < n; i++) {
        const union {
            double f;
            uint64_t u;
        } bits = {x[i]};
        const double size = fabs(x[i]);
        const int sign = bits.u >> 63 ? SIGN_BIN : 0;
        int bin;
        if (size == 0) {
            to[i] = ZERO_BIN;
            continue;
        }
        if (!isfinite(x[i])) bin = NONFINITE_BIN;
        else if (size < (double)FLT_MIN) bin = (int)(size * 0x1p129);
        else if (size >= 0x1p128) bin = NONFINITE_BIN - 1;
        else bin = (int)(bits.u >> (52 - FRACTION_BITS) & 0x3FFF) - ((1023 - 127) << FRACTION_BITS);
        to[i] = (uint16_t)(sign | bin);
    }
}

static void clear_bins(BinTables *bins, int64_t numbers) {
    bins->tables = numbers < FEW_NUMBERS ? 1 : TABLES;
    bins->held = 0;
    memset(bins->table, 0, sizeof bins->table[0] * (size_t)bins->tables);
}

/* Add what the tables hold to counts, and empty them. */
static void flush_bins(BinTables *bins, int64_t *counts) {
    for (int t = 0; t < bins->tables; t++)
        for (int i = 0; i < BINS; i++) counts[i] += bins->table[t][i];
    memset(bins->table, 0, sizeof bins->table[0] * (size_t)bins->tables);
    bins->held = 0;
}

static void add_to_tables(BinTables *bins, int n) {
    const uint16_t *index = bins->index;
    int i = 0;
    if (bins->tables == TABLES)
        for (; i + TABLES <= n; i += TABLES)
            for (int t = 0; t < TABLES; t++) bins->table[t][index[i + t]]++;
    for (; i < n; i++) bins->table[0][index[i]]++;
}

/* Count a run of contiguous numbers, of float or double. */
static void count_run(const void *numbers, int wide, int64_t n, BinTables *bins, int64_t *counts) {
    if (bins->held > INT32_MAX - n) flush_bins(bins, counts);
    bins->held += n;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int width = (int)(n - at < CHUNK ? n - at : CHUNK);
        if (wide) bin_indices_f64((const double *)numbers + at, width, bins->index);
        else bin_indices_f32((const float *)numbers + at, width, bins->index);
        add_to_tables(bins, width);
    }
}

#endif
