/* CompiledChoice: which rows of a tensor count, which samples are kept and in which slots; twin of kernels/choice.py.
 *
 * It never changes once made, so it may be read without the interpreter's lock. All indices are checked here: nothing
 * that reads them looks at the bounds again. */
#ifndef NORMPROBE_CHOICE_H
#define NORMPROBE_CHOICE_H

#include "interned.h"
#include "numerics/traverse.h"

typedef struct {
    PyObject_HEAD
    int64_t outer, inner;                    /* samples, and rows of each */
    unsigned char *real;                     /* per row, PADDING, COUNTS or NOT_ASKED; NULL: all count */
    int64_t counted;                         /* how many rows count */
    int whole;                               /* see Job in traverse.h */
    int64_t kept, *keep, *slots;             /* so many samples, ascending, and where each is kept */
    int64_t raw_kept, *raw_rows, *raw_slots; /* likewise rows whose numbers are kept */
} CompiledChoice;

/* A copy of a buffer of int64 numbers within [0, limit), or NULL with an error. */
static int64_t *numbers_of(PyObject *source, int64_t limit, int64_t *count) {
    Py_buffer view;
    if (PyObject_GetBuffer(source, &view, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    *count = view.len / (int64_t)sizeof(int64_t);
    int64_t *copy = view.itemsize == sizeof(int64_t) ? malloc((size_t)view.len + 1) : NULL;
    if (copy == NULL) PyErr_SetString(PyExc_ValueError, "a list of int64 numbers is needed");
    else if (view.len > 0) memcpy(copy, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    for (int64_t i = 0; copy != NULL && i < *count; i++)
        if (copy[i] < 0 || copy[i] >= limit) {
            PyErr_SetString(PyExc_IndexError, "an index is out of range");
            free(copy);
            return NULL;
        }
    return copy;
}

/* A copy of a mask of one byte per row, or NULL with an error. */
static unsigned char *mask_of(PyObject *source, int64_t rows) {
    Py_buffer view;
    if (PyObject_GetBuffer(source, &view, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    unsigned char *copy = view.itemsize == 1 && view.len == rows ? malloc((size_t)rows + 1) : NULL;
    if (copy == NULL) PyErr_SetString(PyExc_ValueError, "a mask needs one byte per row");
    else memcpy(copy, view.buf, (size_t)rows);
    PyBuffer_Release(&view);
    return copy;
}

/* Count the rows that count, and see whether samples count as a whole. */
static void summarize_rows(CompiledChoice *choice) {
    const int64_t rows = choice->outer * choice->inner;
    choice->counted = choice->real == NULL ? rows : 0;
    choice->whole = 1;
    for (int64_t row = 0; choice->real != NULL && row < rows; row++) {
        const unsigned char says = choice->real[row];
        choice->counted += says == COUNTS;
        choice->whole &= says != PADDING && says == choice->real[row - row % choice->inner];
    }
}

static void choice_free(PyObject *object) {
    CompiledChoice *choice = (CompiledChoice *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(choice->real);
    free(choice->keep);
    free(choice->slots);
    free(choice->raw_rows);
    free(choice->raw_slots);
    PyObject_Free(object);
    Py_DECREF(type);
}

static int ascending(const int64_t *numbers, int64_t count) {
    for (int64_t i = 1; i < count; i++)
        if (numbers[i] <= numbers[i - 1]) return 0;
    return 1;
}

/* CompiledChoice(samples, rows, real, keep, slots, raw_rows, raw_slots) */
static PyObject *choice_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    long long outer, inner;
    PyObject *real, *keep, *slots, *raw_rows, *raw_slots;
    if (!PyArg_ParseTuple(args, "LLOOOOO", &outer, &inner, &real, &keep, &slots, &raw_rows, &raw_slots)) return NULL;
    const long long most = 1LL << 40;
    if (outer < 0 || inner < 0 || outer > most || inner > most || (inner > 0 && outer > most / inner)) {
        PyErr_SetString(PyExc_ValueError, "a choice needs sizes from 0 on");
        return NULL;
    }
    CompiledChoice *choice = (CompiledChoice *)PyType_GenericAlloc(type, 0);
    if (choice == NULL) return NULL;
    int64_t slots_count = 0, raw_slots_count = 0;
    choice->outer = outer;
    choice->inner = inner;
    const int64_t rows = outer * inner, any = INT64_MAX;
    if (real != Py_None && (choice->real = mask_of(real, rows)) == NULL) goto fail;
    if ((choice->keep = numbers_of(keep, outer, &choice->kept)) == NULL) goto fail;
    if ((choice->slots = numbers_of(slots, any, &slots_count)) == NULL) goto fail;
    if ((choice->raw_rows = numbers_of(raw_rows, rows, &choice->raw_kept)) == NULL) goto fail;
    if ((choice->raw_slots = numbers_of(raw_slots, any, &raw_slots_count)) == NULL) goto fail;
    if (slots_count != choice->kept || raw_slots_count != choice->raw_kept || !ascending(choice->keep, choice->kept)) {
        PyErr_SetString(PyExc_ValueError, "a choice needs a slot for each kept sample, and those in ascending order");
        goto fail;
    }
    summarize_rows(choice);
    return (PyObject *)choice;
fail:
    Py_DECREF(choice);
    return NULL;
}

static PyType_Slot choice_slots[] = {{Py_tp_new, (void *)choice_new}, {Py_tp_dealloc, (void *)choice_free}, {0, NULL}};
static PyType_Spec choice_spec = {"normprobe.kernels._cpu.CompiledChoice", sizeof(CompiledChoice), 0,
                                  Py_TPFLAGS_DEFAULT, choice_slots};

#endif
