/* One pass over a tensor (samples, rows, features) to the moments of its features and samples.
 *
 * Blocks of rows are added up in the tensor's own precision about a pivot near each column's mean, then merged
 * into double by the update of Chan, Golub and LeVeque (1979). A block whose pivot turns out far from its mean is
 * added up again about its own mean; one with numbers that are not finite, or whose squares leave the range, is
 * done in double. Samples are split into as many parts as there are threads, each with moments of its own, merged in
 * order: the result depends on the number of threads, never on which thread did what.
 */
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 64, TILE = 1024, FIELDS = 8, SAMPLE_FIELDS = 5, SCALARS = 8, MOST_PARTS = 64 };
enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
enum { GOOD, OFF_CENTRE, EXTREME };

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && !defined(NO_CLONES)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

typedef struct {
    double count, mean, m2, low, high, absolute, zeros, nonfinite;
} Moments;

/* The same for many columns, an array per field. */
typedef struct {
    double *count, *mean, *m2, *low, *high, *absolute, *zeros, *nonfinite;
} Columns;

typedef struct {
    double value;
    int64_t sample, feature;
} Holder;

/* Whether one holder of a value comes before another of the same value. */
static int before(const Holder *a, const Holder *b) {
    return a->sample < b->sample || (a->sample == b->sample && a->feature < b->feature);
}

static Columns columns_at(double *memory, int64_t features) {
    Columns c = {memory, memory + features, memory + 2 * features, memory + 3 * features,
                 memory + 4 * features, memory + 5 * features, memory + 6 * features, memory + 7 * features};
    return c;
}

static void clear(const Columns *c, int64_t features) {
    memset(c->count, 0, sizeof(double) * FIELDS * (size_t)features);
    for (int64_t i = 0; i < features; i++) { c->low[i] = INFINITY; c->high[i] = -INFINITY; }
}

static void merge_moments(Moments *a, const Moments *b) {
    const double total = a->count + b->count;
    a->nonfinite += b->nonfinite;
    if (b->count == 0) return;
    if (a->count == 0) {
        const double nonfinite = a->nonfinite;
        *a = *b;
        a->nonfinite = nonfinite;
        return;
    }
    const double share = b->count / total, delta = b->mean - a->mean;
    a->m2 += b->m2 + delta * delta * (a->count * share);
    a->mean = share > 0.5 ? b->mean - delta * (1 - share) : a->mean + delta * share;
    a->count = total;
    a->low = b->low < a->low ? b->low : a->low;
    a->high = b->high > a->high ? b->high : a->high;
    a->absolute += b->absolute;
    a->zeros += b->zeros;
}

static Moments moments_at(const Columns *c, int64_t i) {
    Moments m = {c->count[i], c->mean[i], c->m2[i], c->low[i], c->high[i], c->absolute[i], c->zeros[i], c->nonfinite[i]};
    return m;
}

static void merge_one(const Columns *to, int64_t i, const Moments *own) {
    Moments m = moments_at(to, i);
    merge_moments(&m, own);
    to->count[i] = m.count; to->mean[i] = m.mean; to->m2[i] = m.m2; to->low[i] = m.low; to->high[i] = m.high;
    to->absolute[i] = m.absolute; to->zeros[i] = m.zeros; to->nonfinite[i] = m.nonfinite;
}

#define T float
#define NAME(x) x##_f32
#define ABS fabsf
#define HUGE_SQUARE 1e32f
#define TINY_SQUARE 1e-26f
#include "_tile.h"
#undef T
#undef NAME
#undef ABS
#undef HUGE_SQUARE
#undef TINY_SQUARE
#define T double
#define NAME(x) x##_f64
#define ABS fabs
#define HUGE_SQUARE 1e290
#define TINY_SQUARE 1e-280
#include "_tile.h"

/* What is measured, from checked arguments. Strides count elements. */
typedef struct {
    const char *data;
    int type, size;
    int64_t samples, rows, features, by_sample, by_row;
    const unsigned char *real; /* (samples, rows), or NULL */
} Job;

/* What one part of the samples yields. */
typedef struct {
    Columns columns;
    Moments means;     /* of the means of samples of one row */
    double within_sum; /* over samples of several rows, or looked at one by one */
    double within_count;
    Holder low, high;
    void *work;
} Part;

static float half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    union { uint32_t u; float f; } bits;
    if (exponent == 31) bits.u = sign | 0x7F800000u | (fraction << 13);
    else if (exponent) bits.u = sign | ((exponent + 112u) << 23) | (fraction << 13);
    else { bits.f = (float)fraction * 5.9604644775390625e-8f; bits.u |= sign; }
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
        union { uint32_t u; float f; } v, scale;
        v.u = magnitude;
        scale.u = 0x77800000u; /* 2**112 */
        v.f *= scale.f;
        v.u |= (magnitude >= 0x0F800000u) ? 0x7F800000u : 0u;
        v.u |= (h & 0x8000u) << 16;
        to[i] = v.f;
    }
}

