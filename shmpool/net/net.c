/* SPDX-License-Identifier: Apache-2.0
 *
 * net.c - adds the parts of this folder to the module shmpool._hot.
 */
#include "net.h"
#include "headers.h"
#include "xdp.h"

static PyMethodDef functions[] = {
	{ "encode", net_encode, METH_VARARGS, NULL },
	{ "burst_headers", headers_read, METH_VARARGS, NULL },
	{ "burst_checksums", headers_checksums, METH_VARARGS, NULL },
	{ "burst_set_checksums", headers_set_checksums, METH_VARARGS, NULL },
	{ "burst_forward", headers_forward, METH_VARARGS, NULL },
	{ "toeplitz_table", headers_toeplitz_table, METH_O, NULL },
	{ "toeplitz_hashes", headers_toeplitz, METH_VARARGS, NULL },
	{ "xdp_program", net_xdp_program, METH_VARARGS, NULL },
	{ "xdp_steer", net_xdp_steer, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static int add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
	PyObject *type = PyType_FromSpec(spec);
	const int error = type ? PyModule_AddObjectRef(module, name, type) : -1;
	Py_XDECREF(type);
	return error;
}

int net_init(PyObject *module)
{
	if (add_type(module, "Scan", &net_scan_spec) || add_type(module, "Ring", &net_ring_spec) ||
	    add_type(module, "Receiver", &net_receiver_spec) ||
	    add_type(module, "Sender", &net_sender_spec) || add_type(module, "Xdp", &net_xdp_spec))
		return -1;
	return PyModule_AddFunctions(module, functions);
}
