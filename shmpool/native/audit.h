/* SPDX-License-Identifier: Apache-2.0
 *
 * audit.h - counts every buffer two ways: by its owner word, and by walking the rings and caches.
 *
 * An audit only reads, and may run at any time. It counts a buffer where its owner word says that
 * it is, once that place says the same. A buffer between two places counts for the member whose
 * operation it is part of. So each buffer counts exactly once while everything runs. Which of a
 * member's buffers count as cached, and which as held, is decided when its cache is walked.
 *
 * Progress: an audit is made in steps. Each step ends after a given processor time, whatever the
 * segment contains. The audit's state is in the caller's memory. All bounds come from the geometry
 * that was checked when the pool was opened. Walks touch only memory that the file has
 * (slab_backed()): otherwise an audit of a sparse file could allocate gigabytes.
 */
#ifndef SHMPOOL_AUDIT_H
#define SHMPOOL_AUDIT_H

#include "qmempool.h"
#include "shmpool.h"

/* Returns the number of 64-bit words of the bitmap that an audit needs, one bit for each buffer. */
static inline size_t audit_words(uint32_t capacity)
{
	return capacity / 64 + 1;
}

/* Continues an audit for about budget_ns of the calling thread's processor time. Fills held[member
 * number] and queued[queue number], as far as they have room; met has audit_words(). Returns 1 if
 * there is more to do, 0 if the audit is complete, -ENOMEM, or -EBADMSG if the file lacks memory
 * that its buffers need. */
int audit_step(struct qmempool *p, struct shmpool_audit *out, struct shmpool_held *held,
	       size_t held_n, uint64_t *queued, size_t queued_n, uint64_t *met, int64_t budget_ns);

/* Makes a whole audit. Returns 0, -ENOMEM or -EBADMSG. */
int audit_count(struct qmempool *p, struct shmpool_audit *out, struct shmpool_held *held,
		size_t held_n, uint64_t *queued, size_t queued_n);

/* True if the slot may be stale: its buffer may have been taken from behind a suspended member
 * (bypass.c). */
static inline bool audit_stale(const struct qmempool *p, const struct alf_ring *r, alf_position at)
{
	if (segment_free_ring(&p->segment, r->id) == CLASSES_MAX)
		return false;
	alf_position limit = load_relaxed(pool_bypassed(r));
	return limit && (alf_distance)(at - limit) < 0;
}

/* Counts without walking: from the positions, the cache lengths and the extents. */
void audit_stats(struct qmempool *p, struct shmpool_stats *out);

#endif
