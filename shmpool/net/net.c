/* SPDX-License-Identifier: Apache-2.0
 *
 * net.c - adds the parts of this folder to the module shmpool._hot.
 */
#include "net.h"

static PyMethodDef functions[] = {
	{ NULL, NULL, 0, NULL },
};

int net_init(PyObject *module)
{
	return PyModule_AddFunctions(module, functions);
}