static double number_at(const Job *job, const char *at, int64_t feature) {
    switch (job->type) {
    case FLOAT32: return ((const float *)(const void *)at)[feature];
    case FLOAT64: return ((const double *)(const void *)at)[feature];
    case FLOAT16: return half_to_float(((const uint16_t *)(const void *)at)[feature]);
    default: {
        union { uint32_t u; float f; } bits = {(uint32_t)((const uint16_t *)(const void *)at)[feature] << 16};
        return bits.f;
    }
    }
}

static const char *row_at(const Job *job, int64_t sample, int64_t row) {
    return job->data + (sample * job->by_sample + row * job->by_row) * job->size;
}

static int is_real(const Job *job, int64_t sample, int64_t row) {
    return job->real == NULL || job->real[sample * job->rows + row];
}

/* Two passes in double over one row of floats, all of them finite; 0 where one is not. */
CLONES static int row_moments(const float *restrict x, int64_t n, Moments *own) {
    double sum = 0, rest = 0, m2 = 0;
    float low = INFINITY, high = -INFINITY;
#pragma omp simd reduction(+ : sum) reduction(min : low) reduction(max : high)
    for (int64_t c = 0; c < n; c++) {
        sum += x[c];
        low = x[c] < low ? x[c] : low;
        high = x[c] > high ? x[c] : high;
    }
    if (!isfinite(sum)) return 0;
    const double mean = sum / (double)n;
#pragma omp simd reduction(+ : rest, m2)
    for (int64_t c = 0; c < n; c++) {
        const double d = x[c] - mean;
        rest += d;
        m2 += d * d;
    }
    m2 -= rest * (rest / (double)n);
    const Moments all = {(double)n, mean + rest / (double)n, m2 > 0 ? m2 : 0, low, high, 0, 0, 0};
    *own = all;
    return 1;
}

/* Two passes in double over one sample's real rows. */
static Moments sample_moments(const Job *job, int64_t sample) {
    Moments own = {0, 0, 0, INFINITY, -INFINITY, 0, 0, 0};
    double sum = 0, rest = 0;
    if (job->type == FLOAT32 && job->rows == 1 && job->features > 0 && is_real(job, sample, 0) &&
        row_moments((const float *)(const void *)row_at(job, sample, 0), job->features, &own))
        return own;
    for (int64_t row = 0; row < job->rows; row++) {
        if (!is_real(job, sample, row)) continue;
        const char *at = row_at(job, sample, row);
        for (int64_t c = 0; c < job->features; c++) {
            const double x = number_at(job, at, c);
            if (!isfinite(x)) continue;
            own.count++;
            sum += x;
            own.low = x < own.low ? x : own.low;
            own.high = x > own.high ? x : own.high;
        }
    }
    if (own.count == 0) return own;
    own.mean = sum / own.count;
    if (!isfinite(own.mean)) own.mean = 0.5 * own.low + 0.5 * own.high;
    for (int64_t row = 0; row < job->rows; row++) {
        if (!is_real(job, sample, row)) continue;
        const char *at = row_at(job, sample, row);
        for (int64_t c = 0; c < job->features; c++) {
            const double x = number_at(job, at, c), d = x - own.mean;
            if (!isfinite(x)) continue;
            rest += d;
            own.m2 += d * d;
        }
    }
    own.m2 -= rest * (rest / own.count);
    own.mean += rest / own.count;
    if (own.m2 < 0) own.m2 = 0;
    return own;
}

/* Memory of one part, laid out once: a tile, row sums, and rows widened to float. */
typedef struct {
    union { Tile_f32 f32; Tile_f64 f64; } tile;
    double sums[ROWS];
    int64_t index[ROWS];
    const void *rows[ROWS];
} Work;

static void flush(const Job *job, Part *part, const Columns *to, float *wide, int n) {
    Work *work = part->work;
    if (n == 0) return;
    if (job->type == FLOAT64) {
        block_f64((const double *const *)work->rows, work->index, n, job->features, to, &work->tile.f64, work->sums,
                  &part->low, &part->high);
        return;
    }
    if (job->type != FLOAT32)
        for (int r = 0; r < n; r++) {
            float *at = wide + (int64_t)r * job->features;
            if (job->type == BFLOAT16) widen_bfloat16(work->rows[r], at, job->features);
            else widen_float16(work->rows[r], at, job->features);
            work->rows[r] = at;
        }
    block_f32((const float *const *)work->rows, work->index, n, job->features, to, &work->tile.f32, work->sums,
              &part->low, &part->high);
}

