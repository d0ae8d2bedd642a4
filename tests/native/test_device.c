/* SPDX-License-Identifier: Apache-2.0
 *
 * test_device.c - slots of members that were left to recovery while their process lives: a socket
 * that a forked child keeps (device.h).
 */
#define _GNU_SOURCE
#include "device.h"
#include "liveness.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "recover.h"

#define MEMBERS 3

static struct shmpool_geometry geometry = { .buffer_size = 256,
					    .capacity = 256,
					    .prealloc = 256,
					    .cache_size = 0,
					    .bulk = 16,
					    .refill_multiplier = 1,
					    .members = MEMBERS,
					    .queues = 2 };
static uint32_t pool_number;

static const struct segment *segment(void)
{
	return &opening_pool(pool_number)->segment;
}

static bool nobody(void *context, uint32_t tag)
{
	(void)context;
	(void)tag;
	return false;
}

/* Opens a socket's member, of a kernel that does not report the socket, and leaves it. */
static struct member *left(void)
{
	const struct device place = { .space = 1, .interface = 1 };
	struct member *m;
	EQUAL(0, opening_device(pool_number, &m));
	device_set(segment(), m, &place, false);
	opening_device_ends(pool_number, m, false);
	CHECK(member_dead(load_relaxed(&m->identity)));
	CHECK(!device_gone(m));
	return m;
}

/* A recoverer that was suspended before it took a slot does not take it from the next socket's
 * member there, which is of the same process. */
static void next_life(void)
{
	const uint64_t token = opening_token(pool_number);
	struct member *m = left();
	const uint64_t first = load_relaxed(&m->identity);
	EQUAL(0, member_take_slot(segment(), m, first, token, nobody, NULL));
	member_vacate(m);
	CHECK(left() == m);
	EQUAL(-ESTALE, member_take_slot(segment(), m, first, token, nobody, NULL));
	CHECK(load_relaxed(&m->device) != 0);
	EQUAL(0, member_take_slot(segment(), m, load_relaxed(&m->identity), token, nobody, NULL));
	member_vacate(m);
}

/* A member that a socket keeps is not reported as dead, and no reason to ask more often. */
static void kept_by_socket(const struct member *kept)
{
	struct qmempool *p = opening_pool(pool_number);
	const uint64_t own = opening_token(pool_number);
	EQUAL(0, opening_attach(pool_number));
	EQUAL(0, liveness_dead(segment(), own));
	EQUAL(PROCESS_UNKNOWN, liveness_fate(segment(), kept, load_relaxed(&kept->identity), own));
	store_relaxed(&pool_shared(p)->inquired, 0);
	CHECK(!recover_if_due(p, opening_member(pool_number)));
	EQUAL(1, pool_shared(p)->inquired % 8); /* inquiries that found nothing */
}

static bool yes(void)
{
	return true;
}

/* A slot that a socket keeps is no room: nobody waits for it. */
static void no_room(struct member *kept)
{
	struct member *m, *other[MEMBERS];
	for (int i = 2; i < MEMBERS; i++)
		EQUAL(0, opening_device(pool_number, &other[i]));
	EQUAL(-EUSERS, recover_slot(opening_pool(pool_number), opening_token(pool_number), &m));
	opening_locked = yes;
	EQUAL(-EUSERS, opening_attach(pool_number));
	EQUAL(-EUSERS, opening_device(pool_number, &m));
	opening_locked = NULL;
	CHECK(member_dead(load_relaxed(&kept->identity)));
}

static void *attach(void *unused)
{
	EQUAL(0, opening_attach(pool_number)); /* another thread than main()'s */
	return unused;
}

/* A slot that a recoverer resets is waited for, but not long with a lock, and not in a pool that is
 * being closed. */
static void being_reset(struct member *dead)
{
	struct qmempool *p = opening_pool(pool_number);
	struct member *m;
	pthread_t thread;
	EQUAL(0, member_take_slot(segment(), dead, load_relaxed(&dead->identity),
				  opening_token(pool_number), nobody, NULL));
	opening_locked = yes;
	EQUAL(-EINPROGRESS, opening_attach(pool_number));
	EQUAL(-EINPROGRESS, opening_device(pool_number, &m));
	store_relaxed(&p->closing, 1);
	EQUAL(-ESHUTDOWN, opening_attach(pool_number));
	store_relaxed(&p->closing, 0);
	opening_locked = NULL;
	CHECK(!pthread_create(&thread, NULL, attach, NULL));
	member_vacate(dead);
	pthread_join(thread, NULL);
}

int main(void)
{
	pool_number = memfd_pool(&geometry);
	next_life();
	struct member *kept = left();
	kept_by_socket(kept);
	no_room(kept);
	being_reset(kept);
	EQUAL(0, opening_close(pool_number));
	return 0;
}
