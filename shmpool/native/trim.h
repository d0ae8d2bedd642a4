/* SPDX-License-Identifier: Apache-2.0
 *
 * trim.h - gives the memory of free buffers back to the kernel, by whole extents.
 *
 * Any number of members may trim at any time. Others go on, and find free buffers: a trimmer holds
 * an eighth of the free buffers at a time, or one extent, and leaves the last one unless the slab
 * can grow. The free ring passes through its hands once for each eighth. slab_grow() creates a
 * removed extent again when it is needed. Buffer headers keep their memory, since a sweep or an
 * audit may be reading them, and keep their generations.
 *
 * Nothing is removed while a process has the pool pinned (token.h): a device would go on reading
 * the pages that the process has registered, while the extent gets new ones.
 *
 * Nor by a process that has locked its mapping: the kernel keeps what is locked.
 *
 * Huge pages are removed whole: those that segment_reserve() makes lie within an extent.
 *
 *     step                              a crash after it leaves            repaired by
 *     collect() takes free buffers      buffers OWNED(dead)                sweep()
 *     extent: PRESENT -> trimmer's tag  an extent that no member uses      recover_makers()
 *     if the pool is pinned:
 *       extent: tag -> PRESENT          buffers OWNED(dead)                sweep()
 *     trims + 1, memory given back      the same                           recover_makers()
 *     extent: tag -> 0                  nothing: the extent is absent
 *
 * Progress: no member waits for the trimmer.
 */
#ifndef SHMPOOL_TRIM_H
#define SHMPOOL_TRIM_H

#include "qmempool.h"

/* Removes extents as long as keep buffers stay free, trying each extent once. Returns the number of
 * bytes given back to the kernel, or -ENOMEM. */
int64_t trim(struct qmempool *p, struct member *m, uint64_t keep);

#endif
