/* SPDX-License-Identifier: Apache-2.0
 *
 * populate.h - maps all memory of a pool in this process, so that its first use of a page costs
 * nothing.
 *
 * Only what exists is mapped: its own words, the rings of its queues, headers and data of buffers.
 * Mapping a hole of the file would allocate it. The caller keeps the pool from being trimmed: a
 * trimmer could remove an extent between the read of its word and the mapping.
 *
 * Who may call what at the same time: any thread anything.
 */
#ifndef SHMPOOL_POPULATE_H
#define SHMPOOL_POPULATE_H

#include "pool.h"

/* Maps the next part of what exists, from *at on, 0 at first. fresh: this process has made the
 * pool. Returns 1 if there is more. Returns 0 at the end, after which this process also maps what
 * it adds to the pool. -EBADMSG if the file lacks memory for what it says exists; or what
 * memory_populate() returns. */
int populate_step(struct qmempool *p, uint64_t *at, bool fresh);

#endif
