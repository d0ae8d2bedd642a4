/* SPDX-License-Identifier: Apache-2.0
 *
 * opening.c - see opening.h. One file: all of it takes one lock, of tables that no other file sees.
 */
#define _GNU_SOURCE
#include "opening.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "device.h"
#include "forked.h"
#include "member.h"
#include "populate.h"
#include "recover.h"
#include "topic.h"
#include "wait.h"

struct qmempool opening_pools[OPENING_POOLS_MAX];
uint32_t *opening_callers;
bool (*opening_locked)(void);
void (*opening_thread_begins)(struct opening_thread *t);
void (*opening_pool_ends)(uint32_t number);
void (*opening_subscriber_ends)(uint32_t number, uint32_t index);
_Thread_local struct opening_thread *opening_thread;

/* The table of every thread, so that a close can remove the pool's members from all tables. A fork
 * keeps the nodes and wipes the tables. */
struct node {
	struct opening_thread *table;
	struct node *next;
};
static struct node *threads;

/* By slot: this process's token and pin in the pool, and whether this process made the pool. */
struct opening {
	struct token token;
	struct pin pin;
	void *device_pin; /* keeps extents from being removed; NULL without devices */
	uint32_t devices;
	bool made;
};

/* A forked child reads this as zeros: unlocked mutexes, no calls, no tokens, no pins. */
static struct wiped {
	pthread_mutex_t threads_lock;
	uint32_t callers[OPENING_POOLS_MAX];
	struct opening openings[OPENING_POOLS_MAX];
} *wiped;
static pthread_key_t thread_key;

static void thread_ends(void *table)
{
	struct opening_thread *t = table;
	pthread_mutex_lock(&wiped->threads_lock);
	for (uint32_t i = 0; i < OPENING_POOLS_MAX; i++)
		if (t->member[i] && opening_pools[i].buffers)
			qmempool_end(&opening_pools[i], t->member[i]);
	for (struct node **at = &threads; *at; at = &(*at)->next) {
		struct node *n = *at;
		if (n->table == t) {
			*at = n->next;
			free(n);
			break;
		}
	}
	pthread_mutex_unlock(&wiped->threads_lock);
	opening_thread = NULL;
	forked_unmap(t, sizeof(*t));
}

void opening_thread_ends(struct opening_thread *t)
{
	if (!t || opening_thread != t)
		return;
	pthread_setspecific(thread_key, NULL);
	thread_ends(t);
}

static pthread_mutex_t preparing = PTHREAD_MUTEX_INITIALIZER;

/* Around a fork: no thread of the parent has a lock that the child needs. */
static void lock_threads(void)
{
	pthread_mutex_lock(&preparing);
	pthread_mutex_lock(&wiped->threads_lock);
	forked_before();
}

static void unlock_threads(void)
{
	forked_parent();
	pthread_mutex_unlock(&wiped->threads_lock);
	pthread_mutex_unlock(&preparing);
}

/* Takes a token of the pool if this process has none. The caller holds threads_lock. */
static int need_token(uint32_t slot)
{
	struct token *t = &wiped->openings[slot].token;
	return t->number || !opening_pools[slot].segment.writes ?
		       0 :
		       token_take(&opening_pools[slot].segment, t);
}

/* The child has only the thread that forked. Where no token can be taken now, the first call tries
 * again. */
static void after_fork(void)
{
	forked_child();
	pthread_mutex_unlock(&preparing);
	for (uint32_t i = 0; i < OPENING_POOLS_MAX; i++)
		if (opening_pools[i].buffers)
			need_token(i);
}

/* Makes what a process needs once. Returns 0, or -ENOMEM; then the next opening tries again. */
static int prepare(void)
{
	static bool key, hooks;
	pthread_mutex_lock(&preparing);
	if (!wiped && (wiped = forked_zeros(sizeof(*wiped))))
		opening_callers = wiped->callers;
	key = key || (wiped && !pthread_key_create(&thread_key, thread_ends));
	hooks = hooks || (key && !pthread_atfork(lock_threads, unlock_threads, after_fork));
	pthread_mutex_unlock(&preparing);
	return hooks ? 0 : -ENOMEM;
}

