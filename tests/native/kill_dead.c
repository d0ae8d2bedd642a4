/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_dead.c - see kill_dead.h.
 */
#define _GNU_SOURCE
#include "kill_dead.h"

#include "check.h"
#include "requeue.h"
#include "transfer.h"
#include "wait.h"

#define FOUR 4u

static struct buffer *buffer(struct scene *s, uint64_t handle)
{
	return pool_buffer(&s->pool, handle_index(handle));
}

/* Returns the ring that has b's messages. */
static const struct alf_ring *ring(const struct scene *s)
{
	return queue_part(s->ring, 0);
}

static void publish_later(struct scene *s, uint32_t n)
{
	scene_publish(s->a, s->subject, FROM_LATER + s->later, n);
	s->later += n;
}

/* These run in a child, which then ends without detaching. */

static void hold(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[FOUR];
	EQUAL(0, blocking_alloc(&s->pool, m, handle, FOUR, WAIT_NEVER));
	EQUAL(0, qmempool_free_bulk(&s->pool, m, handle, 2));
}

static void reserve(struct scene *s, enum alf_side side)
{
	struct member *m = scene_attach();
	const struct alf_ring *r = queue_in(m, s->ring);
	uint64_t handle[FOUR], at;
	if (side != ALF_MULTI)
		r->q->producer = m->tag;
	EQUAL(0, blocking_alloc(&s->pool, m, handle, FOUR, WAIT_NEVER));
	EQUAL(0, alf_reserve(r, &m->op, FOUR, side, &at));
	for (uint32_t i = 0; i < 2; i++)
		buffer(s, handle[i])->owner = owner_transit(r->id, at + i);
}

static void reserve_many(struct scene *s)
{
	reserve(s, ALF_MULTI);
}

static void reserve_single(struct scene *s)
{
	reserve(s, ALF_SINGLE_WAKES);
}

/* Publishes the last two slots of four. */
static void publish_half(struct scene *s, enum alf_side side)
{
	struct member *m = scene_attach();
	const struct alf_ring *r = queue_in(m, s->ring);
	uint64_t handle[FOUR], at;
	if (side != ALF_MULTI)
		r->q->producer = m->tag;
	EQUAL(0, blocking_alloc(&s->pool, m, handle, FOUR, WAIT_NEVER));
	EQUAL(0, alf_reserve(r, &m->op, FOUR, side, &at));
	alf_publishing(&m->op, FOUR, side);
	for (uint32_t i = 0; i < FOUR; i++)
		buffer(s, handle[i])->owner = owner_transit(r->id, at + i);
	alf_publish(r, at + 2, handle + 2, 2);
}

static void publish_half_many(struct scene *s)
{
	publish_half(s, ALF_MULTI);
}

static void publish_half_single(struct scene *s)
{
	publish_half(s, ALF_SINGLE_WAKES);
}

static void claim(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[FOUR];
	EQUAL(FOUR, alf_claim(ring(s), &m->op, handle, FOUR, ALF_MULTI));
	for (uint32_t i = 0; i < 2; i++) {
		buffer(s, handle[i])->queue = s->subject;
		buffer(s, handle[i])->got = buffer_generation(buffer(s, handle[i]));
		buffer(s, handle[i])->owner = m->tag;
	}
}

static void claim_single(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[2];
	s->ring->q->consumer = m->tag;
	EQUAL(2, alf_claim(s->ring, &m->op, handle, 2, ALF_SINGLE_WAKES));
	buffer(s, handle[0])->owner = m->tag;
}

static void steal(struct scene *s)
{
	struct member *m = scene_attach(), *b = scene_block(s->b);
	CHECK(scene_cached(s->b) >= 3);
	uint64_t bottom = b->cache_bottom;
	b->cache_bottom = cache_locked_by(m->tag, bottom);
	for (uint64_t i = 0; i < 3; i++) {
		uint64_t handle = b->cache[(bottom + i) % CACHE];
		buffer(s, handle)->owner = m->tag;
	}
}

static void name_queue(struct scene *s, uint32_t number)
{
	struct queue_slot *slot = segment_queue(&s->pool.segment, number);
	strcpy(slot->name, "made");
	slot->state = scene_attach()->tag | QUEUE_NAMED;
}

