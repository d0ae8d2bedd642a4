/* SPDX-License-Identifier: Apache-2.0
 *
 * sweep.c - see recover.h: one look at every buffer, to find those that the dead had.
 *
 * A buffer's owner word says whose it is, but for the two moments in which a ring's position has moved
 * and the word has not: then the position says it, together with who can have moved it there.
 *
 *     OWNED(dead)                                            the dead's
 *     TRANSIT to a position that a dead producer may have
 *       reserved, void, or unpublished and nobody alive
 *       may have it, or part of a bulk that is not whole     the dead's
 *     TRANSIT to a position behind cons, which nobody alive
 *       may have claimed                                     the dead's
 *     anything else                                          somebody's, or in a queue
 *
 * The second kind is abandoned before the positions become void and all is freed: afterwards the
 * ring may go round, and such a buffer could not be told from one of the third kind; and the ring of
 * free buffers has room for all of them only once consumers can pass.
 */
#include "member.h"
#include "queue.h"
#include "recovery.h"
#include "transfer.h"
#include "wait.h"

/* Whoever is dead and may have claimed the position is not finished with yet. */
static void postpone_claimant(struct recovery *r, const struct alf_ring *ring,
			      alf_position position)
{
	struct dead *consumer = recovery_dead(r, r->consumer[ring->id]);
	if (consumer)
		consumer->postponed = true;
	for (uint32_t i = 0; i < r->deaths; i++)
		if (alf_op_covers(r->dead[i].op, ALF_OP_DEQUEUE, ring->id, position))
			r->dead[i].postponed = true;
}

/* Whether the buffer that reads TRANSIT to a position is one that a dead producer had not published. An
 * owner word has only the low bits of the position; the range has them all. */
static bool in_dead_range(struct recovery *r, struct dead_range *range, uint64_t low)
{
	int64_t offset = owner_behind(low, range->from);
	if (offset < 0 || offset >= (int64_t)range->n)
		return false;
	alf_position position = (alf_position)(range->from + (uint64_t)offset);
	uint64_t word = alf_word(range->ring, position);
	switch (alf_at(range->ring, position, word)) {
	case ALF_AT_VOID:
		return true;
	case ALF_AT_LATER:
		return false;
	case ALF_AT_VALUE: /* of a bulk that is not whole: nobody can have come past its first */
		if (range->certain)
			alf_make_void(range->ring, position, word);
		return range->certain;
	case ALF_AT_UNPUBLISHED:
		break;
	}
	if (range->certain)
		return true;
	recovery_look(r);
	if (!recovery_live(r, ALF_OP_ENQUEUE, range->ring->id, position))
		return alf_word(range->ring, position) == word;
	range->postponed = range->by->postponed = true;
	return false;
}

/* Whether nobody alive can have claimed the position, which lies behind cons. */
static bool dead_claim(struct recovery *r, const struct alf_ring *ring, alf_position position)
{
	if (ring->flags & ALF_SINGLE_CONSUMER) {
		/* It has no op record; a live one is at its last claim. */
		uint32_t consumer = r->consumer[ring->id];
		return !consumer || recovery_dead(r, consumer);
	}
	if (!recovery_live(r, ALF_OP_DEQUEUE, ring->id, position))
		return true;
	postpone_claimant(r, ring, position);
	return false;
}

/* Whether the dead have the buffer, and with *ring set, from that ring. */
static bool dead_has(struct recovery *r, uint64_t owner, const struct alf_ring **ring)
{
	*ring = NULL;
	if (!(owner & OWNER_TRANSIT))
		return recovery_dead(r, owner) || owner & OWNER_ABANDONED;
	const struct alf_ring *from = recovery_ring(r, owner_queue(owner));
	if (!from || owner_behind(owner, r->cons[from->id]) >= 0 ||
	    !dead_claim(r, from, owner_position(owner)))
		return false;
	*ring = from;
	return true;
}

