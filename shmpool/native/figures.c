/* SPDX-License-Identifier: Apache-2.0
 *
 * figures.c - see shmpool.h: the figures of a pool, read without changing it.
 */
#include <errno.h>
#include <string.h>

#include "alf_repair.h"
#include "audit.h"
#include "guard.h"
#include "liveness.h"
#include "lookup.h"
#include "member.h"
#include "recover.h"
#include "topic.h"

/* Slots that one call reads to count stale ones: below 2 ms once their pages are mapped; and one
 * more in each ring. */
#define STALE_SAMPLES 16384

/* The slots that a call reads, in all rings of free buffers that it counts. */
struct samples {
	uint64_t slots; /* that may be stale */
	uint64_t left;  /* to read */
	uint64_t estimated;
	bool asked; /* backed is known. slab_backed() reads all extents' words */
	bool backed;
};

/* Returns how many slots of a ring of free buffers may be stale, from *cons on. */
static uint64_t may_be_stale(const struct qmempool *p, const struct alf_ring *r, struct samples *s,
			     alf_position *cons)
{
	*cons = load_acquire(&r->q->cons); /* [CONS] */
	alf_distance ahead = (alf_distance)(load_relaxed(pool_bypassed(r)) - *cons);
	if (ahead <= 0 || !audit_stale(p, r, *cons))
		return 0;
	uint64_t n = (uint64_t)ahead < r->mask + 1 ? (uint64_t)ahead : r->mask + 1;
	if (n * SEGMENT_PAGE <= SLAB_SMALL)
		return n;
	if (!s->asked) /* once a call: there may be hundreds of rings */
		s->backed = slab_backed(&p->segment);
	s->asked = true;
	return s->backed ? n : 0;
}

/* Adds the rings of a class to those that are counted. */
static void add_samples(const struct qmempool *p, struct samples *s)
{
	alf_position cons;
	s->slots += may_be_stale(p, &p->free, s, &cons);
	for (uint32_t i = 0; i < p->sides; i++)
		s->slots += may_be_stale(p, &p->side[i], s, &cons);
	s->left += 1 + p->sides;
}

/* Counts the stale slots of a ring of free buffers: their buffers were taken from behind a
 * suspended member. If there are many in all rings, reads some at equal distances, the same in each
 * ring unless slots have become stale since add_samples(). */
static uint64_t count_stale(const struct qmempool *p, const struct alf_ring *r, struct samples *s)
{
	alf_position cons;
	const uint64_t n = may_be_stale(p, r, s, &cons);
	uint64_t apart = (s->slots + STALE_SAMPLES - 1) / STALE_SAMPLES, found = 0;
	if (!n || !s->left) {
		s->estimated |= n != 0;
		return 0;
	}
	apart = apart * s->left < n ? (n + s->left - 1) / s->left : apart;
	const uint64_t samples = (n + apart - 1) / apart;
	s->left -= samples;
	for (uint64_t k = 0; k < samples; k++) {
		alf_position at = (alf_position)(cons + k * apart);
		uint64_t word = alf_word(r, at), index = word & ALF_INDEX_MASK;
		found += alf_at(r, at, word) == ALF_AT_VALUE &&
			 index - p->segment.first < (uint64_t)p->segment.geometry.capacity &&
			 segment_exists(&p->segment, (uint32_t)index) &&
			 load_acquire(&pool_buffer(p, (uint32_t)index)->owner) !=
				 owner_transit(r->id, at); /* [OWNER] */
	}
	s->estimated |= apart > 1;
	return found * n / samples;
}

/* Counts the buffers in a ring of free buffers. */
static uint64_t count_free(const struct qmempool *p, const struct alf_ring *r, struct samples *s)
{
	uint64_t in_ring = alf_count(r), stale = count_stale(p, r, s);
	return in_ring > stale ? in_ring - stale : 0;
}

/* Counts the buffers of a class that exist, and those in its free ring and its side rings. */
static void count_class(struct qmempool *p, struct shmpool_class_stats *of, struct samples *s)
{
	of->created = slab_created(&p->segment);
	of->free = count_free(p, &p->free, s);
	for (uint32_t i = 0; i < p->sides; i++)
		of->free += count_free(p, &p->side[i], s);
}

void audit_stats(struct qmempool *p, struct shmpool_stats *out)
{
	const struct segment *s = &p->segment;
	memset(out, 0, sizeof(*out));
	struct samples samples = { .left = STALE_SAMPLES };
	for (uint32_t i = 0; i < segment_classes(s); i++)
		add_samples(pool_class(p, i), &samples);
	for (uint32_t i = 0; i < segment_classes(s); i++) {
		count_class(pool_class(p, i), &out->classes[i], &samples);
		out->created += out->classes[i].created;
		out->free += out->classes[i].free;
	}
	out->estimated = samples.estimated;
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		const struct alf_ring *r = queue_ring(p, i);
		if (!r)
			continue;
		out->queued += alf_count(r);
		out->refused += load_relaxed(&segment_queue(s, i)->refused);
		out->dropped += load_relaxed(&segment_queue(s, i)->dropped);
	}
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *m = segment_member(s, i);
		uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		for (uint32_t k = 0; k < segment_classes(s) && !member_gone(identity); k++) {
			uint32_t n =
				cache_length(&pool_class(p, k)->segment, segment_block(s, m, k));
			out->cached += n;
			out->classes[k].cached += n;
		}
		out->members += identity != 0;
		out->deaths += load_relaxed(&m->deaths);
		for (uint32_t class = 0; class < segment_classes(s); class++) {
			for (int k = 0; k < COUNT_CHAINED; k++)
				out->counters[k] += member_count(segment_block(s, m, class), k);
			out->chained += member_count(segment_block(s, m, class), COUNT_CHAINED);
		}
	}
}

