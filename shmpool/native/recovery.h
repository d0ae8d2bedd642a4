/* SPDX-License-Identifier: Apache-2.0
 *
 * recovery.h - the state of one run of recover(): its dead members, and what live members may be
 * doing. Used by recover.c (finds dead members, repairs words that name them), ranges.c
 * (positions that were reserved and not published), subscribers.c (subscribers of topics) and
 * sweep.c (scans every buffer).
 */
#ifndef SHMPOOL_RECOVERY_H
#define SHMPOOL_RECOVERY_H

#include "alf_repair.h"
#include "cover.h"
#include "pool.h"

struct dead {
	uint64_t identity;
	uint64_t op[CLASSES_MAX]; /* of each block */
	uint32_t number;
	uint32_t tag;
	bool postponed; /* a live member's operation must end before this one can be recovered */
};

/* Positions that a dead producer may have reserved, all between the ring's cons when the run began
 * and one ring length beyond. Dead members have reserved nothing since, and what consumers have
 * passed needs no repair. Ranges are sorted and do not overlap, except that a certain one may
 * overlap an uncertain one. */
struct dead_range {
	const struct alf_ring *ring;
	alf_position from;
	uint64_t at; /* distance of from to that cons */
	uint64_t n;
	struct dead *by;
	bool certain;   /* from the first unpublished position on, all are by's */
	bool postponed; /* a live member may have reserved one of them */
};

struct recovery {
	struct qmempool *p;
	struct member *m; /* the recoverer; NULL if it has no slot: then it abandons buffers */
	uint64_t token;   /* of its process */
	struct shmpool_recovery *out;
	struct dead *dead;
	uint32_t deaths;
	uint32_t *dead_at; /* by member number: 1 + its index in dead, 0 for none */
	struct dead_range *range;
	uint32_t ranges;
	alf_position *base; /* by queue slot: cons when the ranges were made */
	struct cover live;  /* one snapshot of the op records of live members */
	bool orphans;       /* heads of chains were freed: their segments are to be swept */
	bool left;          /* an abandoned buffer waits for room, or for a recoverer with a slot */
	bool unasked;       /* the kernel could not be asked whether some process is alive */
	bool no_memory;     /* a queue could not be mapped here: no slot may be freed in this run */
	alf_position *cons; /* by queue slot, read before live */
	uint32_t *consumer; /* by queue slot: the single consumer's tag, read after cons */
	struct topic_gone *gone; /* by queue slot: the subscribers of dead processes */
	bool subscribers;        /* there are some */
};

/* Returns the dead member that a tag names, NULL for none. */
static inline struct dead *recovery_dead(const struct recovery *r, uint64_t word)
{
	uint32_t number = tag_number(word);
	if (number >= r->p->segment.members || !r->dead_at[number])
		return NULL;
	struct dead *d = &r->dead[r->dead_at[number] - 1];
	return d->tag == (uint32_t)word ? d : NULL;
}

/* Allocates the arrays of a run. Returns 0 or -ENOMEM. Call recovery_end() in both cases. */
int recovery_begin(struct recovery *r);
void recovery_end(struct recovery *r);

/* Takes a snapshot of the op records of live members. The positions and slots in question must have
 * been read before. */
void recovery_read_ops(struct recovery *r);

/* True if one of the dead member's operations covers the position. */
static inline bool recovery_covers(const struct recovery *r, const struct dead *d,
				   enum alf_op_kind kind, uint32_t queue, uint64_t position)
{
	for (uint32_t k = 0; k < segment_classes(&r->p->segment); k++)
		if (alf_op_covers(d->op[k], kind, queue, (alf_position)position))
			return true;
	return false;
}

/* True if a live member may have reserved (claimed) the position at the last snapshot. */
static inline bool recovery_live(const struct recovery *r, enum alf_op_kind kind, uint32_t queue,
				 alf_position position)
{
	return cover_has(&r->live, kind, queue, position);
}

/* Finds the subscribers of topics whose processes are dead, and marks them DEAD. */
void subscribers_mark(struct recovery *r);

/* Evicts, before a sweep, the messages on which members that evict may still set the bits of those
 * subscribers. */
void subscribers_evict(struct recovery *r);

/* Frees those subscribers, after a sweep of all buffers. */
void subscribers_vacate(struct recovery *r);

/* Collects into r->range what dead members may have reserved. */
void ranges_collect(struct recovery *r);

/* Returns the range that covers a position, a certain one if there is one, or NULL. low has the
 * position's bits in an owner word; *position receives the whole position. */
struct dead_range *ranges_find(const struct recovery *r, uint32_t queue, uint64_t low,
			       alf_position *position);

/* Makes tombstones of what no live member will publish. Call it after sweep_unreserve(), which
 * needs the slots as they are. */
void ranges_bury(struct recovery *r);

/* Returns the ring of a queue slot, NULL for none. */
const struct alf_ring *recovery_ring(struct recovery *r, uint32_t queue);

/* Abandons the buffers in TRANSIT to positions of r->range. */
void sweep_unreserve(struct recovery *r);

/* Takes every buffer that a dead member owns or that is abandoned, and frees it or puts it where
 * its queue's on_death says. A recoverer without a slot abandons the buffers instead. */
void sweep(struct recovery *r);

#endif
