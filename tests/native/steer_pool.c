/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_pool.c - members of a small pool do random things with it under steer.h, some of them die,
 * and in no run is a buffer lost, doubled or given to two, a message lost, doubled or out of order,
 * or a sleeper left asleep with something to do.
 *
 * Each profile is a small pool, a choice of operations, and who may die. Each seed is one run of
 * it.
 *
 * What is demanded
 *     at each return    what is allocated or got belonged to no live member
 *     between steps     the audit is exact (in runs without store buffers)
 *     at idle           nobody sleeps on a queue that has what it waits for, once the dead are recovered
 *     at the end        one recovery leaves nothing to do; all messages came out, each once, but those that
 *                       died with who had got them; every buffer can be had; no word names anybody
 *
 * Usage: steer_pool [--seed N] [--seeds N] [--weak] [--trace] [--list] [PROFILE...]
 * Runs seeds N, N + 1, ... of each profile. A failure says which; the same command with that seed
 * and
 * --trace shows each step. Exit status 0, or 1 after the first failure.
 */
#include "steer.h"

#include <stdarg.h>

#include "audit.h"
#include "check.h"
#include "member.h"
#include "queue.h"
#include "recover.h"
#include "slab.h"
#include "steer_kernel.h"
#include "trim.h"

#define CAPACITY_MOST 64
#define MEMBERS 10u
#define QUEUES 3u
#define MESSAGES 512
#define NOBODY -1
#define DEADLINE_NS 2000000000ll
#define BULK_MOST 3u
#define RESTS_MOST_NS 2000000000ll /* after which the core looks for free buffers everywhere */

enum operation {
	ALLOC,
	FREE,
	PUT,
	GET,
	TRY, /* to allocate, also from behind suspended members */
	ALLOC_WAIT,
	PUT_WAIT,
	GET_WAIT,
	RECOVER,
	REQUEST,
	DRAIN,
	TRIM,
	REATTACH,
	CREATE,
	GIVE_UP,
	OPERATIONS
};

#define DUELS 6
struct profile {
	const char *name;
	uint32_t capacity, prealloc, cache, bulk, extent, ring;
	uint32_t threads, operations; /* of each thread */
	uint32_t deaths, mortal;
	uint32_t most; /* buffers at a time */
	bool same;     /* always that many, and on one queue */
	bool same_queue;
	uint32_t members;             /* slots, if not MEMBERS */
	uint32_t each[STEER_THREADS]; /* other than most */
	uint32_t flags[QUEUES];
	struct queue_on_death on_death[QUEUES];
	const char *duel[DUELS]; /* steer.h */
	uint8_t weight[STEER_THREADS]
		      [OPERATIONS]; /* of threads; the last one given is the others' too */
};

#define REQUEUE { .what = ON_DEATH_REQUEUE }
#define SP ALF_SINGLE_PRODUCER
#define SC ALF_SINGLE_CONSUMER
#define PRODUCER { [ALLOC_WAIT] = 2, [PUT_WAIT] = 6, [FREE] = 1 }
#define CONSUMER { [GET_WAIT] = 4, [FREE] = 6 }
#define BOTH { [ALLOC] = 3, [FREE] = 3, [PUT] = 4, [GET] = 4 }
#define RECOVERER { [RECOVER] = 4, [ALLOC] = 1, [FREE] = 1 }
#define MEETINGS                                                                                   \
	{ "alf_reserve", "alf_claim", "alf_make_void", "take", "unreserve_one", "alf_reserve" }
#define SLOTS                                                                                      \
	{ "member_attach", "member_take_slot", "recover_mark", "take_slot",                        \
	  "take",          "member_take_slot" }
#define ROLES                                                                                      \
	{ "take_role", "recover_roles", "take_role", "take", "alf_make_void", "unreserve_one" }

