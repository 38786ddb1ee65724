/* normprobe.kernels._cpu: measures tensors on the CPU in one pass, and hooks that call it without Python in between.
 *
 * numerics/ adds up blocks of rows in the tensor's own precision about a pivot near each column's mean and merges them
 * in double by the update of Chan, Golub and LeVeque (1979). A block whose pivot turns out far from its mean is added
 * up again about its own mean; one with numbers that are not finite, or whose squares leave the range, is done in
 * double.
 *
 * distributions/ adds fourth powers and counts in bins, in a second pass that is only there where it is asked for.
 *
 * hooks/ decides whether a call can be measured without asking Python, by what Python left in plain memory.
 *
 * All of it is one compilation unit: every function is static, and what is small is inlined. State of the process are
 * `interned` names, the types, what `configure` was given, a workspace (accumulator.h) and the last serial of a forward
 * (current_forward.h), all touched under the interpreter's lock only; so there is one interpreter per process.
 */
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "distributions/distribution.h"
#include "hooks/fast_hooks.h"
#include "numerics/splitmix64.h"

/* configure((float32, float64, bfloat16, float16), types of plain tensors, (id of the backward pass that runs, whether
 * gradients are taken, whether inference mode is on), DLPack table or None)
 *
 * Dtypes are in the order of their enum in moments.h; the three are functions of torch without arguments; the table is
 * a capsule that fills a DLPack tensor from one of torch's (tensor_info.h). */
static PyObject *configure(PyObject *module, PyObject *args) {
    PyObject *given_dtypes, *given_types, *modes[3], *capsule;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!(OOO)O", &PyTuple_Type, &given_dtypes, &PyTuple_Type, &given_types, &modes[0],
                          &modes[1], &modes[2], &capsule))
        return NULL;
    const DLPackExchange *table = capsule == Py_None ? NULL : PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (PyErr_Occurred()) return NULL;
    if (PyTuple_Size(given_dtypes) != TYPES) {
        PyErr_SetString(PyExc_TypeError, "four dtypes are needed");
        return NULL;
    }
    dlpack_exchange = table != NULL && table->version.major == DLPACK_MAJOR && table->fill != NULL ? table : NULL;
    replace(&dtypes, given_dtypes);
    replace(&plain_types, given_types);
    replace(&graph_task, modes[0]);
    replace(&grad_enabled, modes[1]);
    replace(&inference_enabled, modes[2]);
    Py_RETURN_NONE;
}

/* versions(tensors) -> the sum of their versions: one tensor that was written to since makes it larger */
static PyObject *versions(PyObject *module, PyObject *tensors) {
    (void)module;
    if (!PyTuple_Check(tensors)) return PyErr_Format(PyExc_TypeError, "a tuple is needed");
    long long sum = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(tensors); i++) {
        const long long version = number_attribute(PyTuple_GetItem(tensors, i), interned._version);
        if (version == -1 && PyErr_Occurred()) return NULL;
        sum += version;
    }
    return PyLong_FromLongLong(sum);
}

/* set_empty_hook(function): what stands for a hook in copies and pickles, called without arguments */
static PyObject *set_empty_hook(PyObject *module, PyObject *function) {
    (void)module;
    replace(&empty_hook, function);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"versions", versions, METH_O, "The sum of the versions of tensors."},
    {"set_empty_hook", set_empty_hook, METH_O, "Set what stands for a hook in copies."},
    {"configure", configure, METH_VARARGS, "Set the parts of torch that the extension reads and calls."},
    {"hashes", hashes, METH_VARARGS, "The hash of each (seed, example, position)."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cpu", NULL, -1, functions, NULL, NULL, NULL, NULL};

/* Add a type to the module under the last part of its name, and store it; 0 with an error. */
static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **to) {
    PyObject *type = PyType_FromSpec(spec);
    if (to != NULL) *to = (PyTypeObject *)type;
    return type != NULL && PyModule_AddObjectRef(module, strrchr(spec->name, '.') + 1, type) == 0;
}

/* Add the names of the fields of moments, in order, for Python to take apart what `fields` gives; 0 with an error. */
static int add_field_names(PyObject *module) {
#define NAME_OF(name, empty) #name,
    const char *names[] = {MOMENT_FIELDS(NAME_OF)};
#undef NAME_OF
    PyObject *tuple = PyTuple_New(FIELDS);
    for (int i = 0; tuple != NULL && i < FIELDS; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (name == NULL || PyTuple_SetItem(tuple, i, name) < 0) Py_CLEAR(tuple);
    }
    const int added = tuple != NULL && PyModule_AddObjectRef(module, "MOMENT_FIELDS", tuple) == 0 &&
                      PyModule_AddIntMacro(module, SAMPLE_FIELDS) == 0;
    Py_XDECREF(tuple);
    return added;
}

static int add_types(PyObject *module) {
    return add_type(module, &choice_spec, &choice_type) && add_type(module, &batch_moments_spec, &batch_moments_type) &&
           add_type(module, &accumulator_spec, &accumulator_type) &&
           add_type(module, &recent_moments_spec, &recent_moments_type) &&
           add_type(module, &distribution_spec, &distribution_type) &&
           add_type(module, &counters_spec, &counters_type) &&
           add_type(module, &forward_state_spec, &forward_state_type) &&
           add_type(module, &current_forward_spec, &current_forward_type) && add_type(module, &lock_spec, &lock_type) &&
           add_type(module, &plan_slot_spec, &plan_slot_type) &&
           add_type(module, &cached_plan_spec, &cached_plan_type) && add_type(module, &layer_hook_spec, NULL) &&
           add_type(module, &container_hook_spec, NULL);
}

PyMODINIT_FUNC PyInit__cpu(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    dtypes = PyTuple_New(0);
    plain_types = PyTuple_New(0);
    empty_hook = Py_NewRef(Py_None);
    if (dtypes != NULL && plain_types != NULL && intern_names() && add_types(module) && add_field_names(module) &&
        PyModule_AddIntMacro(module, CENTRAL_FIELDS) == 0 && PyModule_AddIntMacro(module, BINS) == 0 &&
        PyModule_AddIntMacro(module, INPUT) == 0 && PyModule_AddIntMacro(module, OUTPUT) == 0)
        return module;
    Py_DECREF(module);
    return NULL;
}