int opening_hold(int fd, const char *path, void **page)
{
	int error = prepare();
	if (error)
		return error;
	pthread_mutex_lock(&wiped->threads_lock);
	error = token_hold(fd, path, page);
	pthread_mutex_unlock(&wiped->threads_lock);
	return error;
}

struct pin *opening_pinned(uint32_t number)
{
	return &wiped->openings[number % OPENING_POOLS_MAX].pin;
}

uint64_t opening_token(uint32_t number)
{
	return wiped ? load_relaxed(&wiped->openings[number % OPENING_POOLS_MAX].token.number) : 0;
}

/* The number's bit that makes it the one of the pin for devices. */
#define DEVICE_PIN (1ull << (TOKEN_BITS - 2))

/* Lets extents be removed again when the last device has ended. */
static void device_ended(struct opening *opening)
{
	pthread_mutex_lock(&wiped->threads_lock);
	if (opening->devices && !--opening->devices) {
		token_let_go(opening->device_pin);
		opening->device_pin = NULL;
	}
	pthread_mutex_unlock(&wiped->threads_lock);
}

static int make_table(void)
{
	struct node *n = malloc(sizeof(*n));
	struct opening_thread *t = forked_zeros(sizeof(*t));
	if (!n || !t || pthread_setspecific(thread_key, t)) {
		if (t)
			forked_unmap(t, sizeof(*t));
		free(n);
		return -ENOMEM;
	}
	n->table = t;
	pthread_mutex_lock(&wiped->threads_lock);
	n->next = threads;
	threads = n;
	pthread_mutex_unlock(&wiped->threads_lock);
	opening_thread = t;
	if (opening_thread_begins)
		opening_thread_begins(t);
	return 0;
}

void opening_thread_make(void)
{
	if (wiped)
		make_table();
}

/* Makes the calling thread the member that an ended thread of this process was, one whose buffers
 * outlive it. -EUSERS if there is none. The lock keeps the ended thread from the middle of
 * qmempool_end(), after which it does not touch the slot. */
static int take_over(const struct segment *s, uint64_t token, struct member **out)
{
	int error = -EUSERS;
	pthread_mutex_lock(&wiped->threads_lock);
	for (uint32_t i = 0; i < s->members && error; i++) {
		struct member *m = segment_member(s, i);
		uint32_t ended = 1;
		if (load_acquire(&m->identity) != (MEMBER_ATTACHED | token) || /* [MEMBER] */
		    !cas_seq_cst(&m->ended, &ended, 0))                        /* [ENDED] */
			continue;
		*out = m;
		error = 0;
	}
	pthread_mutex_unlock(&wiped->threads_lock);
	return error;
}

/* One attempt. -EAGAIN as recover_slot(). thread: the slot of an ended thread serves, with the
 * buffers that it has. */
static int attach(struct qmempool *p, uint64_t token, bool thread, struct member **out)
{
	int error = member_attach(&p->segment, token, out);
	if (error == -EUSERS)
		error = recover_slot(p, token, out);
	if (!thread || (error != -EUSERS && error != -EAGAIN))
		return error;
	return take_over(&p->segment, token, out) ? error : 0;
}

/* Attempts until there is a slot, or none to wait for. Many may attach at once, in place of as many
 * that were killed. */
static int attach_again(struct qmempool *p, uint64_t token, bool thread, struct member **out)
{
	struct wait_tries tries = { 0 };
	int64_t until = WAIT_FOREVER;
	for (;;) {
		const int error = attach(p, token, thread, out);
		if (error != -EAGAIN)
			return error;
		if (load_relaxed(&p->closing))
			return -ESHUTDOWN;
		if (!tries.n && opening_locked && opening_locked())
			until = wait_now() + OPENING_LOCKED_NS;
		if (until != WAIT_FOREVER && wait_now() >= until)
			return -EINPROGRESS;
		if (!wait_again(&tries))
			return -EUSERS;
	}
}

