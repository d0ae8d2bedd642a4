/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_operations.c - see kill_scene.h: the operations that are killed, and what stands ready for them.
 */
#include "kill_scene.h"

#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "kill_dead.h"
#include "transfer.h"
#include "wait.h"

#define REQUEUE { .what = ON_DEATH_REQUEUE }
#define DEAD_LETTER { .what = ON_DEATH_DEAD_LETTER, .dead_letter = 1 }
#define POISON { .what = ON_DEATH_REQUEUE, .dead_letter = 1, .max_redeliveries = 1 }
#define SHORT_NS 2000000 /* a sleep that ends by itself */

/* The victim's set-up. */

static void alloc_own(struct scene *s)
{
	for (; s->handed < s->operation->n; s->handed++) {
		EQUAL(0, qmempool_alloc(&s->pool, s->v, &s->hand[s->handed]));
		*scene_message(s->hand[s->handed]) = FROM_VICTIM + s->handed;
		qmempool_buffer(&s->pool, handle_index(s->hand[s->handed]))->redelivered = 0;
	}
}

static void get_own(struct scene *s)
{
	scene_get(s->v, s->subject, s->operation->n);
}

static void empty_cache(struct scene *s)
{
	for (uint32_t n = member_cached(&s->pool.segment, s->v); n; n--)
		EQUAL(0, qmempool_alloc(&s->pool, s->v, &s->hand[s->handed++]));
}

/* So that the next allocation refills. */
static void use_cache_up(struct scene *s)
{
	EQUAL(0, qmempool_alloc(&s->pool, s->v, &s->hand[s->handed++]));
	empty_cache(s);
}

static void fill_cache(struct scene *s)
{
	while (s->handed < CACHE + BULK)
		EQUAL(0, qmempool_alloc(&s->pool, s->v, &s->hand[s->handed++]));
	while (member_cached(&s->pool.segment, s->v) < CACHE)
		EQUAL(0, qmempool_free(&s->pool, s->v, s->hand[--s->handed]));
	CHECK(s->handed >= s->operation->n);
}

/* So that there are buffers only in the survivors' caches. */
static void run_dry(struct scene *s)
{
	while (!alf_empty(&s->pool.free))
		EQUAL(0, qmempool_alloc(&s->pool, s->v, &s->hand[s->handed++]));
	empty_cache(s);
}

static void run_all_dry(struct scene *s)
{
	while (qmempool_alloc(&s->pool, s->v, &s->hand[s->handed]) == 0)
		s->handed++;
	s->pool.looked_ns = 0; /* so that it asks again who is dead */
}

static void some_cached(struct scene *s)
{
	for (uint32_t i = 0; i < 6; i++)
		EQUAL(0, qmempool_alloc(&s->pool, s->v, &s->hand[s->handed++]));
	for (uint32_t i = 0; i < 3; i++)
		EQUAL(0, qmempool_free(&s->pool, s->v, s->hand[--s->handed]));
}

static void asked_for(struct scene *s)
{
	some_cached(s);
	qmempool_request(&s->pool);
}

static void all_home(struct scene *s)
{
	some_cached(s);
	while (s->handed)
		EQUAL(0, qmempool_free(&s->pool, s->v, s->hand[--s->handed]));
}

static void open_locally(struct scene *s)
{
	s->opened = local_open(&s->pool.segment);
	CHECK(s->opened >= 0);
	s->key = (uint64_t)(s->opened & 63) << 58 | (uint64_t)s->subject << 48 |
		 (uint64_t)(s->opened >> 6) << 32;
}

static void attach_locally(struct scene *s)
{
	open_locally(s);
	EQUAL(0, local_attach((uint32_t)s->opened));
	s->v = local_member((uint32_t)s->opened);
	some_cached(s);
}

/* A message in data, for shmpool_send(). */
static void have_data(struct scene *s)
{
	open_locally(s);
	EQUAL(0, local_attach((uint32_t)s->opened));
	*(uint32_t *)s->data = FROM_VICTIM;
}

static void have_two(struct scene *s)
{
	struct member *second = scene_attach();
	for (; s->handed < s->operation->n; s->handed++) {
		EQUAL(0, qmempool_alloc(&s->pool, second, &s->hand[s->handed]));
		*scene_message(s->hand[s->handed]) = FROM_VICTIM + s->handed;
	}
}

/* What is killed. */

static int put(struct scene *s)
{
	return queue_put(&s->pool, s->v, s->ring, s->hand, s->operation->n);
}

static int put_aside(struct scene *s)
{
	return queue_put(&s->pool, s->v, scene_ring(s->other), s->hand, s->operation->n);
}

