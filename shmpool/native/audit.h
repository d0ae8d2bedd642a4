/* SPDX-License-Identifier: Apache-2.0
 *
 * audit.h - counting every buffer two ways: by its owner word, and by walking the rings and caches.
 *
 * Reads only. Exact while nothing moves.
 */
#ifndef SHMPOOL_AUDIT_H
#define SHMPOOL_AUDIT_H

#include "qmempool.h"
#include "shmpool.h"

/* held[member number] and queued[queue number] are added to, where they have room. 0, -ENOMEM. */
int audit_count(struct qmempool *p, struct shmpool_audit *out, uint64_t *held, size_t held_n,
		uint64_t *queued, size_t queued_n);

/* Counts without walking: what the positions and cache lengths say. */
void audit_stats(struct qmempool *p, struct shmpool_stats *out);

#endif
