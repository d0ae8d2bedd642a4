/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_pool.c - see kill_victim.h and kill_dead.h: the free ring and the slab.
 */
#include "check.h"
#include "free_ring.h"
#include "kill_dead.h"
#include "kill_victim.h"
#include "pin.h"
#include "token.h"
#include "trim.h"

#define FEW 4u

/* Returns the ring into which a few buffers go that m frees: its side ring, if there is one. */
static const struct alf_ring *ring_of(const struct scene *s, const struct member *m)
{
	return side_has(s->of) ? &s->of->side[side_own(s->of, m)] : &s->of->free;
}

/* These run in a child, which then ends without detaching. */

static void reserve_free(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[CACHE], at;
	EQUAL(0, blocking_alloc(&s->pool, m, handle, CACHE, WAIT_NEVER));
	EQUAL(0, alf_reserve(&s->of->free, &scene_block(m)->op, CACHE, ALF_MULTI, &at));
}

static void reserve_few_free(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[FEW], at;
	EQUAL(0, blocking_alloc(&s->pool, m, handle, FEW, WAIT_NEVER));
	qmempool_drain(&s->pool, m);
	EQUAL(0, alf_reserve(ring_of(s, m), &scene_block(m)->op, FEW, ALF_MULTI, &at));
	alf_publishing(&scene_block(m)->op, FEW, ALF_MULTI);
	pool_buffer(&s->pool, handle_index(handle[0]))->owner =
		owner_transit(ring_of(s, m)->id, at);
}

/* Leaves an extent as trim.c's take_away() leaves it in the middle. */
static void take_extent_away(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[CAPACITY];
	for (int n = 1; n > 0;)
		n = free_ring_take(s->of, scene_block(m), handle, CAPACITY);
	*segment_extent(&s->of->segment, 1) = m->tag;
}

/* Before the operation. */

void dead_full_pool(struct scene *s)
{
	scene_child(reserve_free);
	qmempool_drain(&s->pool, s->a);
	qmempool_drain(&s->pool, s->b);
	CHECK(alf_avail_space(&s->of->free) < CACHE || side_has(s->of));
}

static bool of_extent(const struct scene *s, uint64_t handle, uint64_t extent)
{
	const struct segment *of = &s->of->segment;
	const uint32_t index = handle_index(handle);
	return index - of->first < of->geometry.capacity &&
	       index - of->first >= of->geometry.prealloc && segment_extent_of(of, index) == extent;
}

/* The slab has grown to its capacity, and all free buffers are in the free ring, except those of
 * one cache. */
void grown(struct scene *s)
{
	uint64_t handle[CAPACITY];
	uint32_t n = 0;
	while (n < CAPACITY && blocking_alloc(&s->pool, s->b, &handle[n], 1, WAIT_NEVER) == 0)
		n++;
	/* Those of the extent that the operations remove do not stay in the cache. */
	for (uint32_t i = 0, k = 0; i < n; i++)
		if (of_extent(s, handle[i], 1)) {
			const uint64_t first = handle[k];
			handle[k++] = handle[i];
			handle[i] = first;
		}
	EQUAL(0, qmempool_free_bulk(&s->pool, s->b, handle, n - CACHE));
	qmempool_drain(&s->pool, s->a);
	qmempool_drain(&s->pool, s->b);
	EQUAL(0, qmempool_free_bulk(&s->pool, s->b, handle + n - CACHE, CACHE));
	CHECK(*segment_extent(&s->of->segment, 1) == EXTENT_PRESENT);
}

void trimmed(struct scene *s)
{
	grown(s);
	CHECK(trim(&s->pool, s->b, 0) > 0);
	CHECK(*segment_extent(&s->of->segment, 1) == 0);
}

void dead_trimming(struct scene *s)
{
	grown(s);
	scene_child(take_extent_away);
}

/* Fills the free ring, from its head on: front free buffers, then some that a dead member is giving
 * back, then other free ones. */
static void dead_giving_behind(struct scene *s, uint32_t front)
{
	uint64_t handle[CAPACITY];
	uint32_t have = 0;
	survivors_dry(s);
	scene_child(reserve_few_free);
	for (uint32_t n = (uint32_t)pool_free_count(s->of) - FEW; have + front < n;)
		have += (uint32_t)free_ring_take(s->of, scene_block(s->b), &handle[have],
						 n - front - have);
	free_ring_put(s->of, scene_block(s->b), handle, have);
}

