/* SPDX-License-Identifier: Apache-2.0
 *
 * bypass.c - see bypass.h.
 */
#include "bypass.h"

#include "alf_repair.h"
#include "wait.h"

#define ANNOUNCE_TRIES 64 /* compare-and-swaps lost to others that raise the limit */
#define BYPASS_REST_NS 2000000ll

/* Announces that slots of the ring before limit may be stale. False if it lost ANNOUNCE_TRIES
 * times. */
static bool announce_stale(const struct alf_ring *r, alf_position limit)
{
	alf_position said = load_seq_cst(pool_bypassed(r)); /* [BYPASS] */
	limit += limit == 0; /* 0 means never; one slot more does no harm */
	for (int i = 0; i < ANNOUNCE_TRIES; i++)
		if ((said && (alf_distance)(limit - said) <= 0) ||
		    cas_seq_cst(pool_bypassed(r), &said, limit)) /* [BYPASS] */
			return true;
	return false;
}

/* The part of a ring from which buffers are taken. */
struct window {
	const struct alf_ring *r;
	alf_position begin, end;
};

/* Announces that all slots of the ring up to now may be stale. False if that fails. */
static bool open_window(struct window *w, const struct alf_ring *r)
{
	w->r = r;
	w->end = load_acquire(&r->q->prod); /* [PROD] */
	if (!announce_stale(r, w->end))
		return false;
	w->begin = load_seq_cst(&r->q->cons); /* [BYPASS] [CONS] after that */
	return true;
}

/* True if the owner word of a buffer is TRANSIT to a published position in the window of its ring:
 * the first one is that of the free ring, the others are those of the side rings. */
static bool in_window(const struct qmempool *p, const struct window *w, uint64_t owner,
		      uint32_t index)
{
	const alf_position low = (alf_position)owner_position(owner);
	const uint32_t id = owner_queue(owner);
	if (id != p->free.id) {
		if (!p->sides || id - p->side->id >= p->sides)
			return false;
		w += 1 + id - p->side->id;
	}
	return owner_behind(owner, w->begin) >= 0 && owner_behind(owner, w->end) < 0 &&
	       (alf_word(w->r, low) ^ alf_tag(w->r, low)) == index;
}

uint32_t bypass_take(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max,
		     uint32_t most)
{
	const uint32_t first = p->segment.first, n = p->capacity - first;
	uint32_t got = 0, at = first + (load_relaxed(&p->bypass_at) - first) % n;
	struct window window[1 + SIDES_MAX];
	uint64_t sum = load_acquire(&p->free.q->prod) + /* [PROD] */
		       load_relaxed(&segment_shared(&p->segment)->abandoned);
	for (uint32_t i = 0; i < p->sides; i++)
		sum += load_acquire(&p->side[i].q->prod); /* [PROD] */
	if (most < n && load_relaxed(&p->bypass_sum) == sum &&
	    wait_coarse() < load_relaxed(&p->bypass_rest_ns))
		return 0;
	if (!open_window(&window[0], &p->free))
		return 0;
	for (uint32_t i = 0; i < p->sides; i++)
		if (!open_window(&window[1 + i], &p->side[i]))
			return 0;
	for (uint32_t looks = 0; looks < most && looks < n && got < max; looks++) {
		uint32_t index = at;
		struct buffer *b = pool_buffer(p, index);
		at = at + 1 < p->capacity ? at + 1 : first;
		if (!segment_exists(&p->segment, index))
			continue;
		uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
		bool free = owner & OWNER_TRANSIT ?
				    in_window(p, window, owner, index) :
				    owner & OWNER_ABANDONED && !owner_queue(owner) &&
					    (!load_relaxed(&b->queue) ||
					     load_relaxed(&b->got) != buffer_generation(b));
		if (!free || !cas_seq_cst(&b->owner, &owner, m->tag)) /* [OWNER] */
			continue;
		handle[got] = handle_of(index, buffer_generation(b));
		if (likely(!buffer_heads(b)))
			got++;
		else /* a recoverer frees it, with its segments */
			pool_abandon(p, &handle[got], 1, 0);
	}
	store_relaxed(&p->bypass_at, at);
	if (!got) {
		store_relaxed(&p->bypass_sum, sum);
		store_relaxed(&p->bypass_rest_ns, wait_coarse() + BYPASS_REST_NS);
	}
	return got;
}

/* Makes the buffer of a claimed slot m's. False if the slot is stale. */
static bool take_claimed(const struct qmempool *p, struct member *m, const struct alf_ring *r,
			 uint64_t op, uint32_t index)
{
	if (index >= p->capacity)
		return false; /* the ring is corrupted */
	struct buffer *b = pool_buffer(p, index);
	uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
	/* The buffer may be in the ring again at a later position. */
	return owner & OWNER_TRANSIT && owner_queue(owner) == r->id &&
	       alf_op_covers(op, ALF_OP_DEQUEUE, r->id, (alf_position)owner_position(owner)) &&
	       cas_seq_cst(&b->owner, &owner, m->tag); /* [OWNER] */
}

uint32_t bypass_check_claim(const struct qmempool *p, struct member *m, const struct alf_ring *r,
			    uint64_t *handle, uint32_t claimed, uint32_t n, uint32_t *tries)
{
	uint32_t good = 0, alone = BYPASS_TRIES;
	if (!tries)
		tries = &alone;
	while (claimed) {
		uint64_t op = load_relaxed(&m->op);
		alf_position cons = load_relaxed(&r->q->cons);
		alf_position first = (alf_position)(cons - alf_op_offset(op, cons));
		alf_position limit = load_relaxed(pool_bypassed(r));
		if ((alf_distance)(first - limit) >= 0)
			return claimed;
		for (uint32_t i = 0; i < claimed; i++)
			if (take_claimed(p, m, r, op, handle_index(handle[i])))
				handle[good++] = handle[i];
		if (good || !*tries)
			break; /* never between a claim and the check of its slots */
		--*tries;
		claimed = alf_claim(r, &m->op, handle, n, ALF_MULTI);
	}
	return good;
}
