/* SPDX-License-Identifier: Apache-2.0
 *
 * audit.h - counting every buffer two ways: by its owner word, and by walking the rings and caches.
 *
 * Reads only, takes nothing, may run at any time. A buffer is counted where its owner word says
 * that it is once that place says so too; one that is between two places is counted for the member
 * whose operation it is part of. So every buffer counts exactly once, while everything runs; which
 * of a member's buffers lie in its cache and which in its hands is as of the moment its cache was
 * walked.
 *
 * Progress: an audit is made in steps, each of which ends after so much processor time, whatever
 * the segment says. Where it goes on stands in the caller's own memory. All bounds come from the
 * geometry that was checked when the pool was opened, and walks do not touch memory that the file
 * does not have (slab_backed): else a sparse file could make whoever looks at it pay for gigabytes.
 */
#ifndef SHMPOOL_AUDIT_H
#define SHMPOOL_AUDIT_H

#include "qmempool.h"
#include "shmpool.h"

/* Words of the bitmap that an audit needs: a bit for each buffer. */
static inline size_t audit_words(uint32_t capacity)
{
	return capacity / 64 + 1;
}

/* Goes on with an audit for about budget_ns of this thread's processor time. Fills held[member
 * number] and queued[queue number], where they have room; met has audit_words(). 1 if there is more
 * to do, 0 if it is complete, -ENOMEM, -EBADMSG. */
int audit_step(struct qmempool *p, struct shmpool_audit *out, struct shmpool_held *held,
	       size_t held_n, uint64_t *queued, size_t queued_n, uint64_t *met, int64_t budget_ns);

/* A whole audit. 0, -ENOMEM, -EBADMSG. */
int audit_count(struct qmempool *p, struct shmpool_audit *out, struct shmpool_held *held,
		size_t held_n, uint64_t *queued, size_t queued_n);

/* Whether the slot's buffer may have been taken from behind a stopped member (bypass.c). */
static inline bool audit_stale(const struct qmempool *p, const struct alf_ring *r, alf_position at)
{
	alf_position limit = load_relaxed(&segment_shared(&p->segment)->bypassed);
	return r->id == 0 && limit && (alf_distance)(at - limit) < 0;
}

/* Counts without walking: what the positions, cache lengths and extents say. */
void audit_stats(struct qmempool *p, struct shmpool_stats *out);

#endif