/* clang-format off */
static const struct profile profiles[] = {
	{ "wait", 16, 16, 4, 2, 4, 2, .threads = 4, .operations = 12, .most = 1, .same = true,
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "wait-bulk", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 12, .most = 2, .same = true,
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "wait-single", 16, 16, 4, 2, 4, 2, .threads = 2, .operations = 16, .most = 1, .same = true,
	  .flags = { SP | SC, SP, SC }, .weight = { PRODUCER, CONSUMER } },
	{ "wait-uneven", 16, 16, 4, 2, 4, 4, .threads = 3, .operations = 12, .most = 1, .same = true,
	  .each = { 2 }, .weight = { PRODUCER, CONSUMER, CONSUMER } },
	{ "wait-alloc", 4, 4, 2, 2, 4, 4, .threads = 3, .operations = 12, .most = 1, .same = true,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "wait-deaths", 16, 16, 4, 2, 4, 2, .threads = 5, .operations = 8, .deaths = 2, .mortal = 15,
	  .most = 1, .same = true, .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER, RECOVERER } },
	{ "wait-deaths-requeue", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 8, .deaths = 1,
	  .mortal = 3, .most = 1, .same = true, .on_death = { REQUEUE },
	  .weight = { { [ALLOC] = 2, [PUT] = 4, [GET] = 4 }, { [ALLOC] = 2, [PUT] = 4, [GET] = 4 }, CONSUMER, RECOVERER } },
	{ "wait-mixed", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 10, .most = 3,
	  .same_queue = true, .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "wait-alloc-mixed", 8, 8, 2, 2, 4, 4, .threads = 4, .operations = 10, .most = 3,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "slots", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 8, .deaths = 3, .mortal = 15, .members = 6,
	  .most = 2, .duel = SLOTS,
	  .weight = { { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4, [RECOVER] = 1 } } },
	{ "queue", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .most = 3, .weight = { BOTH } },
	{ "queue-single", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .most = 3,
	  .flags = { SP, SC, SP | SC },
	  .weight = { { [ALLOC] = 3, [FREE] = 3, [PUT] = 4, [GET] = 4, [GIVE_UP] = 2 } } },
	{ "deaths", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3, .mortal = 15,
	  .most = 3, .duel = MEETINGS, .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "contend", 16, 16, 8, 8, 4, 4, .threads = 4, .operations = 6, .deaths = 2, .mortal = 15, .most = 2,
	  .same_queue = true, .duel = MEETINGS, .weight = { { [ALLOC] = 2, [PUT] = 6, [GET] = 1 }, { [ALLOC] = 2, [PUT] = 6, [GET] = 1 },
		      { [GET] = 2, [FREE] = 1 }, RECOVERER } },
	{ "contend-recoverers", 16, 16, 8, 8, 4, 4, .threads = 5, .operations = 5, .deaths = 3, .mortal = 31, .most = 2,
	  .same_queue = true, .duel = MEETINGS, .weight = { { [ALLOC] = 2, [PUT] = 6, [GET] = 1 }, { [ALLOC] = 2, [PUT] = 6, [GET] = 1 },
		      { [GET] = 2, [FREE] = 1 }, RECOVERER, RECOVERER } },
	{ "deaths-recoverers", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 10, .deaths = 3,
	  .mortal = 15, .most = 3, .duel = MEETINGS, .weight = { BOTH, BOTH, RECOVERER } },
	{ "deaths-single", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 2,
	  .mortal = 15, .most = 3, .flags = { SP, SC, SP | SC }, .duel = ROLES, .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "deaths-requeue", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3,
	  .mortal = 15, .most = 3, .on_death = { REQUEUE, REQUEUE, REQUEUE }, .flags = { 0, SC, 0 },
	  .duel = MEETINGS, .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "deaths-reattach", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 12, .deaths = 3,
	  .mortal = 31, .most = 2, .flags = { SP, SC, 0 },
	  .duel = MEETINGS, .weight = { BOTH, BOTH, { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 },
		      { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 }, RECOVERER } },
	{ "caches", 8, 8, 4, 2, 4, 4, .threads = 4, .operations = 20, .most = 3,
	  .duel = { "rob", "hold", "qmempool_honour", "rob", "hold", "qmempool_honour" }, .weight = { { [ALLOC] = 6, [FREE] = 5, [REQUEST] = 1, [DRAIN] = 1 } } },
	{ "caches-deaths", 8, 8, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3, .mortal = 15,
	  .most = 3, .duel = { "rob", "hold", "qmempool_honour", "rob", "recover_finish", "take" }, .weight = { { [ALLOC] = 6, [FREE] = 5, [REQUEST] = 1, [DRAIN] = 1, [RECOVER] = 1 } } },
	{ "no-caches", 8, 8, 0, 2, 4, 4, .threads = 4, .operations = 20, .most = 8,
	  .weight = { { [ALLOC] = 6, [FREE] = 5 } } },
	{ "bypass", 8, 8, 0, 2, 4, 4, .threads = 4, .operations = 20, .most = 8,
	  .weight = { { [TRY] = 6, [FREE] = 5 } } },
	{ "bypass-deaths", 8, 8, 0, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 2, .mortal = 15, .most = 8,
	  .weight = { { [TRY] = 6, [FREE] = 5, [RECOVER] = 1 } } },
	{ "single-producers", 16, 16, 4, 2, 4, 2, .threads = 5, .operations = 8, .deaths = 2, .mortal = 3, .most = 2,
	  .same_queue = true, .flags = { SP }, .duel = ROLES,
	  .weight = { { [ALLOC] = 2, [PUT] = 6 }, { [ALLOC] = 2, [PUT] = 6, [GIVE_UP] = 2 },
		      { [GET] = 4, [FREE] = 2 }, RECOVERER, { [RECOVER] = 3, [ALLOC] = 2, [PUT] = 4 } } },
	{ "no-caches-deaths", 8, 8, 0, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3, .mortal = 15,
	  .most = 8, .weight = { { [ALLOC] = 6, [FREE] = 5, [RECOVER] = 1 } } },
	{ "growth", 16, 4, 4, 2, 2, 4, .threads = 4, .operations = 16, .most = 6,
	  .weight = { { [ALLOC] = 6, [FREE] = 4, [TRIM] = 2, [PUT] = 1, [GET] = 1 } } },
	{ "growth-deaths", 16, 4, 4, 2, 2, 4, .threads = 4, .operations = 12, .deaths = 3, .mortal = 15,
	  .most = 6, .duel = { "slab_grow", "take_away", "rob", "take", "recover_makers", "slab_grow" }, .weight = { { [ALLOC] = 6, [FREE] = 4, [TRIM] = 2, [RECOVER] = 1 } } },
	{ "requeue-single", 16, 16, 4, 2, 4, 2, .threads = 4, .operations = 10, .deaths = 2, .mortal = 7, .most = 2,
	  .same_queue = true, .on_death = { REQUEUE }, .flags = { SC }, .duel = ROLES,
	  .weight = { { [GET] = 5, [ALLOC] = 1, [FREE] = 1 }, { [GET] = 4, [ALLOC] = 2, [PUT] = 3 },
		      { [ALLOC] = 3, [PUT] = 6 }, { [ALLOC] = 3, [PUT] = 4, [RECOVER] = 2 } } },
	{ "creation", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 6, .deaths = 2, .mortal = 15,
	  .most = 1, .weight = { { [CREATE] = 4, [RECOVER] = 1 } } },
};
/* clang-format on */
/* Where a recoverer, or who comes into a dead member's slot, may be overtaken by all the others. */
static const char *const haunts[] = { "recover_mark",
				      "collect_records",
				      "collect_single",
				      "skip_published",
				      "bury",
				      "recovery_look",
				      "sweep",
				      "sweep_one",
				      "unreserve_candidates",
				      "unreserve_one",
				      "dead_claim",
				      "abandon",
				      "take",
				      "recover_roles",
				      "take_slot",
				      "member_take_slot",
				      "raise_epoch",
				      "member_attach",
				      "recover_thieves",
				      "came_from",
				      "hand_on",
				      "pass",
				      "alf_word" };