static int put_wait(struct scene *s)
{
	return queue_put_wait(&s->pool, s->v, s->ring, s->hand, s->operation->n,
			      wait_now() + SHORT_NS);
}

static int get(struct scene *s)
{
	return queue_get(&s->pool, s->v, s->ring, s->hand, s->operation->n);
}

static int get_wait(struct scene *s)
{
	return queue_get_wait(&s->pool, s->v, s->ring, s->hand, s->operation->n,
			      wait_now() + SHORT_NS);
}

static int alloc(struct scene *s)
{
	uint64_t *handle = &s->hand[s->handed];
	uint32_t n = s->operation->n;
	return n == 1 ? qmempool_alloc(&s->pool, s->v, handle) :
			qmempool_alloc_bulk(&s->pool, s->v, handle, n);
}

static int request(struct scene *s)
{
	qmempool_request(&s->pool);
	return 0;
}

static int give_back(struct scene *s)
{
	uint32_t n = s->operation->n;
	return n == 1 ? qmempool_free(&s->pool, s->v, s->hand[0]) :
			qmempool_free_bulk(&s->pool, s->v, s->hand, n);
}

static int send(struct scene *s)
{
	return (int)shmpool_send(s->key, s->data, sizeof(uint32_t));
}

static int receive(struct scene *s)
{
	uint32_t length[BULK];
	int64_t got = shmpool_recv_many_wait(s->key, s->data, sizeof(s->data), length,
					     s->operation->n, WAIT_NEVER);
	if (got > 0)
		got &= ~(int64_t)SHMPOOL_ALIKE;
	for (int64_t i = 0; i < got; i++)
		s->report->number[i] = ((uint32_t *)s->data)[i];
	s->report->got = got > 0 ? (uint32_t)got : 0;
	return (int)got;
}

static int attach_member(struct scene *s)
{
	return member_attach(&s->pool.segment, 1, false, &s->v);
}

static int attach(struct scene *s)
{
	return local_attach((uint32_t)s->opened);
}

static int detach_member(struct scene *s)
{
	qmempool_drain(&s->pool, s->v);
	member_release(&s->pool.segment, s->v);
	return 0;
}

static int detach(struct scene *s)
{
	return local_close((uint32_t)s->opened);
}

static int create_queue(struct scene *s)
{
	const struct queue_on_death requeue = REQUEUE;
	return queue_create(&s->pool, s->v, "made", RING, 0, &requeue);
}

static void check_queue(struct scene *s)
{
	const struct queue_on_death requeue = REQUEUE;
	int found = queue_find(&s->pool, "made");
	if (s->report->result != PENDING)
		DEMAND(found == s->report->result);
	if (found == -ENOENT)
		found = queue_create(&s->pool, s->a, "made", RING, 0, &requeue);
	DEMAND(found == 4);
}

static int create_segment(struct scene *s)
{
	struct shmpool_geometry g = s->made.geometry;
	char why[256];
	return shmpool_create_wait(s->made.base, s->made.fd, &g, why, sizeof(why));
}

/* What was not made to the end is known for what it is, what was is whole. */
static void check_segment(struct scene *s)
{
	struct segment made;
	struct qmempool pool;
	struct shmpool_audit audit;
	char why[256];
	int error = segment_check(&made, s->made.base, s->made.size, s->made.fd, why, sizeof(why));
	DEMAND(error == 0 || error == -EAGAIN);
	DEMAND(error == 0 || s->report->result == PENDING);
	if (error)
		return;
	DEMAND(qmempool_bind(&pool, &made) == 0);
	DEMAND(audit_count(&pool, &audit, NULL, 0, NULL, 0) == 0);
	DEMAND(audit.free == (uint64_t)made.geometry.prealloc && audit.free == audit.total);
	qmempool_unbind(&pool);
}

static int recover_dead(struct scene *s)
{
	struct shmpool_recovery out;
	return recover(&s->pool, s->v, &out);
}

#define ALL .prealloc = CAPACITY
#define GROWS .prealloc = CAPACITY / 2
#define RECOVERS .kind = NEITHER, ALL, .run = recover_dead
#define SP ALF_SINGLE_PRODUCER
#define SC ALF_SINGLE_CONSUMER

