/* SPDX-License-Identifier: Apache-2.0
 *
 * audit.h - counting every buffer two ways: by its owner word, and by walking the rings and caches.
 *
 * Reads only, takes nothing, may run at any time. A buffer is counted where its owner word says that it
 * is once that place says so too; one that is between two places is counted for the member whose
 * operation it is part of. So every buffer counts exactly once, while everything runs; which of a
 * member's buffers lie in its cache and which in its hands is as of the moment its cache was walked.
 */
#ifndef SHMPOOL_AUDIT_H
#define SHMPOOL_AUDIT_H

#include "qmempool.h"
#include "shmpool.h"

/* Fills held[member number] and queued[queue number], where they have room. 0, -ENOMEM. */
int audit_count(struct qmempool *p, struct shmpool_audit *out, struct shmpool_held *held,
		size_t held_n, uint64_t *queued, size_t queued_n);

/* Counts without walking: what the positions and cache lengths say. */
void audit_stats(struct qmempool *p, struct shmpool_stats *out);

#endif
