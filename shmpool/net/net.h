/* SPDX-License-Identifier: Apache-2.0
 *
 * net.h - what this folder adds to the module shmpool._hot: the native halves of shmpool.net.
 *
 * These files stand behind hot/: they use its types, and nothing else uses them.
 */
#ifndef SHMPOOL_NET_H
#define SHMPOOL_NET_H

#include "hot.h"

/* Adds types and functions to the module. 0, or -1 with an exception. */
int net_init(PyObject *module);

#endif
