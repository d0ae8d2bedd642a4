/* SPDX-License-Identifier: Apache-2.0
 *
 * net.c - adds the parts of this folder to the module shmpool._hot.
 */
#include "net.h"
#include "headers.h"

static PyMethodDef functions[] = {
	{ "burst_headers", headers_read, METH_VARARGS, NULL },
	{ "burst_checksums", headers_checksums, METH_VARARGS, NULL },
	{ "burst_set_checksums", headers_set_checksums, METH_VARARGS, NULL },
	{ "burst_forward", headers_forward, METH_VARARGS, NULL },
	{ "toeplitz_table", headers_toeplitz_table, METH_O, NULL },
	{ "toeplitz_hashes", headers_toeplitz, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

int net_init(PyObject *module)
{
	return PyModule_AddFunctions(module, functions);
}
