/* SPDX-License-Identifier: Apache-2.0
 *
 * audit.c - see audit.h.
 */
#include "audit.h"

#include <stdlib.h>
#include <string.h>

#include "member.h"
#include "queue.h"

/* One bit a buffer: found by the walk. */
struct walk {
	const struct qmempool *p;
	uint64_t *seen;
	struct shmpool_audit *out;
};

/* A buffer found in a ring or a cache, which its owner word should say too. */
static bool found(struct walk *w, uint64_t index, uint64_t owner)
{
	if (index >= w->p->capacity || !segment_exists(&w->p->segment, (uint32_t)index)) {
		w->out->doubled++;
		return false;
	}
	if (w->seen[index / 64] >> index % 64 & 1) {
		w->out->doubled++;
		return false;
	}
	w->seen[index / 64] |= 1ull << index % 64;
	if (load_acquire(&qmempool_buffer(w->p, (uint32_t)index)->owner) != owner)
		w->out->unaccounted++;
	return true;
}

static uint64_t walk_ring(struct walk *w, const struct alf_ring *r)
{
	uint64_t count = 0;
	alf_position cons = load_acquire(&r->q->cons), prod = load_acquire(&r->q->prod);
	if ((alf_position)(prod - cons) > r->mask + 1)
		prod = cons;
	for (alf_position at = cons; at != prod; at++) {
		uint64_t word = load_acquire(&r->slot[at & r->mask]) ^ alf_tag(r, at); /* [SLOT] */
		if (word <= ALF_INDEX_MASK)
			count += found(w, word, owner_transit(r->id, at));
	}
	return count;
}

static uint64_t walk_cache(struct walk *w, const struct member *m)
{
	uint64_t count = 0;
	uint64_t bottom = load_acquire(&m->cache_stolen), mask = w->p->cache_size - 1; /* [CACHE] */
	uint32_t len = member_cached(&w->p->segment, m);
	for (uint32_t i = 0; i < len; i++) {
		uint64_t handle = load_relaxed(&m->cache[(bottom + i) & mask]);
		count += found(w, handle_index(handle), owner_member(m->number));
	}
	return count;
}

int audit_count(struct qmempool *p, struct shmpool_audit *out, uint64_t *held, size_t held_n,
		uint64_t *queued, size_t queued_n)
{
	const struct segment *s = &p->segment;
	struct walk w = { p, calloc(p->capacity / 64 + 1, 8), out };
	if (!w.seen)
		return -ENOMEM;
	memset(out, 0, sizeof(*out));
	out->free = walk_ring(&w, &p->free);
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		const struct alf_ring *r = queue_ring(p, i);
		if (r && i < queued_n)
			queued[i] += walk_ring(&w, r);
	}
	for (uint32_t i = 0; i < s->geometry.members; i++) {
		const struct member *m = segment_member(s, i);
		out->cached += walk_cache(&w, m);
	}
	for (uint32_t i = 0; i < p->capacity; i++) {
		if (!segment_exists(s, i))
			continue;
		out->total++;
		if (w.seen[i / 64] >> i % 64 & 1)
			continue;
		uint64_t owner = load_acquire(&qmempool_buffer(p, i)->owner) & ~OWNER_PUTTING;
		if (owner == 0 || owner > (uint64_t)s->geometry.members ||
		    !load_acquire(&segment_member(s, (uint32_t)owner - 1)->identity))
			out->unaccounted++;
		else if (owner - 1 < held_n)
			held[owner - 1]++;
	}
	free(w.seen);
	return 0;
}

void audit_stats(struct qmempool *p, struct shmpool_stats *out)
{
	const struct segment *s = &p->segment;
	memset(out, 0, sizeof(*out));
	out->created = s->geometry.prealloc;
	for (uint64_t i = 0; i < s->extents; i++)
		if (load_acquire(segment_extent(s, i)) == EXTENT_PRESENT) { /* [EXTENT] */
			uint64_t first = s->geometry.prealloc + i * s->geometry.extent_buffers;
			uint64_t left = s->geometry.capacity - first;
			out->created += left < s->geometry.extent_buffers ?
						left :
						s->geometry.extent_buffers;
		}
	out->free = alf_count(&p->free);
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		const struct alf_ring *r = queue_ring(p, i);
		if (r)
			out->queued += alf_count(r);
	}
	for (int k = 0; k < COUNTERS; k++)
		out->counters[k] = load_relaxed(&segment_shared(s)->retired[k]);
	for (uint32_t i = 0; i < s->geometry.members; i++) {
		const struct member *m = segment_member(s, i);
		out->cached += member_cached(s, m);
		if (!load_acquire(&m->identity)) /* [MEMBER] */
			continue;
		out->members++;
		for (int k = 0; k < COUNTERS; k++)
			out->counters[k] += member_count(m, k);
	}
}
