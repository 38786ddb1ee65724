/* Names of Python attributes, interned once, and the parts of torch that `configure` is given. */
#ifndef NORMPROBE_INTERNED_H
#define NORMPROBE_INTERNED_H

#include "python_objects.h"

/* X(name) of each attribute that is looked up by its name. They must equal the names in torch, in
 * `normprobe.capture.forwards.forward.Forward`, `layer_state.LayerState` and `site_state.SiteState`: where one is renamed there
 * and not here, a hook raises AttributeError. */
#define TENSOR_ATTRIBUTES(X)                                                                                           \
    X(shape) X(stride) X(dtype) X(data_ptr) X(_version) X(is_cpu) X(is_nested) X(is_neg) X(is_inference)
#define MODULE_ATTRIBUTES(X) X(training) X(_parameters) X(_buffers)
#define FORWARD_ATTRIBUTES(X) X(state)
#define LAYER_STATE_ATTRIBUTES(X) X(scaled) X(index) X(note_mode) X(masked_by)
#define SITE_STATE_ATTRIBUTES(X) X(counters)
#define ATTRIBUTES(X)                                                                                                  \
    TENSOR_ATTRIBUTES(X) MODULE_ATTRIBUTES(X) FORWARD_ATTRIBUTES(X) LAYER_STATE_ATTRIBUTES(X) SITE_STATE_ATTRIBUTES(X)

static struct {
    ATTRIBUTES(MEMBER)
} interned;

/* What `configure` was given; see there. */
static PyObject *dtypes, *plain_types, *graph_task, *grad_enabled, *inference_enabled;

/* What makes a hook that does nothing; `set_empty_hook` gives it. */
static PyObject *empty_hook;

/* The types of this extension, made once at import. */
static PyTypeObject *choice_type, *accumulator_type, *batch_moments_type, *recent_moments_type;
static PyTypeObject *counters_type, *plan_slot_type, *cached_plan_type, *forward_state_type;
static PyTypeObject *current_forward_type, *lock_type;

static int intern_names(void) {
#define INTERN(name)                                                                                                   \
    if ((interned.name = PyUnicode_InternFromString(#name)) == NULL) return 0;
    ATTRIBUTES(INTERN)
#undef INTERN
    return 1;
}

#endif
