/* What the loops of row_loops.h and column_loops.h repeat for each of four or eight numbers side by side.
 *
 * T and ABS are those of the number type that the loops are included for.
 */
#ifndef NORMPROBE_LOOP_MACROS_H
#define NORMPROBE_LOOP_MACROS_H

#define LOW(a, b) ((a) < (b) ? (a) : (b))
#define HIGH(a, b) ((a) > (b) ? (a) : (b))
#define EIGHT(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define PAIRS(f) ((f(0) + f(1)) + (f(2) + f(3))) + ((f(4) + f(5)) + (f(6) + f(7)))
#define ITSELF(k) x##k
#define DIFFERENCE(k) d##k
#define SQUARE(k) d##k *d##k
#define ABSOLUTE(k) ABS(x##k)
#define ZERO(k) (x##k == (T)0 ? (T)1 : (T)0)

#define ROW(k) const T *RESTRICT r##k = eight[k];
#define VALUE(k) const T x##k = r##k[c];
#define NO_LANES(k) T t##k[STRIP] = {0};
#define PREFETCH_ROW(k) PREFETCH(r##k + next);
#define READ(k) const T x##k = r##k[at + j];
#define LANE(k)                                                                                                        \
    const T d##k = x##k - p, m##k = ABS(x##k);                                                                         \
    if (by_row) t##k[j] += d##k;
#define MAGNITUDE(k) m##k
#define LANES_OF(k) s##k += t##k[j];

#define FOUR(f) f(0) f(1) f(2) f(3)
#define FOURFOLD(f) ((f(0) + f(1)) + (f(2) + f(3)))
#define NUMBER(k) const T x##k = from[k * LANES + j], d##k = x##k - pivot;

#endif