int opening_attach(uint32_t number)
{
	const uint32_t slot = number % OPENING_POOLS_MAX;
	struct qmempool *p = &opening_pools[slot];
	int error = !p->segment.writes ? -EROFS : opening_thread ? 0 : make_table();
	if (error)
		return error;
	pthread_mutex_lock(&wiped->threads_lock);
	error = need_token(slot);
	pthread_mutex_unlock(&wiped->threads_lock);
	if (error)
		return error;
	return attach_again(p, opening_token(number), true, &opening_thread->member[slot]);
}

int opening_pin(uint32_t number, const struct shmpool_driver *driver)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	struct pin *pin = opening_pinned(number);
	void *page;
	if (!p->segment.writes)
		return -EROFS;
	pthread_mutex_lock(&wiped->threads_lock);
	int error = need_token(number % OPENING_POOLS_MAX);
	if (!error && load_relaxed(&pin->page)) {
		pin_retry(pin);
	} else if (!error && !(error = token_pin(&p->segment, opening_token(number), &page))) {
		error = pin_begin(pin, p, driver, page);
		if (error)
			token_let_go(page);
	}
	pthread_mutex_unlock(&wiped->threads_lock);
	return error;
}

int opening_populate(uint32_t number, uint64_t *at)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	void *page = NULL;
	if (!p->segment.writes)
		return -EROFS;
	pthread_mutex_lock(&wiped->threads_lock);
	int error = need_token(number % OPENING_POOLS_MAX);
	if (!error && !load_relaxed(&opening_pinned(number)->page))
		error = token_pin(&p->segment, opening_token(number), &page);
	pthread_mutex_unlock(&wiped->threads_lock);
	if (!error)
		error = populate_step(p, at, wiped->openings[number % OPENING_POOLS_MAX].made);
	token_let_go(page);
	return error;
}

int opening_device(uint32_t number, struct member **out)
{
	const uint32_t slot = number % OPENING_POOLS_MAX;
	struct opening *opening = &wiped->openings[slot];
	struct qmempool *p = &opening_pools[slot];
	if (!p->segment.writes)
		return -EROFS;
	pthread_mutex_lock(&wiped->threads_lock);
	int error = need_token(slot);
	/* A second pin of this process: its number differs in a bit that no token reaches. */
	if (!error && !opening->devices)
		error = token_pin(&p->segment, opening->token.number ^ DEVICE_PIN,
				  &opening->device_pin);
	if (!error)
		opening->devices++;
	pthread_mutex_unlock(&wiped->threads_lock);
	if (error)
		return error;
	/* Not in place of an ended thread: all that the member owns is freed with the socket. */
	error = attach_again(p, opening_token(number), false, out);
	if (error)
		device_ended(opening);
	return error;
}

int opening_open(const struct segment *s, bool made)
{
	static uint32_t opened;
	int error = prepare();
	if (error)
		return error;
	/* Registers here and not in a thread's first call: in a process with threads the kernel
	 * needs 10 to 80 ms for it. member_attach() registers again, which costs nothing. */
	process_barrier_register();
	alf_calibrate();
	for (uint32_t i = 0; i < OPENING_POOLS_MAX; i++) {
		if (opening_pools[i].buffers)
			continue;
		error = pool_bind(&opening_pools[i], s);
		if (error)
			return error;
		pthread_mutex_lock(&wiped->threads_lock);
		error = need_token(i);
		wiped->openings[i].made = made;
		pthread_mutex_unlock(&wiped->threads_lock);
		if (error) {
			pool_unbind(&opening_pools[i]);
			return error;
		}
		opening_pools[i].serial = opened = opened % OPENING_SERIAL_MAX + 1; /* never 0 */
		return (int)(opening_pools[i].serial * OPENING_POOLS_MAX + i);
	}
	return -EXFULL;
}

