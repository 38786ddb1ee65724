/* A TensorInfo at a tensor: its type, sizes, strides and address, if its numbers lie in memory as those say.
 *
 * Torch from 2.10 on fills a DLPack tensor from its own at once, through a table of functions whose layout DLPack
 * promises to keep (https://dmlc.github.io/dlpack/latest/c_api.html); of an older torch each is an attribute.
 */
#ifndef NORMPROBE_TENSOR_INFO_H
#define NORMPROBE_TENSOR_INFO_H

#include "numerics/moments.h"
#include "interned.h"

enum { MOST_AXES = 64, DLPACK_MAJOR = 1, DLPACK_CPU = 1, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4 };

typedef struct {
    void *data;
    struct { int32_t type, id; } device;
    int32_t axes;
    struct { uint8_t code, bits; uint16_t lanes; } dtype;
    int64_t *shape, *strides;
    uint64_t offset;
} DLPackTensor;

typedef struct {
    struct { uint32_t major, minor; } version;
    void *before, *allocate, *lend, *take;
    int (*fill)(void *tensor, DLPackTensor *to);
    void *stream;
} DLPackExchange;

/* That of torch's tensors, if this torch has one. */
static const DLPackExchange *exchange;

typedef struct {
    int count, type;
    int64_t shape[MOST_AXES], strides[MOST_AXES];
    const PyObject *dtype; /* not a reference: torch's dtypes live as long as it does */
    void *data;
} TensorInfo;

/* A tuple of whole numbers; their count, or -1 with an error. */
static int read_sizes(PyObject *tuple, int64_t *to) {
    const Py_ssize_t count = tuple != NULL && PyTuple_Check(tuple) ? PyTuple_Size(tuple) : -1;
    if (count < 0 || count >= MOST_AXES) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a tensor of plain sizes is needed");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        to[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (to[i] == -1 && PyErr_Occurred()) return -1;
    }
    return (int)count;
}

/* Whether a tensor is of a type whose numbers lie in memory, and not with another sign than there; -1 with an error. */
static int plain(PyObject *tensor) {
    const PyTypeObject *type = Py_TYPE(tensor);
    int known = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(plain_types); i++)
        known |= (const PyTypeObject *)PyTuple_GetItem(plain_types, i) == type;
    if (!known) return 0;
    const int negated = is_true(tensor, names.is_neg, 1);
    return negated < 0 ? -1 : !negated;
}

/* Look at a plain tensor attribute by attribute. What `read_info` gives. */
static int info_up(PyObject *tensor, TensorInfo *to) {
    const int entry_here = is_true(tensor, names.is_cpu, 0);
    const int nested = entry_here <= 0 ? entry_here : is_true(tensor, names.is_nested, 0);
    if (entry_here <= 0 || nested != 0) return entry_here < 0 || nested < 0 ? -1 : 0;
    PyObject *sizes = PyObject_GetAttr(tensor, names.shape);
    to->count = read_sizes(sizes, to->shape);
    Py_XDECREF(sizes);
    PyObject *steps = to->count < 0 ? NULL : PyObject_CallMethodObjArgs(tensor, names.stride, NULL);
    const int same = steps != NULL && read_sizes(steps, to->strides) == to->count;
    Py_XDECREF(steps);
    PyObject *dtype = same ? PyObject_GetAttr(tensor, names.dtype) : NULL;
    PyObject *address = dtype == NULL ? NULL : PyObject_CallMethodObjArgs(tensor, names.data_ptr, NULL);
    to->data = address == NULL ? NULL : PyLong_AsVoidPtr(address);
    to->dtype = dtype;
    to->type = TYPES;
    for (int i = 0; i < TYPES; i++)
        if (PyTuple_GetItem(dtypes, i) == dtype) to->type = i;
    Py_XDECREF(address);
    Py_XDECREF(dtype);
    if (PyErr_Occurred()) return -1;
    return same && to->type != TYPES;
}

/* The same at once. */
static int info_through(PyObject *tensor, TensorInfo *to) {
    DLPackTensor seen;
    if (exchange->fill(tensor, &seen) != 0) return -1;
    if (seen.device.type != DLPACK_CPU || seen.axes >= MOST_AXES || seen.dtype.lanes != 1) return 0;
    const int bits = seen.dtype.bits;
    to->type = seen.dtype.code == DLPACK_BFLOAT && bits == 16 ? BFLOAT16
               : seen.dtype.code != DLPACK_FLOAT              ? TYPES
               : bits == 16                                   ? FLOAT16
               : bits == 32                                   ? FLOAT32
               : bits == 64                                   ? FLOAT64
                                                              : TYPES;
    if (to->type == TYPES) return 0;
    to->count = seen.axes;
    to->data = (char *)seen.data + seen.offset;
    to->dtype = PyTuple_GetItem(dtypes, to->type);
    for (int i = 0; i < seen.axes; i++) {
        to->shape[i] = seen.shape[i];
        to->strides[i] = seen.strides[i];
    }
    return to->dtype != NULL;
}

/* Look at a tensor. 1: done; 0: its numbers do not lie in memory, or are of no type that is read here; -1: an error. */
static int read_info(PyObject *tensor, TensorInfo *to) {
    int seen = plain(tensor);
    if (seen > 0) seen = exchange == NULL ? info_up(tensor, to) : info_through(tensor, to);
    if (seen >= 0 || !PyErr_ExceptionMatches(PyExc_Exception)) return seen;
    PyErr_Clear(); /* a tensor of which torch or DLPack cannot say where its numbers lie */
    return 0;
}

#endif