/* The queue that the dead holder of a buffer had got it from, 0 if it had it from the pool. */
static uint32_t came_from(const struct buffer *b, uint64_t owner)
{
	uint32_t said = owner_queue(owner);
	if (said || owner & OWNER_TRANSIT)
		return said;
	return load_relaxed(&b->got) == buffer_generation(b) ? load_relaxed(&b->queue) : 0;
}

/* Where the buffer goes: the number of a queue, or 0 to be freed. from is the queue its dead holder had
 * it from. */
static uint32_t destination(const struct recovery *r, const struct buffer *b, uint32_t from)
{
	if (!from || !recovery_ring(r, from))
		return 0;
	const struct queue_slot *slot = segment_queue(&r->p->segment, from);
	uint32_t most = slot->max_redeliveries, letter = slot->dead_letter;
	if (slot->on_death == ON_DEATH_FREE)
		return 0;
	if (slot->on_death == ON_DEATH_REQUEUE &&
	    !(letter && most && load_relaxed(&b->redelivered) >= most))
		return from;
	return recovery_ring(r, letter) ? letter : 0;
}

/* Takes a buffer of the dead: false if another recoverer was faster. From here on it is a buffer that
 * this member has from queue from, should it die too. Never its tag alone: a dead thief may have had the
 * buffer out of this member's own cache, where it is listed yet, and another thief would find it good. */
static bool take(struct recovery *r, struct buffer *b, uint64_t owner, uint32_t from)
{
	if (!cas_seq_cst(&b->owner, &owner,
			 r->m->tag | OWNER_PUTTING | (uint64_t)from << OWNER_QUEUE_SHIFT))
		return false;
	count_up(&r->m->counters[COUNT_RECOVER], 1);
	r->out->buffers++;
	return true;
}

enum handed { HANDED_ON, NO_ROOM, SOMEBODY_WAS_FASTER };

/* Puts a buffer of the dead into a queue. The position first: when there is none, the buffer stays the
 * dead's, for a later call. */
static enum handed hand_on(struct recovery *r, uint32_t index, uint64_t owner, uint32_t from,
			   uint32_t to)
{
	const struct alf_ring *ring = recovery_ring(r, to);
	struct buffer *b = qmempool_buffer(r->p, index);
	uint64_t handle = index;
	alf_position at;
	if (alf_reserve(ring, &r->m->op, 1, ALF_MULTI, &at)) {
		alf_done(&r->m->op, ALF_MULTI);
		return NO_ROOM;
	}
	if (!take(r, b, owner, from)) {
		store_release(&ring->slot[at & ring->mask],
			      alf_tag(ring, at) | ALF_VOID); /* [SLOT] */
		alf_done(&r->m->op, ALF_MULTI);
		return SOMEBODY_WAS_FASTER;
	}
	store_relaxed(&b->queue, from);
	store_relaxed(&b->got, buffer_generation(b));
	store_relaxed(&b->redelivered, load_relaxed(&b->redelivered) + 1);
	store_release(&b->owner, owner_transit(to, at)); /* [OWNER] */
	alf_publish(ring, at, &handle, 1);
	alf_done(&r->m->op, ALF_MULTI);
	if (to == from)
		r->out->requeued++;
	else
		r->out->dead_lettered++;
	if (wait_anybody(&ring->q->data_wait)) /* [WAIT] after prod moved */
		wait_wake(&ring->q->data_wait, 1);
	return HANDED_ON;
}

/* Leaves a buffer for which there is no room to a later call, with whichever dead member had it. What it
 * had claimed as the only consumer must say so before it loses that role (recover_roles). */
static void leave(struct recovery *r, struct buffer *b, uint64_t owner, const struct alf_ring *ring,
		  uint32_t from)
{
	bool only = ring && ring->flags & ALF_SINGLE_CONSUMER;
	struct dead *by = recovery_dead(r, only ? r->consumer[ring->id] : owner);
	r->left_abandoned |= !ring && owner & OWNER_ABANDONED;
	if (ring && !only) {
		postpone_claimant(r, ring, owner_position(owner));
	} else if (by) {
		by->postponed = true;
		if (only)
			cas_seq_cst(&b->owner, &owner,
				    by->tag | (uint64_t)from << OWNER_QUEUE_SHIFT); /* [OWNER] */
	}
}