bool opening_room(void)
{
	for (uint32_t i = 0; i < OPENING_POOLS_MAX; i++)
		if (!opening_pools[i].buffers)
			return true;
	return false;
}

void opening_leave(uint32_t number)
{
	const struct qmempool *p = opening_pool(number);
	const struct opening *opening = &wiped->openings[number % OPENING_POOLS_MAX];
	if (p && opening->made && opening->token.number)
		store_relaxed(&pool_shared(p)->left, 1);
}

/* Frees the buffers that a member of this process still owns. */
static void take_back(struct qmempool *p, struct member *m)
{
	uint64_t held = member_held(&p->segment, m);
	for (uint32_t i = 0; i < p->total && held; i++) {
		struct buffer *b;
		if (!segment_exists(&pool_of(p, i)->segment, i))
			continue;
		b = pool_buffer(p, i);
		if ((load_relaxed(&b->owner) & ~OWNER_PUTTING) != m->tag)
			continue;
		uint64_t handle = handle_of(i, buffer_generation(b));
		held -= qmempool_free(p, m, handle) == 0;
	}
	qmempool_drain(p, m);
}

bool opening_closing(uint32_t number)
{
	struct qmempool *p = opening_find(number);
	if (!p)
		return false;
	store_seq_cst(&p->serial, OPENING_CLOSED); /* [CALLERS] */
	store_relaxed(&p->closing, 1); /* sleepers that miss it are woken again: opening_closed() */
	return true;
}

void opening_device_ends(uint32_t number, struct member *m, bool gone)
{
	struct qmempool *p = opening_find(number);
	if (!p)
		return; /* the close has done the same: end_members() */
	if (gone) {
		take_back(p, m);
		member_release(&p->segment, m);
	} else {
		device_leave(m);
	}
	device_ended(&wiped->openings[number % OPENING_POOLS_MAX]);
}

static void wake_all(uint32_t *word)
{
	wait_wake(word, UINT32_MAX);
}

/* Ends the members of this process and drops its token. */
static void end_members(uint32_t number)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	struct opening *opening = &wiped->openings[number % OPENING_POOLS_MAX];
	const uint64_t identity = MEMBER_ATTACHED | opening->token.number;
	pthread_mutex_lock(&wiped->threads_lock);
	for (uint32_t i = 0; i < p->segment.members; i++) {
		struct member *m = segment_member(&p->segment, i);
		if (load_acquire(&m->identity) != identity) /* [MEMBER] */
			continue;
		if (load_acquire(&m->device)) { /* [DEVICE] */
			device_leave(m);
			continue;
		}
		qmempool_drain(p, m);
		take_back(p, m);
		member_release(&p->segment, m);
	}
	for (struct node *n = threads; n; n = n->next)
		n->table->member[number % OPENING_POOLS_MAX] = NULL;
	token_drop(&opening->token);
	token_let_go(opening->device_pin);
	opening->device_pin = NULL;
	opening->devices = 0;
	opening->made = false;
	pthread_mutex_unlock(&wiped->threads_lock);
}

void opening_closed(uint32_t number)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	/* An opening that only reads has no members, and no call in it sleeps. */
	const bool writes = p->segment.writes;
	if (opening_pool_ends)
		opening_pool_ends(number);
	while (load_seq_cst(&opening_callers[number % OPENING_POOLS_MAX])) { /* [CALLERS] */
		if (writes)
			pool_wake_sleepers(p, wake_all);
		sched_yield();
	}
	if (writes) {
		struct shmpool_recovery out;
		pin_end(opening_pinned(number), p);
		/* Without a member of this thread's, the next one that recovers does it. */
		if (topic_give_up(p, opening_token(number)) && opening_member(number))
			recover_passes(p, opening_member(number), &out, 1);
		end_members(number);
	}
	pool_unbind(p);
}

int opening_close(uint32_t number)
{
	if (!opening_closing(number))
		return -EBADF;
	opening_closed(number);
	return 0;
}
