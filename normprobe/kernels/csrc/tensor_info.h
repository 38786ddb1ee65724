/* TensorInfo: type, sizes, strides and address of a tensor, if its numbers lie in memory as those say.
 *
 * Torch from 2.10 on fills a DLPack tensor from one of its own in one call, through a table of functions whose layout
 * DLPack promises to keep (https://dmlc.github.io/dlpack/latest/c_api.html); of an older torch each is read as an
 * attribute.
 */
#ifndef NORMPROBE_TENSOR_INFO_H
#define NORMPROBE_TENSOR_INFO_H

#include "numerics/axis_roles.h"
#include "interned.h"

enum { DLPACK_MAJOR = 1, DLPACK_CPU = 1, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4 };

typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t axes;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t offset;
} DLPackTensor;

typedef struct {
    struct {
        uint32_t major, minor;
    } version;
    void *before, *allocate, *lend, *take;
    int (*fill)(void *tensor, DLPackTensor *to);
    void *stream;
} DLPackExchange;

/* Torch's table, NULL if it has none. */
static const DLPackExchange *dlpack_exchange;

typedef struct {
    int count, type;
    int64_t shape[MAX_AXES], strides[MAX_AXES];
    const PyObject *dtype; /* not a reference: torch's dtypes live as long as it does */
    void *data;
} TensorInfo;

/* Read a tuple of whole numbers; returns their count, or -1 with an error. */
static int read_sizes(PyObject *tuple, int64_t *to) {
    const Py_ssize_t count = tuple != NULL && PyTuple_Check(tuple) ? PyTuple_Size(tuple) : -1;
    if (count < 0 || count >= MAX_AXES) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a tensor of plain sizes is needed");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        to[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (to[i] == -1 && PyErr_Occurred()) return -1;
    }
    return (int)count;
}

/* Whether an object is a tensor, of no subclass but torch's own. */
static int is_tensor(PyObject *object) {
    const PyTypeObject *type = Py_TYPE(object);
    int known = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(plain_types); i++)
        known |= (const PyTypeObject *)PyTuple_GetItem(plain_types, i) == type;
    return known;
}

/* Whether a tensor is of a type whose numbers lie in memory as they are: a subclass may hold them elsewhere, and a lazy
 * minus sign is not in memory. -1 with an error. */
static int is_plain(PyObject *tensor) {
    if (!is_tensor(tensor)) return 0;
    const int negated = is_true(tensor, interned.is_neg, 1);
    return negated < 0 ? -1 : !negated;
}

/* Read a plain tensor attribute by attribute. Returns what `read_tensor_info` does. */
static int info_by_attributes(PyObject *tensor, TensorInfo *to) {
    const int on_cpu = is_true(tensor, interned.is_cpu, 0);
    const int nested = on_cpu <= 0 ? on_cpu : is_true(tensor, interned.is_nested, 0);
    if (on_cpu <= 0 || nested != 0) return on_cpu < 0 || nested < 0 ? -1 : 0;
    PyObject *sizes = PyObject_GetAttr(tensor, interned.shape);
    to->count = read_sizes(sizes, to->shape);
    Py_XDECREF(sizes);
    PyObject *steps = to->count < 0 ? NULL : PyObject_CallMethodObjArgs(tensor, interned.stride, NULL);
    const int same = steps != NULL && read_sizes(steps, to->strides) == to->count;
    Py_XDECREF(steps);
    PyObject *dtype = same ? PyObject_GetAttr(tensor, interned.dtype) : NULL;
    PyObject *address = dtype == NULL ? NULL : PyObject_CallMethodObjArgs(tensor, interned.data_ptr, NULL);
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

/* The same by DLPack. */
static int info_by_dlpack(PyObject *tensor, TensorInfo *to) {
    DLPackTensor given;
    if (dlpack_exchange->fill(tensor, &given) != 0) return -1;
    if (given.device.type != DLPACK_CPU || given.axes >= MAX_AXES || given.dtype.lanes != 1) return 0;
    const int bits = given.dtype.bits;
    to->type = given.dtype.code == DLPACK_BFLOAT && bits == 16 ? BFLOAT16
               : given.dtype.code != DLPACK_FLOAT              ? TYPES
               : bits == 16                                    ? FLOAT16
               : bits == 32                                    ? FLOAT32
               : bits == 64                                    ? FLOAT64
                                                               : TYPES;
    if (to->type == TYPES) return 0;
    to->count = given.axes;
    to->data = (char *)given.data + given.offset;
    to->dtype = PyTuple_GetItem(dtypes, to->type);
    for (int i = 0; i < given.axes; i++) {
        to->shape[i] = given.shape[i];
        to->strides[i] = given.strides[i];
    }
    return to->dtype != NULL;
}

/* Read a tensor. 1: done; 0: its numbers do not lie in memory, or are of no type that is read here; -1: an error. */
static int read_tensor_info(PyObject *tensor, TensorInfo *to) {
    int readable = is_plain(tensor);
    if (readable > 0) readable = dlpack_exchange == NULL ? info_by_attributes(tensor, to) : info_by_dlpack(tensor, to);
    if (readable >= 0 || !PyErr_ExceptionMatches(PyExc_Exception)) return readable;
    PyErr_Clear(); /* a tensor of which torch or DLPack cannot say where its numbers lie */
    return 0;
}

#endif
