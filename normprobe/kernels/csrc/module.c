/* One pass over a tensor to the moments of its features and samples, added to what a site has met so far.
 *
 * Blocks of rows are added up in the tensor's own precision about a pivot near each column's mean, then merged
 * into double by the update of Chan, Golub and LeVeque (1979). A block whose pivot turns out far from its mean is
 * added up again about its own mean; one with numbers that are not finite, or whose squares leave the range, is
 * done in double. Parts of the rows have moments of their own, merged in order: the result depends on the number of
 * threads, never on which thread did what.
 *
 * Python sees twelve types. A CompiledChoice says which samples of a forward count and which are kept. A AccumulatorState is what one site
 * has met; it reads a tensor as (outer, inner, features) by its own rule and from the tensor's own shape and strides,
 * and adds up in place what no other site reads. A BatchMoments is what one tensor holds that several read, so that it is
 * measured once, and a RecentMoments holds those of a forward. An LayerHook is the hook of a layer, a ContainerHook that of a module that
 * holds layers; they look up the SiteCounters of a site, the ForwardState of the forward that a thread is Inside, and in a PlanSlot what
 * alike sites CachedPlan on, under a Lock.
 */
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "numerics/splitmix64.h"
#include "hooks/fast_hooks.h"

static void hold_on(PyObject **to, PyObject *given) {
    PyObject *known = *to;
    Py_INCREF(given);
    *to = given;
    Py_XDECREF(known);
}

/* learn((float32, float64, bfloat16, float16), plain tensor types, (which backward runs, whether gradients are taken,
 * whether this is inference mode), table of functions or None): the dtypes in the order of the types here, three
 * functions of torch, and what fills a DLPack tensor from one of torch's */
static PyObject *configure(PyObject *module, PyObject *args) {
    PyObject *types, *plain_ones, *modes[3], *table;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!(OOO)O", &PyTuple_Type, &types, &PyTuple_Type, &plain_ones, &modes[0], &modes[1],
                          &modes[2], &table))
        return NULL;
    const DLPackExchange *given = table == Py_None ? NULL : PyCapsule_GetPointer(table, "dlpack_exchange_api");
    if (PyErr_Occurred()) return NULL;
    exchange = given != NULL && given->version.major == DLPACK_MAJOR && given->fill != NULL ? given : NULL;
    if (PyTuple_Size(types) != TYPES) {
        PyErr_SetString(PyExc_TypeError, "four dtypes are needed");
        return NULL;
    }
    hold_on(&dtypes, types);
    hold_on(&plain_types, plain_ones);
    hold_on(&graph_task, modes[0]);
    hold_on(&grad_enabled, modes[1]);
    hold_on(&inference_enabled, modes[2]);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"configure", configure, METH_VARARGS, "Say what of torch's the extension reads and asks."},
    {"hashes", hashes, METH_VARARGS, "The hash of each (seed, example, position)."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cpu", NULL, -1, functions, NULL, NULL, NULL, NULL};

static PyTypeObject *type_of(PyObject *module, PyType_Spec *spec, const char *name) {
    PyObject *type = PyType_FromSpec(spec);
    if (type == NULL || PyModule_AddObjectRef(module, name, type) < 0) return NULL;
    return (PyTypeObject *)type;
}

PyMODINIT_FUNC PyInit__cpu(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    choice_type = type_of(module, &choice_spec, "CompiledChoice");
    batch_moments_type = type_of(module, &batch_moments_spec, "BatchMoments");
    state_type = type_of(module, &state_spec, "AccumulatorState");
    recent_moments_type = type_of(module, &recent_moments_spec, "RecentMoments");
    forward_state_type = type_of(module, &forward_state_spec, "ForwardState");
    counters_type = type_of(module, &counters_spec, "SiteCounters");
    plan_slot_type = type_of(module, &plan_slot_spec, "PlanSlot");
    cached_plan_type = type_of(module, &cached_plan_spec, "CachedPlan");
    current_forward_type = type_of(module, &current_forward_spec, "CurrentForward");
    lock_type = type_of(module, &lock_spec, "Lock");
    const int known = choice_type != NULL && batch_moments_type != NULL && state_type != NULL && recent_moments_type != NULL &&
                      current_forward_type != NULL && lock_type != NULL && forward_state_type != NULL && counters_type != NULL &&
                      plan_slot_type != NULL && cached_plan_type != NULL &&
                      type_of(module, &layer_hook_spec, "LayerHook") != NULL && type_of(module, &container_hook_spec, "ContainerHook") != NULL &&
                      intern_names();
    dtypes = PyTuple_New(0);
    plain_types = PyTuple_New(0);
    if (known && dtypes != NULL && plain_types != NULL && PyModule_AddIntMacro(module, INPUT) == 0 &&
        PyModule_AddIntMacro(module, OUTPUT) == 0)
        return module;
    Py_DECREF(module);
    return NULL;
}