/* Where whoever dies leaves something to recover. */
static const char *const graves[] = {
	"transfer_take",  "transfer_mark",  "alf_publish", "rob",
	"take",           "unreserve_one",  "alf_done",    "slab_grow",
	"take_away",      "hand_on",        "sweep_one",   "member_attach",
	"member_release", "alf_publishing", "hold",        "qmempool_bypass",
	"alf_claim",      "spill",          "abandon",     "member_take_slot",
	"reset",          "raise_epoch"
};
#define PROFILES (sizeof(profiles) / sizeof(*profiles))

enum fate { UNSENT, SENDING, SENT, TAKEN, DONE };
struct message {
	enum fate fate;
	uint32_t producer, queue, bulk, n, taker;
};

/* Of a thread, and of whoever looks at everything in the end. */
struct actor {
	struct qmempool pool;
	struct member *m;
	uint32_t tag;
	uint64_t hand[CAPACITY_MOST];
	bool got[CAPACITY_MOST]; /* out of a queue: a message */
	uint32_t held;
	uint32_t getting, getting_from; /* in the middle of getting so many at most */
	const struct alf_ring *waits_on;
	uint32_t waits_for;
	uint32_t last[STEER_THREADS][QUEUES]; /* message seen */
};

static const struct profile *profile;
static struct steer_run run;
static struct actor actors[STEER_THREADS + 1];
#define LAST STEER_THREADS
static struct message messages[MESSAGES];
static int holder[CAPACITY_MOST];
static uint32_t sent, created;
static bool ending, weak;

/* The segment, and what it was when it was new. */
static struct segment segment;
static char *snapshot;

static void failed(const char *format, va_list list)
{
	fflush(stdout);
	fprintf(stderr, "%s, seed %llu%s: ", profile->name, (unsigned long long)run.seed,
		run.weak ? ", weak" : "");
	vfprintf(stderr, format, list);
	fprintf(stderr, "\n");
	exit(1);
}

void steer_failed(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	failed(format, list);
	va_end(list);
	abort();
}