int shmpool_intact(int pool)
{
	if (!opening_pool((uint32_t)pool))
		return opening_missing((uint32_t)pool);
	return guard_intact((uint32_t)pool) ? 0 : -EBADMSG;
}

int shmpool_stats(int pool, struct shmpool_stats *out)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	audit_stats(p, out);
	return (int)opening_read((uint32_t)pool, 0);
}

int shmpool_class_stats(int pool, uint32_t number, struct shmpool_class_stats *out)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	struct samples samples = { .left = STALE_SAMPLES };
	if (!p)
		return opening_missing((uint32_t)pool);
	if (number >= segment_classes(&p->segment))
		return -EINVAL;
	const struct segment *s = &pool_class(p, number)->segment;
	*out = (struct shmpool_class_stats) { 0 };
	add_samples(pool_class(p, number), &samples);
	count_class(pool_class(p, number), out, &samples);
	for (uint32_t i = 0; i < s->members && s->geometry.cache_size; i++) {
		const struct member *m = segment_member(s, i);
		if (!member_gone(load_acquire(&m->identity))) /* [MEMBER] */
			out->cached += cache_length(s, segment_block(&p->segment, m, number));
	}
	return (int)opening_read((uint32_t)pool, 0);
}

int shmpool_members(int pool, struct shmpool_member_info *out, size_t n)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	size_t got = 0;
	if (!p)
		return opening_missing((uint32_t)pool);
	for (uint32_t i = 0; i < p->segment.members && got < n; i++) {
		const struct member *m = segment_member(&p->segment, i);
		uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		if (!identity)
			continue;
		struct shmpool_member_info *info = &out[got++];
		*info = (struct shmpool_member_info) {
			.attached_ns = load_relaxed(&m->attached_ns),
			.token = member_token(identity),
			.number = i,
			.pid = load_relaxed(&m->pid),
			.tid = load_relaxed(&m->tid),
			.start = load_relaxed(&m->start),
			.pid_namespace = load_relaxed(&m->pid_namespace),
			.held = member_held(&p->segment, m),
			.dead = !member_attached(identity),
		};
		for (uint32_t k = 0; k < segment_classes(&p->segment); k++) {
			const struct member *block = segment_block(&p->segment, m, k);
			info->cached += cache_length(&pool_class(p, k)->segment, block);
			if (!info->operation)
				info->operation = alf_op_kind(load_acquire(&block->op)); /* [OP] */
		}
		for (int k = 0; k < COUNT_CHAINED; k++)
			info->counters[k] = member_counted_all(&p->segment, m, k);
	}
	return (int)opening_read((uint32_t)pool, (int64_t)got);
}

/* Fills in one subscriber. Returns false if another one has begun there. */
static bool subscriber_info(const struct alf_ring *r, uint32_t number, uint64_t state,
			    struct shmpool_subscriber_info *out)
{
	const struct topic_subscriber *s = &topic_of(r)->subscriber[number];
	const uint32_t policy = load_relaxed(&s->policy);
	const uint64_t name[2] = { load_relaxed(&s->name[0]), load_relaxed(&s->name[1]) };
	*out = (struct shmpool_subscriber_info) {
		.number = number,
		.pid = load_relaxed(&s->pid),
		.policy = policy,
		.closing = (state & TOPIC_STATE_MASK) == TOPIC_CLOSING,
		.dead = (state & TOPIC_STATE_MASK) == TOPIC_DEAD,
		.held = load_relaxed(&s->held),
		.lag = topic_unread(r, policy, load_relaxed(&s->cursor)),
		.gaps = load_relaxed(&s->gaps),
	};
	memcpy(out->name, name, sizeof(out->name) - 1);
	barrier_loads();
	return !((load_relaxed(&s->state) ^ state) & ~TOPIC_STATE_MASK);
}

int shmpool_subscribers(int pool, int queue, struct shmpool_subscriber_info *out, size_t n,
			size_t asks)
{
	struct lookup c;
	int error = lookup_to_read((uint32_t)pool, (uint32_t)queue, &c);
	if (error)
		return error;
	const struct alf_ring *r = c.ring;
	struct liveness q = { .s = &c.p->segment, .own = opening_token((uint32_t)pool) };
	size_t got = 0;
	for (uint32_t i = 0; topic_is(r) && i < SUBSCRIBERS_MAX && got < n; i++) {
		const uint64_t state =
			load_acquire(&topic_of(r)->subscriber[i].state); /* [TOPIC] */
		const uint64_t token = state & ~TOPIC_STATE_MASK;
		if (state == token || !subscriber_info(r, i, state, &out[got]))
			continue; /* none, or it begins */
		if (!out[got].dead && got < asks)
			out[got].dead = liveness_ask(&q, MEMBER_ATTACHED | token) == TOKEN_FREE;
		got++;
	}
	return (int)opening_read((uint32_t)pool, (int64_t)got);
}

int shmpool_dead_wait(int pool)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	const uint64_t own = opening_token((uint32_t)pool);
	return (int)(liveness_dead(&p->segment, own) + topic_dead(p, own) +
		     recover_abandoned(&p->segment));
}