struct freed {
	uint64_t handle[BULK_MAX];
	uint32_t n;
};

/* Decides anew whenever somebody else changed the owner word first: that may have been a recoverer which
 * found no room, and left the buffer to whoever does. */
static void sweep_one(struct recovery *r, uint32_t index, struct freed *freed)
{
	struct buffer *b = qmempool_buffer(r->p, index);
	for (;;) {
		const struct alf_ring *ring;
		uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
		if (likely(!dead_has(r, owner, &ring)))
			return;
		uint32_t from = came_from(b, owner), to = destination(r, b, from);
		enum handed handed = to ? hand_on(r, index, owner, from, to) : NO_ROOM;
		if (to && handed == NO_ROOM)
			leave(r, b, owner, ring, from);
		if (to && handed != SOMEBODY_WAS_FASTER)
			return;
		if (!to && take(r, b, owner, 0))
			break;
	}
	uint64_t spent = handle_of(index, buffer_generation(b) + 1);
	store_relaxed(&b->handle, spent);
	freed->handle[freed->n++] = spent;
	if (freed->n == BULK_MAX) {
		qmempool_give(r->p, r->m, freed->handle, freed->n);
		freed->n = 0;
	}
}

/* A buffer on its way into a position that is about to become void waits for the sweep. */
static void unreserve_one(struct recovery *r, uint32_t index)
{
	struct buffer *b = qmempool_buffer(r->p, index);
	uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
	if (!(owner & OWNER_TRANSIT))
		return;
	for (uint32_t i = 0; i < r->ranges; i++) {
		struct dead_range *range = &r->range[i];
		if (range->ring->id != owner_queue(owner) ||
		    !in_dead_range(r, range, owner_position(owner)))
			continue;
		/* Anybody's who sweeps, not range->by's: that one may be finished with by another
		 * recoverer, and the position a later dead one's. */
		if (cas_seq_cst(&b->owner, &owner, r->m->tag | OWNER_ABANDONED)) /* [OWNER] */
			add_seq_cst(&segment_shared(&r->p->segment)->abandoned, 1);
		return;
	}
}

static void sweep_run(struct recovery *r, uint64_t first, uint64_t n, struct freed *freed)
{
	for (uint64_t i = first; i < first + n; i++)
		if (freed)
			sweep_one(r, (uint32_t)i, freed);
		else
			unreserve_one(r, (uint32_t)i);
}

/* Every buffer that exists. */
static void sweep_all(struct recovery *r, struct freed *freed)
{
	const struct segment *s = &r->p->segment;
	uint64_t prealloc = (uint64_t)s->geometry.prealloc, each = s->geometry.extent_buffers;
	sweep_run(r, 0, prealloc, freed);
	for (uint64_t i = 0; i < s->extents; i++) {
		uint64_t first = prealloc + i * each, left = r->p->capacity - first;
		if (load_acquire(segment_extent(s, i)) == EXTENT_PRESENT) /* [EXTENT] */
			sweep_run(r, first, left < each ? left : each, freed);
	}
}

void sweep_unreserve(struct recovery *r)
{
	if (r->ranges)
		sweep_all(r, NULL);
}

void sweep(struct recovery *r)
{
	struct freed freed = { .n = 0 };
	for (uint32_t i = 0; i <= r->p->segment.geometry.queues; i++) {
		const struct alf_ring *ring = recovery_ring(r, i);
		if (!ring)
			continue;
		r->cons[i] = load_acquire(&ring->q->cons);         /* [CONS] */
		r->consumer[i] = load_acquire(&ring->q->consumer); /* pairs with take_role() */
	}
	recovery_look(r);
	sweep_all(r, &freed);
	if (freed.n)
		qmempool_give(r->p, r->m, freed.handle, freed.n);
}