static void make(struct scene *s)
{
	*segment_extent(&s->of->segment, 0) = scene_attach()->tag;
	name_queue(s, 4);
}

static void name(struct scene *s)
{
	name_queue(s, 5);
}

static void sleep_everywhere(struct scene *s)
{
	scene_attach();
	wait_enter(&s->ring->q->data_wait);
	wait_enter(&ring(s)->q->room_wait);
	wait_enter(&pool_shared(s->of)->free_wait);
}

static void get_four(struct scene *s)
{
	scene_get(scene_attach(), s->subject, FOUR);
}

/* Leaves a buffer as sweep.c's hand_on() leaves it in the middle. */
static void put_back(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t at;
	for (uint32_t i = 0; i < s->pool.total; i++) {
		struct buffer *b = pool_buffer(&s->pool, i);
		if (b->queue != s->subject || b->got != buffer_generation(b) ||
		    b->owner & OWNER_TRANSIT)
			continue;
		EQUAL(0, alf_reserve(ring(s), &m->op, 1, ALF_MULTI, &at));
		b->owner = m->tag | (uint64_t)s->subject << OWNER_QUEUE_SHIFT;
		return;
	}
	abort();
}

/* Leaves three chains: a whole one, one as chain_make() leaves it in the middle, and one as
 * free_chain() does. Their heads are before and behind their segments. */
static void chain_some(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[FOUR], back[FOUR];
	EQUAL(0, scene_compose(m, 0, FOUR, handle));
	EQUAL(0, blocking_alloc(&s->pool, m, handle, FOUR, WAIT_NEVER));
	for (uint32_t i = 0; i < FOUR; i++)
		back[FOUR - 1 - i] = handle[i];
	chain_make(&s->pool, m, back, FOUR);
	for (uint32_t i = 1; i < 3; i++)
		buffer(s, back[i])->owner = m->tag;
	EQUAL(0, scene_compose(m, 0, FOUR, handle));
	buffer(s, handle[0])->got--;
	uint32_t first = chain_next(&s->pool, handle[0], handle_index(handle[0]));
	pool_buffer(&s->pool, first)->owner = m->tag;
	count_up(&m->counters[COUNT_CHAINED], -2ull); /* of both */
	EQUAL(0, qmempool_free(&s->pool, m,
			       handle_of(first, buffer_generation(pool_buffer(&s->pool, first)))));
}

/* Leaves segments whose head a dead recoverer has freed. */
static void free_heads(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[2];
	for (int i = 0; i < 2; i++)
		EQUAL(0, scene_compose(m, 0, 3, &handle[i]));
	buffer(s, handle[0])->handle = handle[0] + GENERATION_ONE;
	buffer(s, handle[1])->handle = handle[1] + GENERATION_ONE;
	uint64_t freed = handle[1] + GENERATION_ONE;
	free_ring_put(pool_of(&s->pool, handle_index(freed)), scene_block(m), &freed, 1);
}

static void attach_only(struct scene *s)
{
	(void)s;
	scene_attach();
}

void voids(struct scene *s)
{
	struct shmpool_recovery out;
	scene_child(reserve_many);
	EQUAL(0, recover(&s->pool, s->a, &out));
	EQUAL(1, out.members);
	publish_later(s, 2);
}

void without_barrier(struct scene *s)
{
	s->a->barrier = s->b->barrier = 0;
}

void survivors_dry(struct scene *s)
{
	qmempool_drain(&s->pool, s->a);
	qmempool_drain(&s->pool, s->b);
}

void with_barrier(struct scene *s)
{
	s->a->barrier = s->b->barrier = 1;
}

void second_segment(struct scene *s)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = 32,
				      .prealloc = 16,
				      .cache_size = 0,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .members = 2,
				      .queues = 1 };
	struct shmpool_refusal why;
	EQUAL(0, segment_plan(&s->made, &g, &why));
	s->made.fd = memfd_create("kill_points made", MFD_CLOEXEC);
	CHECK(s->made.fd >= 0 && ftruncate(s->made.fd, (off_t)g.size) == 0);
	s->made.base = mmap(NULL, g.size, PROT_READ | PROT_WRITE, MAP_SHARED, s->made.fd, 0);
	CHECK(s->made.base != MAP_FAILED);
}

void dead_holding(struct scene *s)
{
	(void)s;
	scene_child(hold);
}

