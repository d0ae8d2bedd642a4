/* SPDX-License-Identifier: Apache-2.0
 *
 * recovery.h - one run of recover(): what it knows of the dead and the living. Shared by recover.c,
 * which finds the dead and mends what they left in words that name them, and sweep.c, which looks
 * at every buffer.
 */
#ifndef SHMPOOL_RECOVERY_H
#define SHMPOOL_RECOVERY_H

#include "alf_repair.h"
#include "cover.h"
#include "recover.h"

struct dead {
	uint64_t identity;
	uint64_t op;
	uint32_t number;
	uint32_t tag;
	bool postponed; /* something that may be its is left for later */
};

/* Positions that a dead producer may have reserved. Those of a ring lie between what cons was when
 * the run began and a ring's length beyond: dead members have reserved nothing since, and what is
 * passed is done with. They are in order and do not overlap, but that certain ones may overlap
 * others. */
struct dead_range {
	const struct alf_ring *ring;
	alf_position from;
	uint64_t at; /* from's distance from that cons */
	uint64_t n;
	struct dead *by;
	bool certain;   /* they are by's, from the first that is not published on */
	bool postponed; /* somebody alive may have one of them */
};

struct recovery {
	struct qmempool *p;
	struct member *m; /* the recoverer's; NULL while it has none: then buffers are abandoned */
	uint64_t token;   /* its process's */
	struct shmpool_recovery *out;
	struct dead *dead;
	uint32_t deaths;
	uint32_t *dead_at; /* by member number: 1 + its index in dead */
	struct dead_range *range;
	uint32_t ranges;
	alf_position *base; /* by queue: cons when the ranges were made */
	struct cover live;  /* what live members may be in the middle of, one snapshot */
	bool left; /* an abandoned buffer waits for room in a queue, or for a recoverer with a member */
	bool no_memory; /* a queue that exists could not be looked at: nobody is finished with */
	alf_position *cons; /* by queue, read before live_op */
	uint32_t *consumer; /* by queue, of single-consumer ones, read after cons */
};

/* The dead member that a tag names, NULL if it names none. */
static inline struct dead *recovery_dead(const struct recovery *r, uint64_t word)
{
	uint32_t number = tag_number(word);
	if (number >= r->p->segment.members || !r->dead_at[number])
		return NULL;
	struct dead *d = &r->dead[r->dead_at[number] - 1];
	return d->tag == (uint32_t)word ? d : NULL;
}

/* recover() in so many passes at most: another one follows while something waits for a live member
 * to end its operation. */
int recover_passes(struct qmempool *p, struct member *m, struct shmpool_recovery *out, int passes);

/* Reads what live members may be in the middle of; what is asked about must have been read before.
 *  */
void recovery_look(struct recovery *r);

/* Whether a live member may have reserved (claimed) the position, as of the last look. */
static inline bool recovery_live(const struct recovery *r, enum alf_op_kind kind, uint32_t queue,
				 alf_position position)
{
	return cover_has(&r->live, kind, queue, position);
}

/* Collects what the dead members may have reserved, into r->range. */
void ranges_collect(struct recovery *r);

/* The range that covers a position, NULL for none; a certain one if there is one. low is the
 * position as an owner word has it, *position the whole one. */
struct dead_range *ranges_find(const struct recovery *r, uint32_t queue, uint64_t low,
			       alf_position *position);

/* Makes tombstones of what nobody will publish, once the buffers that were on their way there are
 * known. */
void ranges_bury(struct recovery *r);

/* The ring of a queue, the free ring for 0, NULL for none. */
const struct alf_ring *recovery_ring(struct recovery *r, uint32_t queue);

/* Abandons the buffers that were on their way into r->range. */
void sweep_unreserve(struct recovery *r);

/* Takes every buffer that a dead member has or that is abandoned, and frees it or hands it on as
 * its queue says. Without a member: abandons every buffer of a dead one. */
void sweep(struct recovery *r);

#endif
