/* SPDX-License-Identifier: Apache-2.0
 *
 * module.c - the module shmpool._hot, and what its types share. It lies in the file of
 * shmpool._native, which has the core: shmpool/_ffi.py loads it from there.
 */
#define _GNU_SOURCE
#include "forked.h"
#include "net.h"
#include "process.h"

PyTypeObject *hot_segment_type, *hot_pool_type, *hot_queue_type, *hot_buffer_type, *hot_burst_type,
	*hot_topic_type, *hot_subscriber_type, *hot_sample_type, *hot_line_type, *hot_turns_type;
uint32_t *hot_process_number;
uint32_t hot_process_numbers;

static int make_process_number(void)
{
	hot_process_number = forked_zeros(sizeof(*hot_process_number));
	if (!hot_process_number)
		PyErr_SetFromErrno(PyExc_OSError);
	return hot_process_number ? 0 : -1;
}

static int add_type(PyObject *module, const char *name, PyType_Spec *spec, PyTypeObject **type)
{
	*type = (PyTypeObject *)PyType_FromSpec(spec);
	return *type ? PyModule_AddObjectRef(module, name, (PyObject *)*type) : -1;
}

static int module_exec(PyObject *module)
{
	if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
		PyErr_SetString(PyExc_ImportError,
				"shmpool works in the main interpreter of a process only, and this "
				"is a sub-interpreter: its C types are the process's (mod_wsgi: "
				"WSGIApplicationGroup %{GLOBAL})");
		return -1;
	}
	static bool imported;
	if (imported) {
		PyErr_SetString(PyExc_ImportError,
				"shmpool is imported already in this process, and was removed from "
				"sys.modules since: its C types cannot be made twice");
		return -1;
	}
	if ((!hot_process_number && make_process_number()) || hot_arguments_init(module) ||
	    hot_raising_init() || hot_ending_init() ||
	    add_type(module, "SegmentBase", &hot_segment_spec, &hot_segment_type) ||
	    add_type(module, "PoolBase", &hot_pool_spec, &hot_pool_type) ||
	    add_type(module, "QueueBase", &hot_queue_spec, &hot_queue_type) ||
	    add_type(module, "BurstBase", &hot_burst_spec, &hot_burst_type) ||
	    add_type(module, "Buffer", &hot_buffer_spec, &hot_buffer_type) ||
	    add_type(module, "TopicBase", &hot_topic_spec, &hot_topic_type) ||
	    add_type(module, "SubscriberBase", &hot_subscriber_spec, &hot_subscriber_type) ||
	    add_type(module, "Sample", &hot_sample_spec, &hot_sample_type) ||
	    add_type(module, "ArrayMemory", &hot_memory_spec, &hot_memory_type) ||
	    add_type(module, "LineBase", &hot_line_spec, &hot_line_type) ||
	    add_type(module, "Turns", &hot_turns_spec, &hot_turns_type) || hot_turns_init() ||
	    PyModule_AddIntConstant(module, "SHORT", HOT_SHORT) || net_init(module))
		return -1;
	imported = true;
	return 0;
}

static PyObject *has_membarrier(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
	return PyBool_FromLong(process_barrier());
}

static PyObject *forks_by_kernel(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
	return PyBool_FromLong(forked_by_kernel());
}

static PyMethodDef module_functions[] = {
	{ "use_numpy", hot_use_numpy, METH_VARARGS, NULL },
	{ "use_pickler", hot_use_pickler, METH_VARARGS, NULL },
	{ "pickled", hot_pickled, METH_O, NULL },
	{ "burst_pack", burst_pack, METH_VARARGS, NULL },
	{ "burst_unpack", burst_unpack, METH_VARARGS, NULL },
	{ "packed_longest", packed_longest, METH_VARARGS, NULL },
	{ "forks_by_kernel", forks_by_kernel, METH_NOARGS,
	  "forks_by_kernel($module)\n--\n\nTrue if madvise(2) keeps memory from forked children." },
	{ "has_membarrier", has_membarrier, METH_NOARGS,
	  "has_membarrier($module)\n--\n\nTrue if membarrier(2) works, which caches need." },
	{ NULL, NULL, 0, NULL },
};

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, module_exec },
	{ 0, NULL },
};

static struct PyModuleDef module_definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "shmpool._hot",
	.m_doc = "The C types behind Pool, AlfQueue, Buffer and Burst, and the reader of timeouts.",
	.m_methods = module_functions,
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__hot(void);

PyMODINIT_FUNC PyInit__hot(void)
{
	return PyModuleDef_Init(&module_definition);
}