/* Makes room in the ring for returned buffers, so that no member must pass the stale slots
 * first. */
static void put_some_elsewhere(struct scene *s)
{
	scene_publish(s->b, s->letter, FROM_ASIDE + s->aside, RING - 4);
	s->aside += RING - 4;
}

void dead_giving(struct scene *s)
{
	put_some_elsewhere(s);
	dead_giving_behind(s, 0);
}

void dead_giving_between(struct scene *s)
{
	dead_giving_behind(s, 2 * CACHE);
}

/* The buffers behind the dead member were taken from there and given back since. Nothing blocks the
 * ring any more. */
void stale_slots(struct scene *s)
{
	struct shmpool_recovery out;
	struct shmpool_stats stats;
	uint64_t handle[BULK];
	dead_giving(s);
	EQUAL(0, blocking_alloc(&s->pool, s->b, handle, BULK, WAIT_NEVER));
	EQUAL(0, recover(&s->pool, s->a, &out));
	CHECK(out.members == 1 || scene_sizes); /* or an allocation has recovered it */
	EQUAL(0, qmempool_free_bulk(&s->pool, s->b, handle, BULK));
	survivors_dry(s);
	audit_stats(&s->pool, &stats);
	CHECK(stats.free + BULK <= pool_free_count(s->of) ||
	      (side_has(s->of) && alf_capacity(s->of->side) < CAPACITY)); /* in both rings */
}

/* Called by the victim. */

/* Takes the buffers in front of the dead member in the free ring. */
void take_front(struct scene *s)
{
	int got;
	while ((got = free_ring_take(s->of, scene_block(s->v), &s->owned[s->owned_n], BULK)) > 0)
		s->owned_n += (uint32_t)got;
	count_up(&s->v->counters[COUNT_ALLOC], s->owned_n);
}

/* Makes what is behind the dead member claimable. Where a companion took buffers from there, stale
 * slots remain. */
void unblock(struct scene *s)
{
	struct shmpool_recovery out;
	EQUAL(0, recover(&s->pool, s->v, &out));
	CHECK(out.members == 1 || scene_sizes); /* or an allocation has recovered it */
}

/* Trims all but n buffers. */
int trim_all_but(struct scene *s)
{
	return (int)trim(&s->pool, s->v, s->operation->n);
}

/* Takes more than its cache has. */
int refill_beside(struct scene *s)
{
	int error = blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n], CACHE + 4, WAIT_NEVER);
	s->owned_n += error ? 0 : CACHE + 4;
	return error;
}

/* Usually suspended where other members can only bypass it. */
int give_beside(struct scene *s)
{
	free_ring_put(s->of, scene_block(s->v), &s->owned[s->owned_n -= 3], 3);
	count_up(&s->v->counters[COUNT_FREE], 3);
	return 0;
}

static int driver_context(void *context)
{
	(void)context;
	return 0;
}

static int driver_leave(void **context)
{
	*context = NULL;
	return 0;
}

/* Only present extents have memory that may be written to. */
static int driver_register(void *address, size_t bytes, unsigned int flags)
{
	for (size_t i = 63; i < bytes; i += 64)
		((char *)address)[i] = (char)flags;
	return 0;
}

static int driver_unregister(void *address)
{
	return ((char *)address)[63] - 1; /* the memory is still there */
}

/* Pins the pool, registers what exists, and unpins it. */
int pin_all(struct scene *s)
{
	const struct shmpool_driver driver = { NULL, (void *)driver_context, (void *)driver_leave,
					       (void *)driver_register, (void *)driver_unregister };
	static struct pin pin;
	void *page;
	int error = token_pin(&s->pool.segment, scene_token(), &page);
	if (!error && (error = pin_begin(&pin, &s->pool, &driver, page)))
		token_let_go(page);
	while (!error && pin_more(&pin, &s->pool) > 0)
		;
	pin_end(&pin, &s->pool);
	return error;
}

/* No dead process has a pin. */
void check_unpinned(struct scene *s)
{
	DEMAND(!token_pinned(&s->pool.segment, 0));
}

int trim_beside(struct scene *s)
{
	return (int)trim(&s->pool, s->v, 0);
}