void dead_reserved(struct scene *s)
{
	(void)s;
	scene_child(reserve_many);
}

void dead_half_published(struct scene *s)
{
	scene_child(publish_half_many);
	publish_later(s, 2);
}

void dead_half_published_single(struct scene *s)
{
	(void)s;
	scene_child(publish_half_single);
}

void dead_full(struct scene *s)
{
	scene_child(reserve_many);
	publish_later(s, RING - FOUR);
}

void dead_claimed(struct scene *s)
{
	(void)s;
	scene_child(claim);
}

void dead_single_reserved(struct scene *s)
{
	(void)s;
	scene_child(reserve_single);
}

void dead_single_claimed(struct scene *s)
{
	(void)s;
	scene_child(claim_single);
}

void dead_thief(struct scene *s)
{
	(void)s;
	scene_child(steal);
}

void dead_making(struct scene *s)
{
	(void)s;
	scene_child(make);
}

void check_queue_gone(struct scene *s)
{
	DEMAND(queue_find(&s->pool, "made") == -ENOENT);
}

void dead_naming(struct scene *s)
{
	(void)s;
	scene_child(name);
}

static void make_lanes(struct scene *s)
{
	struct member *m = scene_attach();
	name_queue(s, 4);
	segment_queue(&s->pool.segment, 4)->state = m->tag;
	for (uint32_t i = 5; i < 7; i++) {
		struct queue_slot *slot = segment_queue(&s->pool.segment, i);
		slot->state = m->tag | QUEUE_LANE;
		slot->laned = 4;
	}
}

void dead_making_lanes(struct scene *s)
{
	(void)s;
	scene_child(make_lanes);
}

void dead_asleep(struct scene *s)
{
	(void)s;
	scene_child(sleep_everywhere);
}

void dead_getting(struct scene *s)
{
	(void)s;
	scene_child(get_four);
}

void dead_getting_full(struct scene *s)
{
	scene_child(get_four);
	publish_later(s, alf_avail_space(s->ring));
}

void dead_getting_twice(struct scene *s)
{
	struct shmpool_recovery out;
	scene_child(get_four);
	EQUAL(0, recover(&s->pool, s->a, &out));
	EQUAL(FOUR, out.requeued);
	scene_child(get_four);
}

void dead_recoverer(struct scene *s)
{
	(void)s;
	scene_child(get_four);
	scene_child(put_back);
}

void dead_chaining(struct scene *s)
{
	(void)s;
	scene_child(chain_some);
}

void dead_chain_recoverer(struct scene *s)
{
	dead_chaining(s);
	scene_child(free_heads);
}

/* As a recoverer without a slot leaves them. */
void abandoned_chains(struct scene *s)
{
	dead_chain_recoverer(s);
	for (uint32_t i = 0; i < s->pool.total; i++) {
		struct buffer *b = pool_buffer(&s->pool, i);
		if (!segment_exists(&pool_of(&s->pool, i)->segment, i) || !buffer_heads(b))
			continue;
		const uint64_t handle = handle_of(i, buffer_generation(b));
		pool_abandon(&s->pool, &handle, 1, 0);
	}
}

void dead_chains_everywhere(struct scene *s)
{
	dead_chain_recoverer(s);
	for (uint32_t i = 0; i < MEMBERS; i++)
		if (!segment_member(&s->pool.segment, i)->identity)
			scene_child(attach_only);
}

void dead_everywhere(struct scene *s)
{
	(void)s;
	for (uint32_t i = 2; i < MEMBERS; i++)
		scene_child(attach_only);
}

/* b returned four messages while the queue was full of others, which have been got since. */
void returned(struct scene *s)
{
	uint64_t others[RING];
	uint32_t to;
	scene_get(s->b, s->subject, FOUR);
	scene_publish(s->a, s->subject, FROM_BESIDE, alf_avail_space(ring(s)));
	while (s->owned_n) {
		uint64_t handle = s->owned[--s->owned_n];
		if (requeue(&s->pool, s->b, handle, &to) == -ENOBUFS)
			requeue_abandon(&s->pool, s->b, handle);
	}
	EQUAL(RING, queue_get(&s->pool, s->a, s->ring, others, RING));
	EQUAL(0, qmempool_free_bulk(&s->pool, s->a, others, RING));
}