static const struct operation others[] = {
	{ "put-from-another-thread", PUTS, 1, ALL, .prepare = have_two, .run = put },
	{ "put-bulk-another-thread", PUTS, BULK, ALL, .prepare = have_two, .run = put },
	{ "put-moved-1", MOVES, 1, ALL, .on_death = REQUEUE, .filled = 4, .prepare = get_own,
	  .run = put_aside },
	{ "put-moved-8", MOVES, BULK, ALL, .on_death = REQUEUE, .filled = 10, .prepare = get_own,
	  .run = put_aside },
	{ "put-moved-dead-letter-8", MOVES, BULK, ALL, .on_death = DEAD_LETTER, .filled = 10,
	  .prepare = get_own, .run = put_aside },
	{ "put-wait-full", PUTS, 1, ALL, .filled = RING, .prepare = alloc_own, .run = put_wait },
	{ "put-full-behind-dead", PUTS, 1, ALL, .before = dead_full, .prepare = alloc_own,
	  .run = put },
	{ "put-role-of-dead", PUTS, 1, ALL, .flags = SP, .before = dead_single_reserved,
	  .prepare = alloc_own, .run = put },
	{ "get-role-of-dead", GETS, 2, ALL, .flags = SC, .filled = 6, .lost = 2,
	  .before = dead_single_claimed, .run = get },
	{ "get-wait-empty", GETS, 1, ALL, .run = get_wait },
	{ "get-past-voids", GETS, BULK, ALL, .filled = 2, .before = voids, .run = get },
	{ "get-requeue-1", GETS, 1, ALL, .on_death = REQUEUE, .filled = 4, .run = get },
	{ "get-requeue-8", GETS, BULK, ALL, .on_death = REQUEUE, .filled = 12, .run = get },
	{ "get-dead-letter-8", GETS, BULK, ALL, .on_death = DEAD_LETTER, .filled = 12, .run = get },
	{ "get-requeue-single-8", GETS, BULK, ALL, .flags = SC, .on_death = REQUEUE, .filled = 12,
	  .run = get },
	{ "send", PUTS, 1, ALL, .unattached = 1, .prepare = have_data, .run = send },
	{ "receive", GETS, 4, ALL, .filled = 6, .unattached = 1, .prepare = have_data,
	  .run = receive },
	{ "alloc-cached-1", NEITHER, 1, ALL, .prepare = some_cached, .run = alloc },
	{ "alloc-cached-8", NEITHER, BULK, ALL, .prepare = some_cached, .run = alloc },
	{ "alloc-first", NEITHER, 1, ALL, .run = alloc },
	{ "alloc-refill", NEITHER, 1, ALL, .prepare = use_cache_up, .run = alloc },
	{ "alloc-refill-20", NEITHER, CACHE + 4, ALL, .prepare = use_cache_up, .run = alloc },
	{ "alloc-grow", NEITHER, 1, GROWS, .run = alloc },
	{ "alloc-grow-20", NEITHER, CACHE + 4, GROWS, .run = alloc },
	{ "alloc-steal", NEITHER, 1, ALL, .prepare = run_dry, .run = alloc },
	{ "alloc-steal-8", NEITHER, BULK, ALL, .prepare = run_dry, .run = alloc },
	{ "alloc-ask", NEITHER, 1, ALL, .before = without_barrier, .prepare = run_dry, .run = alloc,
	  .check = with_barrier },
	{ "alloc-exhausted", NEITHER, 1, ALL, .prepare = run_all_dry, .run = alloc },
	{ "request", NEITHER, 1, ALL, .prepare = some_cached, .run = request },
	{ "free-cached-1", FREES, 1, ALL, .filled = 3, .lost = 0, .prepare = get_own,
	  .run = give_back },
	{ "free-cached-8", FREES, BULK, ALL, .filled = 12, .prepare = get_own, .run = give_back },
	{ "free-requeue-8", FREES, BULK, ALL, .on_death = REQUEUE, .filled = 12, .prepare = get_own,
	  .run = give_back },
	{ "free-flush-1", NEITHER, 1, ALL, .prepare = fill_cache, .run = give_back },
	{ "free-flush-8", NEITHER, BULK, ALL, .prepare = fill_cache, .run = give_back },
	{ "free-honour", NEITHER, 1, ALL, .prepare = asked_for, .run = give_back },
	{ "attach-member", NEITHER, 1, ALL, .unattached = 1, .run = attach_member },
	{ "attach", NEITHER, 1, ALL, .unattached = 1, .prepare = open_locally, .run = attach },
	{ "attach-from-spare", NEITHER, 1, ALL, .unattached = 1, .before = dead_everywhere,
	  .prepare = open_locally, .run = attach },
	{ "detach-member", NEITHER, 1, ALL, .prepare = all_home, .run = detach_member },
	{ "detach", NEITHER, 1, ALL, .unattached = 1, .prepare = attach_locally, .run = detach },
	{ "create-queue", NEITHER, 1, ALL, .run = create_queue, .check = check_queue },
	{ "create-queue-contested", NEITHER, 1, ALL, .before = dead_naming, .run = create_queue,
	  .check = check_queue },
	{ "create-segment", NEITHER, 1, ALL, .unattached = 1, .before = second_segment,
	  .run = create_segment, .check = check_segment },
	{ "recover-holding", RECOVERS, .filled = 3, .before = dead_holding },
	{ "recover-reserved", RECOVERS, .filled = 3, .before = dead_reserved },
	{ "recover-claimed", RECOVERS, .filled = 6, .lost = 4, .before = dead_claimed },
	{ "recover-single-reserved", RECOVERS, .flags = SP, .filled = 3,
	  .before = dead_single_reserved },
	{ "recover-single-claimed", RECOVERS, .flags = SC, .filled = 6, .lost = 2,
	  .before = dead_single_claimed },
	{ "recover-thief", RECOVERS, .before = dead_thief },
	{ "recover-makers", .kind = NEITHER, GROWS, .before = dead_making, .run = recover_dead,
	  .check = check_queue_gone },
	{ "recover-sleeper", RECOVERS, .before = dead_asleep },
	{ "recover-full-pool", RECOVERS, .before = dead_full_pool },
	{ "recover-requeue", RECOVERS, .on_death = REQUEUE, .filled = 6, .lost = 4,
	  .before = dead_getting },
	{ "recover-requeue-claimed", RECOVERS, .on_death = REQUEUE, .filled = 6, .lost = 4,
	  .before = dead_claimed },
	{ "recover-requeue-full", RECOVERS, .on_death = REQUEUE, .filled = 6, .lost = 4,
	  .leaves = 1, .before = dead_getting_full },
	{ "recover-dead-letter", RECOVERS, .on_death = DEAD_LETTER, .filled = 6, .lost = 4,
	  .before = dead_getting },
	{ "recover-poison", RECOVERS, .on_death = POISON, .filled = 4, .lost = 4,
	  .before = dead_getting_twice },
	{ "recover-recoverer", RECOVERS, .on_death = REQUEUE, .filled = 6, .lost = 4,
	  .before = dead_recoverer },
};