#define DEMAND(condition)                                                                          \
	((condition) ? (void)0 : steer_failed("line %d: not so: %s", __LINE__, #condition))
#define SAME(expected, actual)                                                                     \
	do {                                                                                       \
		long long e_ = (long long)(expected), a_ = (long long)(actual);                    \
		if (e_ != a_)                                                                      \
			steer_failed("line %d: %s is %lld, not %lld", __LINE__, #actual, a_, e_);  \
	} while (0)

static uint32_t *text(uint64_t handle)
{
	return (uint32_t *)segment_data(&segment, handle_index(handle));
}

static bool dead(uint32_t who)
{
	return who < STEER_THREADS && steer_died(who);
}

/* What is in whose hands. */

static void take(uint32_t me, uint64_t handle, bool got)
{
	struct actor *a = &actors[me];
	uint32_t index = handle_index(handle);
	DEMAND(index < profile->capacity);
	int had = holder[index];
	if (had != NOBODY && !dead((uint32_t)had))
		steer_failed("buffer %u of thread %d, which lives, is given to thread %u", index,
			     had, me);
	holder[index] = (int)me;
	DEMAND(a->held < CAPACITY_MOST);
	a->got[a->held] = got;
	a->hand[a->held++] = handle;
}

/* The newest n leave somebody's hands, as far as anybody else is concerned. */
static const uint64_t *part_with(struct actor *a, uint32_t n)
{
	a->held -= n;
	for (uint32_t i = a->held; i < a->held + n; i++)
		holder[handle_index(a->hand[i])] = NOBODY;
	return &a->hand[a->held];
}

static void keep_after_all(uint32_t me, uint32_t n)
{
	struct actor *a = &actors[me];
	for (uint32_t i = a->held; i < a->held + n; i++)
		holder[handle_index(a->hand[i])] = (int)me;
	a->held += n;
}

static uint32_t some(uint32_t me, uint32_t most)
{
	uint32_t limit = profile->each[me] ? profile->each[me] : profile->most;
	if (most > limit)
		most = limit;
	return profile->same || most == 0 ? most : 1 + steer_random(most);
}

/* A message came out of a queue. */
static void receive(uint32_t me, uint32_t queue, uint64_t handle)
{
	uint32_t id = *text(handle);
	bool requeues = profile->on_death[queue].what == ON_DEATH_REQUEUE;
	DEMAND(id < sent);
	struct message *m = &messages[id];
	SAME(m->queue, queue);
	bool again = requeues && (m->fate == TAKEN || m->fate == DONE) && dead(m->taker);
	if (m->fate != SENDING && m->fate != SENT && !again)
		steer_failed("message %u comes out of queue %u a second time", id, queue);
	/* What was put back stands behind what was sent later. */
	if (!requeues) {
		uint32_t *last = &actors[me].last[m->producer][queue];
		if (id + 1 <= *last)
			steer_failed("message %u comes out after %u", id, *last - 1);
		*last = id + 1;
	}
	m->fate = TAKEN;
	m->taker = me;
}

/* Operations. */

static void do_alloc(uint32_t me, bool wait, int64_t most_ns)
{
	struct actor *a = &actors[me];
	uint64_t handle[CAPACITY_MOST];
	uint32_t n = some(me, profile->capacity - a->held);
	if (!n)
		return;
	a->waits_on = &a->pool.free;
	a->waits_for = n;
	int error = wait   ? qmempool_alloc_wait(&a->pool, a->m, handle, n,
						 most_ns ? wait_now() + most_ns : WAIT_NEVER) :
		    n == 1 ? qmempool_alloc(&a->pool, a->m, handle) :
			     qmempool_alloc_bulk(&a->pool, a->m, handle, n);
	a->waits_on = NULL;
	if (error)
		DEMAND(error == -EAGAIN || (wait && error == -EINTR));
	for (uint32_t i = 0; i < n && !error; i++)
		take(me, handle[i], false);
}

static void do_free(uint32_t me)
{
	struct actor *a = &actors[me];
	uint32_t n = some(me, a->held);
	if (!n)
		return;
	for (uint32_t i = a->held - n; i < a->held; i++)
		if (a->got[i])
			messages[*text(a->hand[i])].fate = DONE;
	const uint64_t *handle = part_with(a, n);
	SAME(0, n == 1 ? qmempool_free(&a->pool, a->m, handle[0]) :
			 qmempool_free_bulk(&a->pool, a->m, handle, n));
}

static void do_put(uint32_t me, bool wait)
{
	struct actor *a = &actors[me];
	uint32_t queue = steer_random(QUEUES),
		 n = some(me, a->held < BULK_MOST ? a->held : BULK_MOST);
	if (profile->same || profile->same_queue)
		queue = 0;
	if (n > profile->ring)
		n = profile->ring;
	if (!n || sent + n > MESSAGES)
		return;
	const struct alf_ring *r = queue_ring(&a->pool, queue + 1);
	uint32_t first = sent;
	/* What comes back to its queue must be what was got from there. */
	for (uint32_t i = 1; i <= n && profile->on_death[queue].what; i++)
		if (a->got[a->held - i])
			return;
	sent += n;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = a->held - n + i;
		if (a->got[k])
			messages[*text(a->hand[k])].fate = DONE;
		messages[first + i] = (struct message) { SENDING, me, queue, first, n, 0 };
		*text(a->hand[k]) = first + i;
		a->got[k] = false;
	}
	const uint64_t *handle = part_with(a, n);
	a->waits_on = r;
	a->waits_for = n;
	int error = wait ? queue_put_wait(&a->pool, a->m, r, handle, n, wait_now() + DEADLINE_NS) :
			   queue_put(&a->pool, a->m, r, handle, n);
	a->waits_on = NULL;
	for (uint32_t i = first; i < first + n; i++)
		if (messages[i].fate == SENDING)
			messages[i].fate = error ? UNSENT : SENT;
		else
			DEMAND(!error);
	if (error) {
		DEMAND(error == -ENOBUFS || (error == -EINTR && wait) ||
		       (error == -EBUSY && r->flags & SP));
		keep_after_all(me, n);
	}
}

static void do_get(uint32_t me, bool wait)
{
	struct actor *a = &actors[me];
	uint32_t queue = profile->same || profile->same_queue ? 0 : steer_random(QUEUES);
	uint32_t n =
		some(me, CAPACITY_MOST - a->held < BULK_MOST ? CAPACITY_MOST - a->held : BULK_MOST);
	const struct alf_ring *r = queue_ring(&a->pool, queue + 1);
	uint64_t handle[BULK_MOST];
	if (!n)
		return;
	a->getting = n;
	a->getting_from = queue;
	a->waits_on = r;
	a->waits_for = 0;
	int got = wait ? queue_get_wait(&a->pool, a->m, r, handle, n, wait_now() + DEADLINE_NS) :
			 queue_get(&a->pool, a->m, r, handle, n);
	a->waits_on = NULL;
	a->getting = 0;
	if (got < 0)
		DEMAND(got == -EAGAIN || (got == -EINTR && wait) ||
		       (got == -EBUSY && r->flags & SC));
	for (int i = 0; i < got; i++) {
		receive(me, queue, handle[i]);
		take(me, handle[i], true);
	}
}

static void attach(uint32_t me)
{
	actors[me].m = NULL;
	int error = member_attach(&segment, STEER_TOKEN(me), &actors[me].m);
	/* As local.c: a newcomer takes a dead member's slot. */
	for (int i = 0; error == -EUSERS && i < 1000; i++)
		error = recover_slot(&actors[me].pool, STEER_TOKEN(me), &actors[me].m);
	SAME(0, error);
	actors[me].tag = actors[me].m->tag;
}

static void do_reattach(uint32_t me)
{
	struct actor *a = &actors[me];
	for (uint32_t i = 0; i < a->held; i++)
		if (a->got[i])
			messages[*text(a->hand[i])].fate = DONE;
	while (a->held)
		SAME(0, qmempool_free(&a->pool, a->m, *part_with(a, 1)));
	SAME(0, member_held(a->m));
	qmempool_drain(&a->pool, a->m);
	member_release(&a->pool.segment, a->m);
	attach(me);
}

static void do_create(uint32_t me)
{
	struct actor *a = &actors[me];
	const struct queue_on_death free_them = { 0 };
	int number = queue_create(&a->pool, a->m, "made", profile->ring, 0, &free_them);
	if (number > 0)
		SAME(0, created++);
	else
		DEMAND(number == -EEXIST || number == -ENFILE);
}

static void operate(uint32_t me, enum operation what)
{
	struct actor *a = &actors[me];
	struct shmpool_recovery out;
	switch (what) {
	case ALLOC:
	case TRY:
	case ALLOC_WAIT:
		do_alloc(me, what != ALLOC, what == TRY ? 0 : DEADLINE_NS);
		break;
	case FREE:
		do_free(me);
		break;
	case PUT:
	case PUT_WAIT:
		do_put(me, what == PUT_WAIT);
		break;
	case GET:
	case GET_WAIT:
		do_get(me, what == GET_WAIT);
		break;
	case RECOVER:
		SAME(0, recover(&a->pool, a->m, &out));
		break;
	case REQUEST:
		qmempool_request(&a->pool);
		break;
	case DRAIN:
		qmempool_drain(&a->pool, a->m);
		break;
	case TRIM:
		DEMAND(trim(&a->pool, a->m, steer_random(4)) >= 0);
		break;
	case REATTACH:
		do_reattach(me);
		break;
	case CREATE:
		do_create(me);
		break;
	case GIVE_UP:
		queue_release(queue_ring(&a->pool, 1 + steer_random(QUEUES)), a->m);
		break;
	case OPERATIONS:
		break;
	}
}

static const uint8_t *weights(uint32_t me)
{
	for (;; me--)
		for (uint32_t i = 0; i < OPERATIONS; i++)
			if (profile->weight[me][i])
				return profile->weight[me];
}

static void body(uint32_t me)
{
	const uint8_t *weight = weights(me);
	uint32_t all = 0;
	for (uint32_t i = 0; i < OPERATIONS; i++)
		all += weight[i];
	attach(me);
	for (uint32_t i = 0; i < profile->operations; i++) {
		uint32_t what = 0, left = steer_random(all);
		for (; left >= weight[what]; what++)
			left -= weight[what];
		operate(me, what);
		SAME(0, load_relaxed(&actors[me].m->op));
	}
	SAME(actors[me].held, member_held(actors[me].m));
}

/* Whether somebody sleeps who should not. */

static bool has_something(const struct actor *a, const struct alf_ring *r, const uint32_t *word)
{
	alf_position cons = load_relaxed(&r->q->cons);
	if (word == &r->q->room_wait || word == &r->q->room_many)
		return alf_avail_space(r) >= a->waits_for;
	if (word == &r->q->data_wait)
		return steer_published(r, cons);
	for (uint32_t i = 0; i < a->waits_for; i++)
		if (!steer_published(r, (alf_position)(cons + i)))
			return false;
	return word == &segment_shared(&segment)->free_wait ||
	       word == &segment_shared(&segment)->free_many;
}

/* Until then a sleeper may sleep on: whoever died may have been about to wake it. */
static bool all_recovered(void)
{
	for (uint32_t i = 0; i < profile->threads; i++)
		if (steer_died(i) && (!actors[i].m || actors[i].m->tag == actors[i].tag))
			return false;
	return true;
}

void steer_idle(void)
{
	for (uint32_t i = 0; i < profile->threads && all_recovered(); i++) {
		const struct actor *a = &actors[i];
		int64_t most;
		const uint32_t *word = steer_asleep(i, &most);
		/* A short sleep is one of which the core knows that nobody may end it. */
		bool exact = most >= WAIT_SLICE_NS ||
			     (profile->same && a->waits_on == &a->pool.free && !steer_buffers());
		if (word && a->waits_on && exact && has_something(a, a->waits_on, word))
			steer_failed("thread %u sleeps %lld us and there is something for it", i,
				     (long long)most / 1000);
	}
}

static void check_audit(uint64_t held)
{
	struct shmpool_audit audit;
	struct shmpool_held list[MEMBERS + 4];
	uint64_t queued[QUEUES + 3], sum = 0, queues = 0;
	SAME(0, audit_count(&actors[LAST].pool, &audit, list, MEMBERS + 4, queued, QUEUES + 3));
	for (uint32_t i = 0; i < MEMBERS + 4; i++)
		sum += list[i].buffers;
	for (uint32_t i = 0; i < QUEUES + 3; i++)
		queues += queued[i];
	SAME(0, audit.unaccounted);
	SAME(0, audit.doubled);
	SAME(audit.total, sum + queues + audit.free + audit.cached);
	if (ending)
		SAME(held, sum);
}

void steer_between(void)
{
	if (!steer_buffers())
		check_audit(0);
}

/* The end. */

static void drain_queues(void)
{
	struct actor *a = &actors[LAST];
	for (uint32_t q = 0; q < QUEUES; q++) {
		const struct alf_ring *r = queue_ring(&a->pool, q + 1);
		uint64_t handle;
		int got;
		while ((got = queue_get(&a->pool, a->m, r, &handle, 1)) == 1) {
			receive(LAST, q, handle);
			take(LAST, handle, true);
			messages[*text(handle)].fate = DONE;
			SAME(0, qmempool_free(&a->pool, a->m, *part_with(a, 1)));
		}
		DEMAND(got == -EAGAIN || (got == -EBUSY && r->flags & SC));
		queue_release(r, a->m);
	}
}

static void check_names(void)
{
	for (uint32_t i = 0; i < segment.members; i++) {
		const struct member *m = segment_member(&segment, i);
		uint32_t thief = cache_thief(m->cache_bottom);
		SAME(0, m->op);
		DEMAND(thief == 0 || thief == CACHE_REQUESTED);
		DEMAND(cache_between(m->cache_bottom, m->cache_top) >= 0);
		if (m != actors[LAST].m) {
			SAME(0, m->identity);
			SAME(0, member_cached(&segment, m));
		}
		SAME(0, member_held(m));
	}
	for (uint64_t i = 0; i < segment.extents; i++)
		DEMAND(*segment_extent(&segment, i) == 0 ||
		       *segment_extent(&segment, i) == EXTENT_PRESENT);
	for (uint32_t i = 1; i <= segment.geometry.queues; i++) {
		const struct queue_slot *slot = segment_queue(&segment, i);
		DEMAND(slot->state == 0 || slot->state == QUEUE_READY);
		SAME(0, slot->queue.producer);
		SAME(0, slot->queue.consumer);
		SAME(0, slot->queue.data_wait & WAIT_COUNT_MASK);
		SAME(0, slot->queue.room_wait & WAIT_COUNT_MASK);
	}
	SAME(0, segment_shared(&segment)->free_wait & WAIT_COUNT_MASK);
}

/* All messages have come out, but what dead consumers had taken and what dead producers did not
 * put. */
static void check_messages(void)
{
	uint32_t may_miss[QUEUES] = { 0 }, missing[QUEUES] = { 0 };
	for (uint32_t i = 0; i < profile->threads; i++)
		if (steer_died(i) && actors[i].getting)
			may_miss[actors[i].getting_from] += actors[i].getting;
	for (uint32_t i = 0; i < sent; i += messages[i].n) {
		const struct message *m = &messages[i];
		uint32_t out = 0, lost = 0;
		for (uint32_t k = i; k < i + m->n; k++) {
			out += messages[k].fate == DONE || messages[k].fate == TAKEN;
			lost += messages[k].fate == SENT ||
				(messages[k].fate == SENDING && dead(m->producer));
			if (profile->on_death[m->queue].what && messages[k].fate == TAKEN)
				steer_failed(
					"message %u, which thread %u had when it died, is lost", k,
					messages[k].taker);
		}
		/* All of what a dead producer was putting, or nothing. */
		if (out || messages[i].fate == SENT)
			missing[m->queue] += lost;
	}
	for (uint32_t q = 0; q < QUEUES; q++)
		if (missing[q] > (profile->on_death[q].what ? 0 : may_miss[q]))
			steer_failed("%u messages of queue %u are lost, of which %u may be",
				     missing[q], q, may_miss[q]);
}

static void check_end(void)
{
	struct actor *a = &actors[LAST];
	struct shmpool_recovery out;
	uint64_t held = 0;
	uint32_t n = 0;
	ending = true;
	for (uint32_t i = 0; i < profile->threads * QUEUES; i++)
		if (!steer_died(i / QUEUES))
			queue_release(queue_ring(&a->pool, 1 + i % QUEUES), actors[i / QUEUES].m);
	SAME(0, recover(&a->pool, a->m, &out));
	for (int i = 0; i < 16 && out.postponed; i++) { /* for want of room */
		drain_queues();
		SAME(0, recover(&a->pool, a->m, &out));
	}
	SAME(0, out.postponed);
	SAME(0, out.unknown);
	for (uint32_t i = 0; i < profile->threads; i++)
		held += steer_died(i) ? 0 : actors[i].held;
	check_audit(held);
	for (uint32_t i = 0; i < profile->threads; i++) {
		struct actor *other = &actors[i];
		if (steer_died(i))
			continue;
		for (uint32_t k = 0; k < other->held; k++)
			if (other->got[k])
				messages[*text(other->hand[k])].fate = DONE;
		while (other->held)
			SAME(0, qmempool_free(&other->pool, other->m, *part_with(other, 1)));
		qmempool_drain(&other->pool, other->m);
		member_release(&segment, other->m);
	}
	drain_queues();
	check_audit(0);
	check_messages();
	/* As any of the processes would: each has an idea of its own of what there is. */
	struct qmempool *pool = &actors[steer_random(profile->threads)].pool;
	while (a->held < profile->capacity) {
		uint64_t handle;
		int error = -EAGAIN;
		/* Whoever is stuck asks only now and then. */
		for (int i = 0; i < 4 && error; i++) {
			error = qmempool_alloc_wait(pool, a->m, &handle, 1, WAIT_NEVER);
			steer_time_passes(error ? RESTS_MOST_NS : 0);
		}
		if (error)
			break;
		take(LAST, handle, false);
	}
	SAME(profile->capacity, a->held);
	while (a->held)
		SAME(0, qmempool_free(&a->pool, a->m, *part_with(a, 1)));
	check_audit(0);
	check_names();
	for (n = 0; n < profile->threads; n++)
		qmempool_unbind(&actors[n].pool);
	qmempool_unbind(&a->pool);
}

/* The segment. */

#define RING_BYTES(s) (profile->ring * sizeof(uint64_t))
static uint64_t part(uint32_t i, uint64_t *size)
{
	if (i == 0) {
		*size = segment.rings_offset;
		return 0;
	}
	if (i <= segment.geometry.queues) {
		*size = profile->ring * sizeof(uint64_t);
		return segment.rings_offset + (i - 1) * sizeof(uint64_t) * ALF_CAPACITY_MAX;
	}
	*size = profile->capacity * sizeof(struct buffer);
	return segment.headers_offset;
}

static void copy(bool back)
{
	char *at = snapshot;
	for (uint32_t i = 0; i <= segment.geometry.queues + 1; i++) {
		uint64_t size, offset = part(i, &size);
		memcpy(back ? segment.base + offset : at, back ? at : segment.base + offset, size);
		at += size;
	}
}

static void make_pool(void)
{
	struct shmpool_geometry g = { .buffer_size = 2048,
				      .capacity = profile->capacity,
				      .prealloc = profile->prealloc,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .members = profile->members ? profile->members : MEMBERS,
				      .queues = QUEUES + 2 };
	struct shmpool_refusal why;
	int64_t extents;
	if (segment.base)
		munmap(segment.base, segment.size);
	free(snapshot);
	g.cache_size = 0;
	SAME(0, segment_plan(&segment, &g, &why));
	/* Smaller than a user may have them: the same things happen in fewer steps. */
	segment.member_stride += profile->cache * sizeof(uint64_t);
	segment.member_stride = (segment.member_stride + 63) / 64 * 64;
	segment.geometry.cache_size = profile->cache;
	segment.geometry.bulk = profile->bulk;
	segment.geometry.extent_buffers = profile->extent;
	extents = (profile->capacity - profile->prealloc + profile->extent - 1) / profile->extent;
	segment.extents = (uint64_t)extents;
	segment.queues_offset = segment.members_offset + segment.members * segment.member_stride;
	segment.extents_offset = segment.queues_offset + (QUEUES + 3) * sizeof(struct queue_slot);
	DEMAND(segment.extents_offset + segment.extents * 8 <= segment.free_ring_offset);
	int fd = memfd_create("steer", MFD_CLOEXEC);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)segment.size) == 0);
	char *base = mmap(NULL, segment.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(base != MAP_FAILED);
	SAME(0, segment_init(&segment, base, fd));
	SAME(0, slab_create(&segment));
	segment_ready(&segment);
	SAME(0, qmempool_bind(&actors[LAST].pool, &segment));
	SAME(0, member_attach(&segment, STEER_TOKEN(LAST), &actors[LAST].m));
	for (uint32_t i = 0; i < QUEUES; i++) {
		const char name[2] = { (char)('a' + i), 0 };
		SAME(i + 1, queue_create(&actors[LAST].pool, actors[LAST].m, name, profile->ring,
					 profile->flags[i], &profile->on_death[i]));
	}
	qmempool_unbind(&actors[LAST].pool);
	snapshot = malloc(segment.size);
	copy(false);
}

