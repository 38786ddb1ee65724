/* Numbers of a block's rows, put side by side in the type that they are added up in; traverse.h includes this file behind
 * what it works on, `Job` and `Workspace`.
 */
#ifndef NORMPROBE_GATHER_H
#define NORMPROBE_GATHER_H

/* Numbers from one widened row to the next: not a power of two, which would put every row into the same cache set. */
static int64_t widened_row(const Job *job) { return job->features + 16; }

/* Copy rows of strided features side by side; a few features at a time, whose cache lines the next rows share. */
#define GATHER(TYPE, TO, CONVERT)                                                                                      \
    for (int64_t first = 0; first < job->features; first += 16) {                                                      \
        const int64_t last = first + 16 < job->features ? first + 16 : job->features;                                  \
        for (int r = 0; r < n; r++) {                                                                                  \
            const TYPE *from = (const TYPE *)workspace->rows[r];                                                       \
            TO *to = (TO *)(void *)wide + r * widened_row(job);                                                        \
            for (int64_t c = first; c < last; c++) to[c] = CONVERT(from[c * job->stride_feature]);                     \
        }                                                                                                              \
    }
#define SAME(x) (x)

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define SHUFFLES
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
#define FOUR_AT(address) (*(const Four *)(const void *)(address))
#define STORE_FOUR(address, four) *(Four *)(void *)(address) = four

/* Turn four by four numbers: `to` has a row where `from` has a column. */
INLINE static void turn_four(const float *from, int64_t apart, float *to, int64_t width) {
    const Four a = FOUR_AT(from), b = FOUR_AT(from + apart);
    const Four c = FOUR_AT(from + 2 * apart), d = FOUR_AT(from + 3 * apart);
    const Four e = __builtin_shufflevector(a, b, 0, 4, 1, 5), f = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Four g = __builtin_shufflevector(a, b, 2, 6, 3, 7), h = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    STORE_FOUR(to, __builtin_shufflevector(e, f, 0, 1, 4, 5));
    STORE_FOUR(to + width, __builtin_shufflevector(e, f, 2, 3, 6, 7));
    STORE_FOUR(to + 2 * width, __builtin_shufflevector(g, h, 0, 1, 4, 5));
    STORE_FOUR(to + 3 * width, __builtin_shufflevector(g, h, 2, 3, 6, 7));
}
#endif

/* Copy n adjacent numbers of each feature, which lie `apart` from those of the next, into rows. */
CLONES static void turn_planes(const float *from, int64_t apart, float *to, int64_t width, int n, int64_t features) {
    int64_t c = 0;
#ifdef SHUFFLES
    for (; c + 4 <= features; c += 4) {
        int r = 0;
        for (; r + 4 <= n; r += 4) turn_four(from + c * apart + r, apart, to + r * width + c, width);
        for (; r < n; r++)
            for (int k = 0; k < 4; k++) to[r * width + c + k] = from[(c + k) * apart + r];
    }
#endif
    for (; c < features; c++)
        for (int r = 0; r < n; r++) to[r * width + c] = from[c * apart + r];
}

/* Whether the block's rows lie side by side, feature by feature: none is left out. */
static int are_planes(const Job *job, const Workspace *workspace, int n) {
    const ptrdiff_t apart = (const char *)workspace->rows[n - 1] - (const char *)workspace->rows[0];
    return job->type == FLOAT32 && job->stride_inner == 1 && apart == (n - 1) * (ptrdiff_t)sizeof(float);
}

/* Make the block's rows contiguous numbers of the type they are added up in. */
static void gather(const Job *job, Workspace *workspace, char *wide, int n) {
    const size_t each = job->type == FLOAT64 ? sizeof(double) : sizeof(float);
    if (job->stride_feature == 1 || job->features == 1) {
        if (job->type == FLOAT32 || job->type == FLOAT64) return;
        for (int r = 0; r < n; r++) {
            float *to = (float *)(void *)wide + r * widened_row(job);
            if (job->type == BFLOAT16) widen_bfloat16(workspace->rows[r], to, job->features);
            else widen_float16(workspace->rows[r], to, job->features);
        }
    } else if (are_planes(job, workspace, n)) {
        turn_planes(workspace->rows[0], job->stride_feature, (float *)(void *)wide, widened_row(job), n, job->features);
    } else if (job->type == FLOAT32) {
        GATHER(float, float, SAME)
    } else if (job->type == FLOAT64) {
        GATHER(double, double, SAME)
    } else if (job->type == BFLOAT16) {
        GATHER(uint16_t, float, bfloat_to_float)
    } else {
        GATHER(uint16_t, float, half_to_float)
    }
    for (int r = 0; r < n; r++) workspace->rows[r] = wide + (size_t)r * each * (size_t)widened_row(job);
}

#endif