/* Samples of one row: the rows of many samples make a block. */
static void measure_rows(const Job *job, Part *part, float *wide, int64_t from, int64_t until) {
    Work *work = part->work;
    int n = 0;
    for (int64_t sample = from; sample <= until; sample++) {
        if (n == ROWS || sample == until) {
            flush(job, part, &part->columns, wide, n);
            for (int r = 0; r < n; r++) {
                Moments mean = {1, work->sums[r] / (double)job->features, 0, 0, 0, 0, 0, 0};
                merge_moments(&part->means, &mean);
            }
            n = 0;
        }
        if (sample < until && is_real(job, sample, 0)) {
            work->rows[n] = row_at(job, sample, 0);
            work->index[n++] = sample;
        }
    }
}

/* Samples of several rows: the columns of each sample on their own, then merged. */
static void measure_samples(const Job *job, Part *part, float *wide, const Columns *own, int64_t from, int64_t until) {
    Work *work = part->work;
    for (int64_t sample = from; sample < until; sample++) {
        int n = 0;
        clear(own, job->features);
        for (int64_t row = 0; row <= job->rows; row++) {
            if (n == ROWS || row == job->rows) {
                flush(job, part, own, wide, n);
                n = 0;
            }
            if (row < job->rows && is_real(job, sample, row)) {
                work->rows[n] = row_at(job, sample, row);
                work->index[n++] = sample;
            }
        }
        Moments all = {0, 0, 0, INFINITY, -INFINITY, 0, 0, 0};
        for (int64_t c = 0; c < job->features; c++) {
            const Moments column = moments_at(own, c);
            merge_moments(&all, &column);
            merge_one(&part->columns, c, &column);
        }
        if (all.count > 0) {
            part->within_sum += all.m2 / all.count;
            part->within_count++;
        }
    }
}

/* Sum of the samples' variances where each has one row: what the features hold beyond the samples' means. */
static int within_from_totals(const Job *job, const Part *all, double *sum) {
    Moments total = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int64_t c = 0; c < job->features; c++) {
        Moments column = moments_at(&all->columns, c);
        merge_moments(&total, &column);
    }
    const double between = all->means.m2 * (double)job->features, within = total.m2 - between;
    *sum = job->features == 1 ? 0 : within / (double)job->features;
    /* Where nearly all of the variance lies between samples, the difference has too few digits left. */
    return total.nonfinite == 0 && isfinite(within) && (job->features == 1 || within >= 0.1 * total.m2) &&
           total.m2 >= 0;
}

static void holders(Part *all, const Part *part) {
    if (part->low.value < all->low.value) all->low = part->low;
    if (part->high.value > all->high.value) all->high = part->high;
}

static int64_t count_hidden(const Job *job) {
    int64_t hidden = 0;
    for (int64_t sample = 0; job->real != NULL && sample < job->samples; sample++)
        for (int64_t row = 0; row < job->rows; row++) {
            if (is_real(job, sample, row)) continue;
            const char *at = row_at(job, sample, row);
            for (int64_t c = 0; c < job->features; c++) hidden += !isfinite(number_at(job, at, c));
        }
    return hidden;
}