/* put and get, in all four modes, one and a bulk, in the middle and at both edges of the ring. */
static const struct {
	const char *name;
	uint32_t flags;
} modes[] = { { "multi-multi", 0 },
	      { "single-multi", SP },
	      { "multi-single", SC },
	      { "single-single", SP | SC } };
static const struct {
	const char *name;
	enum kind kind;
	uint32_t n, turned, filled;
} transfers[] = {
	{ "put-1", PUTS, 1, 0, 3 },
	{ "put-1-last", PUTS, 1, 0, RING - 1 },
	{ "put-1-full", PUTS, 1, 0, RING },
	{ "put-8", PUTS, BULK, 0, 3 },
	{ "put-8-round", PUTS, BULK, RING - 7, 3 },
	{ "put-8-last", PUTS, BULK, 0, RING - BULK },
	{ "put-8-full", PUTS, BULK, 0, RING - BULK + 1 },
	{ "get-1", GETS, 1, 0, 3 },
	{ "get-1-last", GETS, 1, 0, 1 },
	{ "get-1-empty", GETS, 1, 0, 0 },
	{ "get-8", GETS, BULK, 0, 12 },
	{ "get-8-round", GETS, BULK, RING - 3, 12 },
	{ "get-8-some", GETS, BULK, 0, 3 },
	{ "get-8-empty", GETS, BULK, 0, 0 },
};

#define OTHERS (sizeof(others) / sizeof(*others))
#define MODES (sizeof(modes) / sizeof(*modes))
#define TRANSFERS (sizeof(transfers) / sizeof(*transfers))

const struct operation *operations(uint32_t *n)
{
	static struct operation all[OTHERS + MODES * TRANSFERS];
	*n = 0;
	for (size_t i = 0; i < TRANSFERS; i++)
		for (size_t k = 0; k < MODES; k++) {
			struct operation *o = &all[(*n)++];
			*o = (struct operation) {
				.kind = transfers[i].kind,
				.n = transfers[i].n,
				.flags = modes[k].flags,
				ALL,
				.turned = transfers[i].turned,
				.filled = transfers[i].filled,
				.prepare = transfers[i].kind == PUTS ? alloc_own : NULL,
				.run = transfers[i].kind == PUTS ? put : get,
			};
			snprintf(o->name, sizeof(o->name), "%s-%s", transfers[i].name,
				 modes[k].name);
		}
	memcpy(&all[*n], others, sizeof(others));
	*n += OTHERS;
	return all;
}