static void run_seed(uint64_t seed)
{
	struct member *last = actors[LAST].m;
	steer_choose(&run, seed);
	run.weak = weak;
	if (weak && !run.delay)
		run.delay = 1u << steer_random(11);
	if (profile->deaths && steer_random(2))
		run.haunt = haunts[steer_random(sizeof(haunts) / sizeof(*haunts))];
	if (profile->deaths && steer_random(2))
		run.grave = graves[steer_random(sizeof(graves) / sizeof(*graves))];
	run.duel = steer_random(2) ? profile->duel[steer_random(DUELS)] : NULL;
	run.deaths = profile->deaths ? 1 + steer_random(profile->deaths) : 0;
	copy(true);
	memset(actors, 0, sizeof(actors));
	actors[LAST].m = last;
	sent = created = 0;
	ending = false;
	for (uint32_t i = 0; i < profile->capacity; i++)
		holder[i] = NOBODY;
	for (uint32_t i = 0; i <= STEER_THREADS; i++)
		if (i < profile->threads || i == LAST)
			SAME(0, qmempool_bind(&actors[i].pool, &segment));
	steer_threads(&run, profile->threads, profile->mortal, body);
	check_end();
}

int main(int argc, char **argv)
{
	uint64_t first = 0, seeds = 1000, steps = 0, deaths = 0;
	bool all = true, list = false;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			first = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--seeds") && i + 1 < argc)
			seeds = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--trace"))
			steer_tracing = true;
		else if (!strcmp(argv[i], "--weak"))
			weak = true;
		else if (!strcmp(argv[i], "--list"))
			list = true;
		else
			all = false;
	}
	for (size_t k = 0; k < PROFILES; k++) {
		bool chosen = all;
		for (int i = 1; i < argc; i++)
			chosen |= !strcmp(argv[i], profiles[k].name);
		if (list)
			printf("%s\n", profiles[k].name);
		if (!chosen || list)
			continue;
		profile = &profiles[k];
		make_pool();
		steps = deaths = 0;
		for (uint64_t seed = first; seed < first + seeds; seed++) {
			run_seed(seed);
			steps += steer_steps();
			deaths += steer_deaths();
		}
		printf("%-20s %llu runs, %llu steps, %llu deaths\n", profile->name,
		       (unsigned long long)seeds, (unsigned long long)steps,
		       (unsigned long long)deaths);
		fflush(stdout);
	}
	return 0;
}
