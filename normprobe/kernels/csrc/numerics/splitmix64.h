/* splitmix64 (Steele, Lea, Flood 2014), the hash by which samples are kept; twin of kernels/splitmix64.py.
 *
 * It cannot change once files are saved: tests pin its values. */
#ifndef NORMPROBE_SPLITMIX64_H
#define NORMPROBE_SPLITMIX64_H

#include <Python.h>
#include <stdint.h>

/* The next state after adding a number. */
static uint64_t mix(uint64_t state, uint64_t number) {
    state = (state ^ number) + 0x9E3779B97F4A7C15u;
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
    return state ^ (state >> 31);
}

/* hashes(seed, example, position) -> the bytes of a uint64 below 2**63 for each pair of int64 numbers */
static PyObject *hashes(PyObject *module, PyObject *args) {
    unsigned long long seed;
    Py_buffer example, position;
    (void)module;
    if (!PyArg_ParseTuple(args, "Ky*y*", &seed, &example, &position)) return NULL;
    const Py_ssize_t count = example.len / (Py_ssize_t)sizeof(uint64_t);
    PyObject *bytes = NULL;
    if (example.len == position.len) bytes = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(uint64_t));
    else PyErr_SetString(PyExc_ValueError, "as many positions as examples are needed");
    if (bytes != NULL) {
        const uint64_t seeded = mix(0, seed), *examples = example.buf, *positions = position.buf;
        uint64_t *to = (uint64_t *)(void *)PyBytes_AsString(bytes);
        for (Py_ssize_t i = 0; i < count; i++) to[i] = mix(mix(seeded, examples[i]), positions[i]) >> 1;
    }
    PyBuffer_Release(&example);
    PyBuffer_Release(&position);
    return bytes;
}

#endif
