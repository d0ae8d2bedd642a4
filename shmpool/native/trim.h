/* SPDX-License-Identifier: Apache-2.0
 *
 * trim.h - giving the memory of buffers that nobody uses back to the kernel.
 *
 * Any number of members at any time; everybody else goes on, and finds free buffers: an eighth of
 * them, or one extent, are in the trimmer's hands at a time, and the last one that is free stays
 * unless others can make one. The shared queue passes through its hands once for each eighth. An
 * extent all of whose buffers the caller has got hold of is absent again: slab_grow() makes it anew
 * when it is needed. Headers stay, because whoever sweeps or audits may be looking at them, and so
 * do generations.
 *
 * Progress: nobody waits. A trimmer that dies leaves its buffers OWNED(dead), or the extent named
 * after it, which is as good as absent (recover.h).
 */
#ifndef SHMPOOL_TRIM_H
#define SHMPOOL_TRIM_H

#include "qmempool.h"

/* Trims as many extents as leave keep buffers free, each one tried once. Bytes given back, -ENOMEM.
 *  */
int64_t trim(struct qmempool *p, struct member *m, uint64_t keep);

#endif