/* Run a job in parts; out: the columns' fields, then SCALARS. Returns 0 where memory runs out. */
static int run(const Job *job, int parts, double *out, double *scalars) {
    if (parts > job->samples) parts = job->samples > 0 ? (int)job->samples : 1;
    const size_t columns = sizeof(double) * FIELDS * (size_t)job->features;
    const size_t wide = job->type >= BFLOAT16 ? sizeof(float) * ROWS * (size_t)job->features : 0;
    const size_t each = ((sizeof(Work) + 2 * columns + wide + 255) / 256) * 256;
    char *memory = malloc(each * (size_t)parts + 256);
    if (memory == NULL) return 0;
    char *base = memory + (256 - (uintptr_t)memory % 256);
    Part part[MOST_PARTS];
#pragma omp parallel for num_threads(parts) schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        char *mine = base + each * (size_t)p;
        Part own = {columns_at((double *)(void *)(mine + sizeof(Work)), job->features),
                    {0, 0, 0, INFINITY, -INFINITY, 0, 0, 0}, 0, 0, {INFINITY, -1, 0}, {-INFINITY, -1, 0}, mine};
        const Columns sample = columns_at((double *)(void *)(mine + sizeof(Work) + columns), job->features);
        float *rows = (float *)(void *)(mine + sizeof(Work) + 2 * columns);
        const int64_t from = job->samples * p / parts, until = job->samples * (p + 1) / parts;
        clear(&own.columns, job->features);
        if (job->rows == 1) measure_rows(job, &own, rows, from, until);
        else measure_samples(job, &own, rows, &sample, from, until);
        part[p] = own;
    }
    Part all = part[0];
    all.columns = columns_at(out, job->features);
    memcpy(out, part[0].columns.count, columns);
    for (int p = 1; p < parts; p++) {
        for (int64_t c = 0; c < job->features; c++) {
            const Moments column = moments_at(&part[p].columns, c);
            merge_one(&all.columns, c, &column);
        }
        merge_moments(&all.means, &part[p].means);
        all.within_sum += part[p].within_sum;
        all.within_count += part[p].within_count;
        holders(&all, &part[p]);
    }
    free(memory);
    if (job->rows == 1) {
        all.within_count = all.means.count;
        if (job->features == 0) all.within_count = 0;
        else if (!within_from_totals(job, &all, &all.within_sum)) {
            all.within_sum = all.within_count = 0;
            for (int64_t sample = 0; sample < job->samples; sample++) {
                const Moments own = sample_moments(job, sample);
                if (own.count > 0) { all.within_sum += own.m2 / own.count; all.within_count++; }
            }
        }
    }
    scalars[0] = all.within_sum;
    scalars[1] = all.within_count;
    scalars[2] = all.low.sample < 0 ? 0 : (double)(all.low.sample * job->features + all.low.feature);
    scalars[3] = all.high.sample < 0 ? 0 : (double)(all.high.sample * job->features + all.high.feature);
    scalars[4] = (double)count_hidden(job);
    return 1;
}

/* Whether every element that shape and strides reach lies within the given bytes. */
static int within_bounds(const Job *job, int64_t bytes) {
    const int64_t most = (int64_t)1 << 40;
    if (job->samples < 0 || job->rows < 0 || job->features < 0 || bytes < 0) return 0;
    if (job->samples == 0 || job->rows == 0 || job->features == 0) return 1;
    if (job->samples > most || job->rows > most || job->features > most) return 0;
    if (job->by_sample < 0 || job->by_row < 0 || job->by_sample > most || job->by_row > most) return 0;
    const double last = (double)(job->samples - 1) * (double)job->by_sample +
                        (double)(job->rows - 1) * (double)job->by_row + (double)job->features;
    return last * job->size <= (double)bytes && last < 9e15;
}

/* measure(data, bytes, type, samples, rows, features, by_sample, by_row, real, keep, kept, parts, out) */
static PyObject *measure(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    long long a[13];
    if (count != 13) {
        PyErr_SetString(PyExc_TypeError, "measure takes 13 whole numbers");
        return NULL;
    }
    for (int i = 0; i < 13; i++) {
        a[i] = PyLong_AsLongLong(args[i]);
        if (a[i] == -1 && PyErr_Occurred()) return NULL;
    }
    const int type = (int)a[2];
    const int size = type == FLOAT64 ? 8 : type == FLOAT32 ? 4 : 2;
    const Job job = {(const char *)(intptr_t)a[0], type, size, a[3], a[4], a[5], a[6], a[7],
                     (const unsigned char *)(intptr_t)a[8]};
    const int64_t *keep = (const int64_t *)(intptr_t)a[9];
    const int64_t kept = a[10];
    double *out = (double *)(intptr_t)a[12];
    if (type < FLOAT32 || type > FLOAT16 || !within_bounds(&job, a[1]) || kept < 0 || out == NULL) {
        PyErr_SetString(PyExc_ValueError, "shape and strides reach beyond the tensor's memory");
        return NULL;
    }
    for (int64_t i = 0; i < kept; i++)
        if (keep[i] < 0 || keep[i] >= job.samples) {
            PyErr_SetString(PyExc_IndexError, "a kept sample is not among the samples");
            return NULL;
        }
    int done;
    Py_BEGIN_ALLOW_THREADS
    const int parts = a[11] < 1 ? 1 : a[11] > MOST_PARTS ? MOST_PARTS : (int)a[11];
    double *scalars = out + FIELDS * job.features;
    double *samples = scalars + SCALARS;
    done = run(&job, parts, out, scalars);
    for (int64_t i = 0; done && i < kept; i++) {
        const Moments own = sample_moments(&job, keep[i]);
        const double fields[SAMPLE_FIELDS] = {own.count, own.mean, own.m2, own.low, own.high};
        for (int field = 0; field < SAMPLE_FIELDS; field++) samples[field * kept + i] = fields[field];
    }
    Py_END_ALLOW_THREADS
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"measure", (PyCFunction)(void (*)(void))measure, METH_FASTCALL, "Measure a tensor; see normprobe.kernels.cpu."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cpu", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__cpu(void) {
    return PyModule_Create(&definition);
}
