/* SPDX-License-Identifier: Apache-2.0
 *
 * test_waker.c - a get of another thread takes what there is just before the helper's thread makes
 * the descriptor readable for it.
 *
 * The test stands in for that thread: it gets where the helper would only show. At the helper's
 * next visit the descriptor must be what the get made it: not readable.
 */
#define _GNU_SOURCE
#include <poll.h>

#include "helper.h"
#include "lookup.h"
#include "memfd_pool.h"
#include "queue.h"
#include "wait.h"

static uint32_t pool_number, queue_number;
static int waker, fd;
static uint32_t shown, visited; /* how often; set by the helper's thread, read by main() */
static void (*show)(const struct shown *of);
static void (*settle)(struct place *place, uint32_t most, struct shown_list *out,
		      const struct uring *taking);

static bool readable(void)
{
	return poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 0);
}

static void get_and_show(const struct shown *of)
{
	uint64_t handle;
	if (!load_relaxed(&shown)) {
		if (!opening_member(pool_number))
			EQUAL(0, opening_attach(pool_number));
		struct member *m = opening_member(pool_number);
		const struct alf_ring *r = queue_ring(opening_pool(pool_number), queue_number);
		EQUAL(1, queue_get(opening_pool(pool_number), m, r, &handle, 1));
		EQUAL(0, qmempool_free(opening_pool(pool_number), m, handle));
		shmpool_taken(waker);
		CHECK(!readable());
	}
	show(of);
	store_release(&shown, shown + 1); /* pairs with check_and_settle() and main() */
}

static void check_and_settle(struct place *place, uint32_t most, struct shown_list *out,
			     const struct uring *taking)
{
	if (load_acquire(&shown) && !most) { /* pairs with get_and_show() */
		CHECK(!readable());
		store_release(&visited, 1); /* pairs with main() */
	}
	settle(place, most, out, taking);
}

int main(void)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = 64,
				      .prealloc = 64,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .cache_size = 0,
				      .members = 4,
				      .queues = 4 };
	const struct queue_on_death on_death = { .what = ON_DEATH_FREE };
	uint64_t handle;
	pool_number = memfd_pool(&g);
	EQUAL(0, opening_attach(pool_number));
	struct member *m = opening_member(pool_number);
	const int number = queue_create(opening_pool(pool_number), m, "work", 8, 0, &on_death);
	CHECK(number > 0);
	queue_number = (uint32_t)number;
	waker = shmpool_waker_make(0);
	CHECK(waker > 0);
	fd = shmpool_waker_fd(waker);
	show = helper_show;
	settle = place_settle;
	helper_show = get_and_show; /* before there is a thread */
	place_settle = check_and_settle;
	CHECK(shmpool_waker_want(waker, (int)pool_number, queue_number, SHMPOOL_DATA, 1, 1) >= 0);
	CHECK(!readable());
	EQUAL(0, qmempool_alloc(opening_pool(pool_number), m, &handle));
	EQUAL(0, queue_put(opening_pool(pool_number), m,
			   queue_ring(opening_pool(pool_number), queue_number), &handle, 1));
	while (!load_acquire(&visited)) /* pairs with check_and_settle() */
		usleep(1000);
	EQUAL(1, load_acquire(&shown)); /* pairs with get_and_show() */
	shmpool_waker_close(waker);
	printf("not readable\n");
	return 0;
}
