/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_world.c - see steer_world.h. One file: the checks read what the operations note.
 */
#include "steer_world.h"

#include <sched.h>

#include "binding.h"
#include "lookup.h"
#include "opening.h"
#include "steer_topic.h"
#include "topic.h"
#include "trim.h"

#define MESSAGES 512
#define NOBODY -1
#define SLOTS_MORE 12u /* beside the queues: of what is created, and of lanes */
#define HANDED_MOST 2u /* of which each may keep the slot of a thread that has ended */
/* After this time the core searches for free buffers everywhere. */
#define RESTS_MOST_NS 2000000000ll

const struct profile *world_profile;
struct segment world_segment;
struct actor world_actors[STEER_THREADS + 1];
static struct message messages[MESSAGES];
static int holder[CAPACITY_MOST];
/* By buffer: 1 + the next one of the chain that it is in, as its maker made it; 0 for none. */
static uint32_t chained[CAPACITY_MOST];
/* By buffer: 1 + the queue that its header says it was got from; 0 if it was allocated since. */
static uint32_t came_from[CAPACITY_MOST];
static uint32_t sent, created;
static bool shut_down[QUEUES]; /* a shutdown has returned */
static bool ending;

/* Buffers that threads of one process have handed over, in the process's own memory; and whether
 * one of the threads is ending, which only one does at a time (opening.c). */
static uint64_t handed[HANDED_MOST];
static uint32_t handed_over, passed_on, ends;

/* The segment when it was new. */
static char *snapshot;

uint32_t *world_text(uint64_t handle)
{
	return (uint32_t *)pool_data(&world_actors[LAST].pool, handle_index(handle));
}

static uint32_t total(void)
{
	return world_profile->capacity + world_profile->second;
}

/* The class of the thread's next allocation: one after the other. */
static uint32_t next_class(const struct actor *a)
{
	return world_profile->second ? (uint32_t)(member_counted(a->m, COUNT_SLEEP) + a->held) % 2 :
				       0;
}

static bool dead(uint32_t who)
{
	return who < STEER_THREADS && steer_died(who);
}

/* Which thread owns which buffer. */

/* Notes who has the buffers of a message: a thread, or nobody. */
static void give(uint64_t handle, int who)
{
	for (uint32_t at = 1 + handle_index(handle); at; at = chained[at - 1])
		holder[at - 1] = who;
}

static void take(uint32_t me, uint64_t handle, bool got)
{
	struct actor *a = &world_actors[me];
	DEMAND(handle_index(handle) < total());
	if (!got)
		chained[handle_index(handle)] = came_from[handle_index(handle)] = 0;
	topic_check_unheld(handle_index(handle));
	for (uint32_t at = 1 + handle_index(handle); at; at = chained[at - 1]) {
		int had = holder[at - 1];
		if (had != NOBODY && !dead((uint32_t)had))
			steer_failed("buffer %u of thread %d, which lives, is given to thread %u",
				     at - 1, had, me);
	}
	give(handle, (int)me);
	DEMAND(a->held < CAPACITY_MOST);
	a->got[a->held] = got;
	a->hand[a->held++] = handle;
	DEMAND(got || !buffer_heads(pool_buffer(&a->pool, handle_index(handle))));
}

/* Notes that the thread no longer owns its newest n buffers. */
const uint64_t *world_part_with(uint32_t me, uint32_t n)
{
	struct actor *a = &world_actors[me];
	a->held -= n;
	for (uint32_t i = a->held; i < a->held + n; i++)
		give(a->hand[i], NOBODY);
	return &a->hand[a->held];
}

void world_keep(uint32_t me, uint32_t n)
{
	struct actor *a = &world_actors[me];
	for (uint32_t i = a->held; i < a->held + n; i++)
		give(a->hand[i], (int)me);
	a->held += n;
}

/* Producers write both words, and so do the owners of a message. A thread that reads the words of
 * two writers has read a mixture. */
static void say(uint64_t handle, uint32_t mark, uint32_t timestamp)
{
	struct buffer *b = pool_buffer(&world_actors[LAST].pool, handle_index(handle));
	if (!world_profile->peeked)
		return;
	store_relaxed(&b->mark, mark);
	store_relaxed(&b->timestamp, timestamp);
}

/* True if a message of queue `from` may be in that queue: its own, or that of dead letters. */
static bool leads_to(uint32_t from, uint32_t queue)
{
	return from == queue || world_profile->on_death[from].dead_letter == queue + 1;
}

/* True if the message's buffer goes back to the queue that it was got from before: its thread died
 * before the put, or after it had failed. */
static bool goes_back(const struct message *m)
{
	return m->from && (m->fate == SENDING || m->fate == UNSENT) && dead(m->producer);
}

/* True if the message was put into the queue, became a dead letter of the queue it was put into, or
 * goes back there. */
static bool may_be_in(const struct message *m, uint32_t queue)
{
	return leads_to(m->queue, queue) || (goes_back(m) && leads_to(m->from - 1, queue));
}

/* Writes the number of a message into all its buffers. */
void world_number(uint64_t handle, uint32_t id)
{
	for (uint32_t at = 1 + handle_index(handle); at; at = chained[at - 1])
		*world_text(at - 1) = id;
}

uint32_t world_next_part(uint32_t index)
{
	return chained[index];
}

uint32_t world_parts(uint32_t index)
{
	uint32_t n = 1;
	for (; chained[index]; index = chained[index] - 1)
		n++;
	return n;
}

/* Checks that a message has the buffers that its producer gave it, in that order. */
void world_check_whole(uint32_t me, uint64_t handle)
{
	const struct qmempool *p = &world_actors[me].pool;
	uint32_t n = 1, at = handle_index(handle), id = *world_text(handle);
	for (; chained[at]; n++) {
		SAME(chained[at] - 1, chain_next(p, handle, at));
		at = chained[at] - 1;
		SAME(id, *world_text(at));
	}
	SAME(n, chain_count(p, handle));
}

/* Checks a message that came out of a queue. */
static void receive(uint32_t me, uint32_t queue, uint64_t handle)
{
	uint32_t id = *world_text(handle);
	bool requeues = world_profile->on_death[queue].what != ON_DEATH_FREE;
	DEMAND(id < sent);
	struct message *m = &messages[id];
	DEMAND(may_be_in(m, queue));
	came_from[handle_index(handle)] = 1 + queue;
	if (!leads_to(m->queue, queue) || m->fate == UNSENT) { /* it goes back */
		m->queue = m->from - 1;
		m->fate = SENT;
		m->back = m->returned = true;
	}
	bool again = requeues && (m->fate == RECEIVED || m->fate == DONE) && dead(m->taker);
	if (m->fate != SENDING && m->fate != SENT && !again)
		steer_failed("message %u comes out of queue %u a second time", id, queue);
	/* What was put back is behind what was sent later. */
	if (!requeues && !m->returned) {
		uint32_t *last = &world_actors[me].last[m->producer][queue];
		if (id + 1 <= *last)
			steer_failed("message %u comes out after %u", id, *last - 1);
		*last = id + 1;
	}
	m->fate = RECEIVED;
	m->taker = me;
	say(handle, 0, 0);
}

/* Operations. */

void world_alloc(uint32_t me, uint32_t n, bool wait, int64_t most_ns)
{
	struct actor *a = &world_actors[me];
	uint64_t handle[CAPACITY_MOST];
	const uint32_t class = next_class(a);
	struct qmempool *of = pool_class(&a->pool, class);
	struct member *block = pool_block(of, a->m);
	a->waits_on = &of->free;
	a->waits_for = n;
	int error = wait   ? blocking_alloc_class(&a->pool, a->m, class, handle, n,
						  most_ns ? wait_now() + most_ns : WAIT_NEVER) :
		    n == 1 ? qmempool_alloc(of, block, handle) :
			     qmempool_alloc_bulk(of, block, handle, n);
	a->waits_on = NULL;
	if (error)
		DEMAND(error == -EAGAIN || (wait && error == -EINTR));
	for (uint32_t i = 0; i < n && !error; i++) {
		const uint32_t got = pool_of(&a->pool, handle_index(handle[i]))->segment.class;
		DEMAND(got == class || (wait && got > class));
		take(me, handle[i], false);
	}
}

void world_free(uint32_t me, uint32_t n)
{
	struct actor *a = &world_actors[me];
	DEMAND(n && n <= a->held);
	for (uint32_t i = a->held - n; i < a->held; i++)
		if (a->got[i])
			messages[*world_text(a->hand[i])].fate = DONE;
	const uint64_t *handle = world_part_with(me, n);
	SAME(0, n == 1 ? qmempool_free(&a->pool, a->m, handle[0]) :
			 qmempool_free_bulk(&a->pool, a->m, handle, n));
}

void world_put(uint32_t me, uint32_t queue, uint32_t n, bool wait)
{
	struct actor *a = &world_actors[me];
	DEMAND(n && n <= a->held);
	const struct alf_ring *r = queue_in(a->m, queue_ring(&a->pool, queue + 1));
	if (n > r->bulk)
		n = r->bulk;
	if (sent + n > MESSAGES)
		return;
	uint32_t first = sent;
	/* A message that returns to its queue must have been got from there. */
	for (uint32_t i = 1; i <= n && world_profile->on_death[queue].what; i++)
		if (a->got[a->held - i])
			return;
	sent += n;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = a->held - n + i;
		if (a->got[k])
			messages[*world_text(a->hand[k])].fate = DONE;
		messages[first + i] = (struct message) {
			SENDING, me, queue, first, n, 0, false, came_from[handle_index(a->hand[k])]
		};
		world_number(a->hand[k], first + i);
		a->got[k] = false;
	}
	for (uint32_t i = 0; i < n; i++)
		say(a->hand[a->held - n + i], first + i + 1, first + i);
	const uint64_t *handle = world_part_with(me, n);
	a->waits_on = r;
	a->waits_for = n;
	const bool late = shut_down[queue];
	int error = wait ? blocking_put(&a->pool, a->m, r, handle, n, wait_now() + DEADLINE_NS) :
			   queue_put(&a->pool, a->m, r, handle, n);
	a->waits_on = NULL;
	for (uint32_t i = first; i < first + n; i++)
		if (messages[i].fate == SENDING)
			messages[i].fate = error ? UNSENT : SENT;
		else
			DEMAND(!error);
	DEMAND(error || !late);
	if (error) {
		DEMAND(error == -ENOBUFS || (error == -EINTR && wait) ||
		       (error == -EBUSY && r->flags & SP) || (error == -EPIPE && alf_closed(r)));
		world_keep(me, n);
	}
}

/* True if a message is in the queue, while no thread is about to take it. Not one that a consumer
 * has returned, perhaps after the queue ended. */
static bool is_left(uint32_t queue)
{
	for (uint32_t i = 0; i < world_profile->threads; i++)
		if (world_actors[i].getting && world_actors[i].getting_from == queue)
			return false;
	for (uint32_t i = 0; i < sent; i++)
		if (messages[i].fate == SENT && messages[i].queue == queue && !messages[i].returned)
			return true;
	return false;
}

void world_get(uint32_t me, uint32_t queue, uint32_t n, bool wait)
{
	struct actor *a = &world_actors[me];
	const struct alf_ring *r = queue_ring(&a->pool, queue + 1);
	uint64_t handle[BULK_MOST];
	DEMAND(n && n <= BULK_MOST && n <= CAPACITY_MOST - a->held);
	a->getting = n;
	a->getting_from = queue;
	a->waits_on = r;
	a->waits_for = 0;
	int got = wait ? blocking_get(&a->pool, a->m, r, handle, n, wait_now() + DEADLINE_NS) :
			 queue_get(&a->pool, a->m, r, handle, n);
	a->waits_on = NULL;
	a->getting = 0;
	if (got == -EPIPE)
		DEMAND(steer_deaths() || !is_left(queue));
	else if (got < 0)
		DEMAND(got == -EAGAIN || (got == -EINTR && wait) ||
		       (got == -EBUSY && r->flags & SC));
	for (int i = 0; i < got; i++) {
		receive(me, queue, handle[i]);
		take(me, handle[i], true);
	}
	for (int i = 0; i < got; i++) /* the thread may die here */
		world_check_whole(me, handle[i]);
}

void world_attach(uint32_t me)
{
	world_actors[me].m = NULL;
	uint64_t token = STEER_TOKEN(world_profile->one_process ? 0 : me);
	int error = member_attach(&world_segment, token, &world_actors[me].m);
	/* As opening.c does: a new member takes a dead member's slot. */
	if (error == -EUSERS)
		error = -EAGAIN;
	for (int i = 0; error == -EAGAIN && i < 1000; i++)
		error = recover_slot(&world_actors[me].pool, token, &world_actors[me].m);
	SAME(0, error);
	world_actors[me].tag = world_actors[me].m->tag;
	opening_thread->member[me] = world_actors[me].m;
}

void world_reattach(uint32_t me)
{
	struct actor *a = &world_actors[me];
	for (uint32_t i = 0; i < a->held; i++)
		if (a->got[i])
			messages[*world_text(a->hand[i])].fate = DONE;
	while (a->held)
		SAME(0, qmempool_free(&a->pool, a->m, *world_part_with(me, 1)));
	SAME(0, member_held(&world_segment, a->m));
	qmempool_drain(&a->pool, a->m);
	member_release(&a->pool.segment, a->m);
	world_attach(me);
}

void world_create(uint32_t me)
{
	struct actor *a = &world_actors[me];
	const struct queue_on_death free_them = { 0 };
	const uint32_t lanes = world_profile->made;
	int number = queue_create(&a->pool, a->m, "made", world_profile->ring,
				  lanes ? ALF_LANED | lanes << LANES_SHIFT : 0, &free_them);
	if (number > 0)
		SAME(0, created++);
	else
		DEMAND(number == -EEXIST || number == -ENFILE);
}

void world_shutdown(uint32_t me, uint32_t queue)
{
	struct actor *a = &world_actors[me];
	const struct alf_ring *r = queue_ring(&a->pool, queue + 1);
	int error = queue_shutdown(r, a->m);
	DEMAND(error ? error == -EBUSY && r->flags & SP : alf_closed(r));
	const struct alf_ring *part;
	for (uint32_t k = 0; !error && (part = queue_part(r, k)); k++)
		DEMAND(alf_closed(part));
	shut_down[queue] |= !error;
}

/* Returns the key of a thread's pool and queue in the calls of shmpool.h: lookup.h. */
static uint64_t key(uint32_t me, uint32_t queue)
{
	return key_of(me, queue + 1);
}

void world_nack(uint32_t me, bool later)
{
	struct actor *a = &world_actors[me];
	if (!a->held || !a->got[a->held - 1])
		return;
	uint64_t handle = *world_part_with(me, 1);
	uint32_t id = *world_text(handle);
	struct message *m = &messages[id];
	say(handle, id + 1, id);
	m->fate = SENT;
	m->returned = true;
	int64_t error = shmpool_requeue_wait(key(me, 0), handle, later ? WAIT_FOREVER : WAIT_NEVER);
	if (!error)
		return;
	DEMAND(error == -ENOBUFS && !later && m->fate == SENT);
	m->fate = RECEIVED;
	world_keep(me, 1);
}

void world_move(uint32_t me, uint32_t queue)
{
	int64_t error = shmpool_move(key(me, queue), 0, 1);
	DEMAND(error == 0 || error == -EAGAIN || error == -ENOBUFS || error == -ENOENT);
}

void world_peek(uint32_t me, uint32_t queue)
{
	struct shmpool_peek seen;
	char bytes[sizeof(uint32_t)];
	int error = shmpool_peek((int)me, (int)queue + 1, 0, &seen, bytes, sizeof(bytes));
	DEMAND(error == 0 || error == 1);
	if (!error || steer_deaths()) /* its owner may have died between its two words */
		return;
	SAME(seen.timestamp + 1, seen.mark);
	DEMAND(seen.timestamp < sent && may_be_in(&messages[seen.timestamp], queue));
}

void world_send(uint32_t me, uint32_t queue, uint32_t n)
{
	struct shmpool_slice slices[BULK_MOST];
	uint32_t id[BULK_MOST], first = sent;
	DEMAND(n && n <= BULK_MOST);
	if (sent + n > MESSAGES)
		return;
	for (uint32_t i = 0; i < n; i++) {
		id[i] = sent++;
		messages[id[i]] = (struct message) { SENDING, me, queue, id[i], 1, 0, false, 0 };
		slices[i] = (struct shmpool_slice) { (const char *)&id[i], sizeof(*id) };
	}
	int64_t done = shmpool_send_many_wait(key(me, queue), slices, n, wait_now() + DEADLINE_NS);
	DEMAND(done > 0 || done == -EAGAIN || done == -ENOBUFS || done == -EINTR);
	for (uint32_t i = 0; i < n; i++) {
		struct message *m = &messages[first + i];
		if ((int64_t)i >= done) {
			SAME(SENDING, m->fate);
			m->fate = UNSENT;
		} else if (m->fate == SENDING) {
			m->fate = SENT;
		}
	}
}

void world_forget(uint32_t me)
{
	world_part_with(me, world_actors[me].held);
}

void world_chain(uint32_t me, uint32_t n, bool backwards)
{
	struct actor *a = &world_actors[me];
	uint32_t fresh = 0;
	while (fresh < a->held && !a->got[a->held - 1 - fresh] &&
	       !chained[handle_index(a->hand[a->held - 1 - fresh])])
		fresh++;
	if (fresh < 2)
		return;
	n = n < 2 ? 2 : n < fresh ? n : fresh;
	uint64_t *handle = &a->hand[a->held - n];
	for (uint32_t i = 0; backwards && i < n / 2; i++) {
		const uint64_t first = handle[i];
		handle[i] = handle[n - 1 - i];
		handle[n - 1 - i] = first;
	}
	for (uint32_t i = 0; i + 1 < n; i++)
		chained[handle_index(handle[i])] = 1 + handle_index(handle[i + 1]);
	a->held -= n - 1;
	chain_make(&a->pool, a->m, handle, n);
}

/* A buffer that one thread hands to another passes through a word that orders their accesses. */
static void pass_on(void)
{
	add_seq_cst(&passed_on, 1);
}

void world_hand_over(uint32_t me)
{
	pass_on();
	if (world_actors[me].held && handed_over < HANDED_MOST)
		handed[handed_over++] = *world_part_with(me, 1);
}

void world_adopt(uint32_t me)
{
	struct actor *a = &world_actors[me];
	pass_on();
	if (handed_over) {
		uint64_t handle = handed[--handed_over];
		SAME(0, qmempool_free(&a->pool, a->m, handle));
	}
}

void world_end_thread(uint32_t me)
{
	struct actor *a = &world_actors[me];
	if (a->held)
		world_free(me, a->held);
	uint32_t nobody = 0;
	for (; !cas_seq_cst(&ends, &nobody, 1); nobody = 0)
		sched_yield();
	qmempool_end(&a->pool, a->m);
	store_seq_cst(&ends, 0);
	world_attach(me);
}

/* Whether a thread sleeps that should not. */

/* Returns how many buffers are published in the side rings of the class whose free ring r is. */
static uint32_t side_published(const struct actor *a, const struct alf_ring *r)
{
	const uint32_t class = segment_free_ring(&world_segment, r->id);
	uint32_t n = 0;
	if (class == CLASSES_MAX)
		return 0;
	const struct qmempool *of = pool_class((struct qmempool *)&a->pool, class);
	for (uint32_t i = 0; i < of->sides; i++) {
		const struct alf_ring *side = &of->side[i];
		const alf_position cons = load_relaxed(&side->q->cons);
		for (uint32_t k = 0; k <= side->mask; k++, n++)
			if (!steer_published(side, (alf_position)(cons + k)))
				break;
	}
	return n;
}

static bool has_something(const struct actor *a, const struct alf_ring *r, const uint32_t *word)
{
	alf_position cons = load_relaxed(&r->q->cons);
	if (topic_is(r))
		return topic_has_something(a, word);
	if (word == &r->q->room_wait || word == &r->q->room_many)
		return alf_closed(r) || alf_avail_space(r) >= a->waits_for;
	if (word == &r->q->data_wait) {
		const struct alf_ring *part;
		for (uint32_t k = 0; (part = queue_part(r, k)); k++)
			if (steer_published(part, load_relaxed(&part->q->cons)))
				return true;
		return alf_closed(r) && queue_empty(r);
	}
	const uint32_t side = side_published(a, r);
	for (uint32_t i = side; i < a->waits_for; i++)
		if (!steer_published(r, (alf_position)(cons + i - side)))
			return false;
	for (uint32_t i = 0; i < segment_classes(&world_segment); i++)
		if (word == &segment_shared(&world_segment)[i].free_wait ||
		    word == &segment_shared(&world_segment)[i].free_many)
			return true;
	return false;
}

/* Until then a sleeper may go on sleeping: the dead thread may have been about to wake it. */
static bool all_recovered(void)
{
	for (uint32_t i = 0; i < world_profile->threads; i++)
		if (steer_died(i) &&
		    (!world_actors[i].m || world_actors[i].m->tag == world_actors[i].tag))
			return false;
	return true;
}

void steer_idle(void)
{
	for (uint32_t i = 0; i < world_profile->threads && all_recovered(); i++) {
		const struct actor *a = &world_actors[i];
		int64_t most;
		const uint32_t *word = steer_asleep(i, &most);
		/* Only the core's short sleeps may have no waker. */
		bool alloc = a->waits_on &&
			     segment_free_ring(&world_segment, a->waits_on->id) != CLASSES_MAX;
		bool topic = a->waits_on && topic_is(a->waits_on);
		bool exact = most >= WAIT_SLICE_NS || ((alloc || topic) && !steer_buffers());
		if (word && a->waits_on && exact && has_something(a, a->waits_on, word))
			steer_failed("thread %u sleeps %lld us and there is something for it", i,
				     (long long)most / 1000);
	}
}

static void check_audit(uint64_t held)
{
	struct shmpool_audit audit;
	struct shmpool_held list[MEMBERS + 4];
	uint64_t queued[QUEUES + SLOTS_MORE], sum = 0, queues = 0;
	SAME(0, audit_count(&world_actors[LAST].pool, &audit, list, MEMBERS + 4, queued,
			    QUEUES + SLOTS_MORE));
	for (uint32_t i = 0; i < MEMBERS + 4; i++)
		sum += list[i].buffers;
	for (uint32_t i = 0; i < QUEUES + SLOTS_MORE; i++)
		queues += queued[i];
	SAME(0, audit.unaccounted);
	SAME(0, audit.doubled);
	SAME(audit.total, sum + queues + audit.free + audit.cached + audit.chained);
	if (ending)
		SAME(held, sum);
}

void steer_between(void)
{
	if (!steer_buffers())
		check_audit(0);
	if (world_profile->topic)
		topic_between();
}

/* The end of a run. */

static void drain_queues(void)
{
	struct actor *a = &world_actors[LAST];
	for (uint32_t q = 0; q < QUEUES; q++) {
		const struct alf_ring *r = queue_ring(&a->pool, q + 1);
		uint64_t handle;
		int got;
		while ((got = queue_get(&a->pool, a->m, r, &handle, 1)) == 1) {
			receive(LAST, q, handle);
			take(LAST, handle, true);
			world_check_whole(LAST, handle);
			messages[*world_text(handle)].fate = DONE;
			SAME(0, qmempool_free(&a->pool, a->m, *world_part_with(LAST, 1)));
		}
		DEMAND(got == (alf_closed(r) ? -EPIPE : -EAGAIN) ||
		       (got == -EBUSY && r->flags & SC));
		queue_release(r, a->m);
	}
}

/* Each death is counted once. A thread that died while it attached or detached may be no member. */
static void check_deaths(void)
{
	uint64_t counted = 0, members = 0;
	for (uint32_t i = 0; i < world_segment.members; i++) {
		const struct member *m = segment_member(&world_segment, i);
		SAME(m->deaths, member_epoch(m->tag));
		counted += m->deaths;
	}
	for (uint32_t i = 0; i < world_profile->threads; i++)
		members += steer_died(i) && world_actors[i].m;
	DEMAND(counted >= members && counted <= steer_deaths());
}

/* Checks that a cache has nothing in it. One whose member left while a dead thief had it locked may
 * have entries: each must be stale, its buffer another's. */
static void check_empty(const struct qmempool *of, const struct member *block)
{
	const struct segment *s = &of->segment;
	uint32_t left = cache_length(s, block);
	if (segment_holder(s, block)->identity)
		SAME(0, left);
	for (cache_position at = (cache_position)(block->cache_top - left); left; left--, at++) {
		const uint64_t handle = block->cache[at & of->cache_mask];
		const struct buffer *b = pool_buffer(of, handle_index(handle));
		DEMAND(b->owner != block->tag || b->handle != handle);
	}
}

static void check_class(struct qmempool *of)
{
	const struct segment *s = &of->segment;
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *block = segment_member(s, i);
		uint32_t thief = cache_holder(block->cache_bottom);
		SAME(0, block->op);
		DEMAND(thief == 0 || thief == CACHE_FLUSH_REQUESTED);
		DEMAND(cache_between(block->cache_bottom, block->cache_top) >= 0);
		if (segment_holder(s, block) != world_actors[LAST].m)
			check_empty(of, block);
		SAME(segment_holder(s, block)->tag, block->tag);
	}
	for (uint64_t i = 0; i < s->extents; i++)
		DEMAND(*segment_extent(s, i) == 0 || *segment_extent(s, i) == EXTENT_PRESENT);
	SAME(0, pool_shared(of)->free_wait & WAIT_COUNT_MASK);
	SAME(0, pool_shared(of)->free_many & WAIT_COUNT_MASK);
}

static void check_names(void)
{
	for (uint32_t i = 0; i < world_segment.members; i++) {
		const struct member *m = segment_member(&world_segment, i);
		if (m != world_actors[LAST].m)
			SAME(0, m->identity);
		SAME(0, member_held(&world_segment, m));
	}
	for (uint32_t i = 0; i < segment_classes(&world_segment); i++)
		check_class(pool_class(&world_actors[LAST].pool, i));
	for (uint32_t i = 1; i <= world_segment.geometry.queues; i++) {
		const struct queue_slot *slot = segment_queue(&world_segment, i);
		DEMAND(slot->state == 0 || slot->state == QUEUE_READY ||
		       queue_listed(&world_actors[LAST].pool, i));
		SAME(0, slot->queue.producer);
		SAME(0, slot->queue.consumer);
		SAME(0, slot->queue.data_wait & WAIT_COUNT_MASK);
		SAME(0, slot->queue.room_wait & WAIT_COUNT_MASK);
	}
}

/* All messages have come out, except those that dead consumers had got and dead producers did not
 * publish. */
static void check_messages(void)
{
	uint32_t may_miss[QUEUES] = { 0 }, missing[QUEUES] = { 0 };
	for (uint32_t i = 0; i < world_profile->threads; i++)
		if (steer_died(i) && world_actors[i].getting)
			may_miss[world_actors[i].getting_from] += world_actors[i].getting;
	for (uint32_t i = 0; i < sent; i += messages[i].n) {
		const struct message *m = &messages[i];
		uint32_t out = 0, lost = 0, into = m->queue;
		for (uint32_t k = i; k < i + m->n; k++) {
			into = messages[k].back ? into : messages[k].queue;
			out += !messages[k].back &&
			       (messages[k].fate == DONE || messages[k].fate == RECEIVED);
			lost += messages[k].fate == SENT ||
				(messages[k].fate == SENDING && dead(m->producer));
			if (world_profile->on_death[messages[k].queue].what &&
			    messages[k].fate == RECEIVED)
				steer_failed(
					"message %u, which thread %u had when it died, is lost", k,
					messages[k].taker);
		}
		/* All of a dead producer's bulk has come out, or nothing. */
		if (out || messages[i].fate == SENT)
			missing[into] += lost;
	}
	for (uint32_t q = 0; q < QUEUES; q++)
		if (missing[q] > (world_profile->on_death[q].what ? 0 : may_miss[q]))
			steer_failed("%u messages of queue %u are lost, of which %u may be",
				     missing[q], q, may_miss[q]);
}

void world_end(void)
{
	struct actor *a = &world_actors[LAST];
	struct shmpool_recovery out;
	uint64_t held = 0;
	uint32_t n = 0;
	ending = true;
	for (uint32_t i = 0; i < world_profile->threads * QUEUES; i++)
		if (!steer_died(i / QUEUES))
			queue_release(queue_ring(&a->pool, 1 + i % QUEUES),
				      world_actors[i / QUEUES].m);
	SAME(0, recover(&a->pool, a->m, &out));
	for (int i = 0; i < 16 && out.postponed; i++) { /* because there was no room */
		drain_queues();
		SAME(0, recover(&a->pool, a->m, &out));
	}
	SAME(0, out.postponed);
	SAME(0, out.unknown);
	while (handed_over)
		world_adopt(0);
	for (uint32_t i = 0; i < world_profile->threads; i++)
		held += steer_died(i) ? 0 : world_actors[i].held;
	if (!world_profile->topic) /* what a topic's subscribers hold is no member's */
		check_audit(held);
	topic_end();
	for (uint32_t i = 0; i < world_profile->threads; i++) {
		struct actor *other = &world_actors[i];
		if (steer_died(i))
			continue;
		for (uint32_t k = 0; k < other->held; k++)
			if (other->got[k])
				messages[*world_text(other->hand[k])].fate = DONE;
		while (other->held)
			SAME(0, qmempool_free(&other->pool, other->m, *world_part_with(i, 1)));
		qmempool_drain(&other->pool, other->m);
		member_release(&world_segment, other->m);
	}
	drain_queues();
	check_audit(0);
	check_messages();
	/* As any of the processes would: each has its own hint of what exists. */
	struct qmempool *pool = &world_actors[steer_random(world_profile->threads)].pool;
	const uint32_t kept = world_profile->topic ? topic_kept() : 0;
	while (a->held < total() - kept) {
		uint64_t handle;
		int error = -EAGAIN;
		/* A member that finds nothing asks for dead members only now and then. */
		for (int i = 0; i < 4 && error; i++) {
			error = blocking_alloc(pool, a->m, &handle, 1, WAIT_NEVER);
			steer_time_passes(error ? RESTS_MOST_NS : 0);
		}
		if (error)
			break;
		take(LAST, handle, false);
	}
	SAME(total() - kept, a->held);
	while (a->held)
		SAME(0, qmempool_free(&a->pool, a->m, *world_part_with(LAST, 1)));
	check_audit(0);
	check_names();
	check_deaths();
	for (n = 0; n < world_profile->threads; n++)
		pool_unbind(&world_actors[n].pool);
	pool_unbind(&a->pool);
}

/* The segment. */

static uint64_t part(uint32_t i, uint64_t *size)
{
	if (i == 0) {
		*size = world_segment.rings_offset;
		return 0;
	}
	if (i <= world_segment.geometry.queues) {
		*size = world_profile->ring * sizeof(uint64_t);
		if (*size < sizeof(struct lane_table))
			*size = sizeof(struct lane_table);
		if (i == QUEUES + 1 && world_profile->topic)
			*size = (world_profile->topic * (1 + SUBSCRIBERS_MAX) + TOPIC_SLOTS) *
				sizeof(uint64_t);
		return world_segment.rings_offset + (i - 1) * sizeof(uint64_t) * RING_SLOTS;
	}
	*size = total() * sizeof(struct buffer);
	return world_segment.headers_offset;
}

static void copy(bool back)
{
	char *at = snapshot;
	for (uint32_t i = 0; i <= world_segment.geometry.queues + 1; i++) {
		uint64_t size, offset = part(i, &size);
		memcpy(back ? world_segment.base + offset : at,
		       back ? at : world_segment.base + offset, size);
		at += size;
	}
}

/* Makes caches and extents smaller than users may choose, so that the same happens in fewer
 * steps. */
static void narrow(struct segment *s)
{
	const uint64_t extent = world_profile->extent;
	const uint64_t block =
		(sizeof(struct member) + world_profile->cache * sizeof(uint64_t) + CACHE_LINE - 1) /
		CACHE_LINE * CACHE_LINE;
	uint32_t slot = (uint32_t)s->geometry.queues + segment_classes(s);
	s->member_stride = 0;
	s->geometry.bulk = world_profile->bulk;
	for (uint32_t i = 0; i < segment_classes(s); i++) {
		struct shmpool_class *more = i ? &s->geometry.more[i - 1] : NULL;
		*(more ? &more->cache_size : &s->geometry.cache_size) = world_profile->cache;
		*(more ? &more->extent_buffers : &s->geometry.extent_buffers) = extent;
		const uint64_t absent =
			(uint64_t)(more ? more->capacity - more->prealloc :
					  s->geometry.capacity - s->geometry.prealloc);
		s->part[i].extents = (absent + extent - 1) / extent;
		s->part[i].block = s->member_stride;
		s->member_stride += block;
		s->part[i].side_room = world_profile->warm;
		s->part[i].sides =
			world_profile->sides + (world_profile->warm && !world_profile->sides);
		s->part[i].side_slot = slot;
		slot += s->part[i].sides;
		DEMAND(s->part[i].sides_offset +
			       s->part[i].sides * segment_side_bytes(&s->part[i]) <=
		       s->free_ring_offset + (i + 1) * SEGMENT_PAGE);
	}
	s->rings = slot;
	s->queues_offset = s->members_offset + s->members * s->member_stride;
	uint64_t at = s->queues_offset + (uint64_t)s->pages * QUEUE_PAGE;
	for (uint32_t i = 0; i < segment_classes(s); i++) {
		s->part[i].extents_offset = at;
		at += s->part[i].extents * sizeof(uint64_t);
	}
	DEMAND(at <= s->free_ring_offset);
	s->extents = s->part[0].extents;
	s->extents_offset = s->part[0].extents_offset;
}

/* Returns how many queue slots the profile's lanes take. */
static uint32_t lanes_more(void)
{
	uint32_t n = 2 * world_profile->made;
	for (uint32_t i = 0; i < QUEUES; i++)
		n += world_profile->flags[i] >> LANES_SHIFT;
	DEMAND(n + 3 <= SLOTS_MORE);
	return n;
}

/* Queues have the numbers from 1 on, and lanes those behind them. */
static void make_queues(void)
{
	const uint64_t taken = QUEUE_NAMED;
	for (uint32_t i = 1; i < QUEUES; i++)
		segment_queue(&world_segment, i + 1)->state = taken;
	for (uint32_t i = 0; i < QUEUES; i++) {
		const char name[2] = { (char)('a' + i), 0 };
		segment_queue(&world_segment, i + 1)->state = 0;
		SAME(i + 1, queue_create(&world_actors[LAST].pool, world_actors[LAST].m, name,
					 world_profile->ring, world_profile->flags[i],
					 &world_profile->on_death[i]));
	}
}

void world_make(const struct profile *profile)
{
	world_profile = profile;
	struct shmpool_geometry g = { .buffer_size = 2048,
				      .capacity = world_profile->capacity,
				      .prealloc = world_profile->prealloc,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .members = world_profile->members ? world_profile->members :
									  MEMBERS,
				      .queues = QUEUES + 2 + lanes_more(),
				      .classes = 1 };
	struct shmpool_refusal why;
	if (world_segment.base)
		munmap(world_segment.base, world_segment.size);
	free(snapshot);
	if (world_profile->second) {
		g.classes = 2;
		g.more[0] = (struct shmpool_class) { .buffer_size = 4096,
						     .capacity = world_profile->second,
						     .prealloc = world_profile->second / 2 };
	}
	const int64_t members = g.members;
	g.members += 8; /* room for what narrow() moves */
	SAME(0, segment_plan(&world_segment, &g, &why));
	world_segment.geometry.members = members;
	world_segment.members = (uint32_t)members;
	narrow(&world_segment);
	int fd = memfd_create("steer", MFD_CLOEXEC);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)world_segment.size) == 0);
	char *base = mmap(NULL, world_segment.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(base != MAP_FAILED);
	SAME(0, segment_init(&world_segment, base, fd));
	for (uint32_t i = 0; i < segment_classes(&world_segment); i++) {
		const struct segment view = segment_view(&world_segment, i);
		SAME(0, slab_create(&view));
	}
	segment_ready(&world_segment);
	SAME(0, pool_bind(&world_actors[LAST].pool, &world_segment));
	SAME(0, member_attach(&world_segment, STEER_TOKEN(LAST), &world_actors[LAST].m));
	make_queues();
	topic_make();
	pool_unbind(&world_actors[LAST].pool);
	snapshot = malloc(world_segment.size);
	copy(false);
}

/* The driver of the thread that runs: a device that has the thread's byte of every 64 registered
 * ones, and finds it again. */
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

static size_t registered[STEER_THREADS][CAPACITY_MOST]; /* bytes, by page of a thread's own */
static char *registered_at[STEER_THREADS][CAPACITY_MOST];

static int driver_register(void *address, size_t bytes, unsigned int flags)
{
	const int me = steer_self();
	uint32_t n = 0;
	SAME(1, flags);
	while (registered[me][n])
		n++;
	registered[me][n] = bytes;
	registered_at[me][n] = address;
	for (size_t i = (size_t)me; i < bytes; i += CACHE_LINE)
		((char *)address)[i] = (char)(me + 1);
	return 0;
}

static int driver_unregister(void *address)
{
	const int me = steer_self();
	uint32_t n = 0;
	while (registered_at[me][n] != address)
		n++;
	for (size_t i = (size_t)me; i < registered[me][n]; i += CACHE_LINE)
		SAME(me + 1, ((char *)address)[i]);
	registered[me][n] = 0;
	registered_at[me][n] = NULL;
	return 0;
}

void world_register(uint32_t me)
{
	while (pin_more(&world_actors[me].pin, &world_actors[me].pool) > 0)
		;
}

void world_pin(uint32_t me)
{
	struct actor *a = &world_actors[me];
	const struct shmpool_driver driver = { NULL, (void *)driver_context, (void *)driver_leave,
					       (void *)driver_register, (void *)driver_unregister };
	void *page;
	SAME(0, token_pin(&a->pool.segment, STEER_TOKEN(me), &page));
	SAME(0, pin_begin(&a->pin, &a->pool, &driver, page));
	world_register(me);
}

void world_unpin(uint32_t me)
{
	pin_end(&world_actors[me].pin, &world_actors[me].pool);
}

void world_begin(void)
{
	struct member *last = world_actors[LAST].m;
	copy(true);
	for (uint32_t i = 0; i < STEER_THREADS; i++)
		free(world_actors[i].pin.unit); /* of a thread that died */
	memset(world_actors, 0, sizeof(world_actors));
	memset(steer_pins, 0, sizeof(steer_pins));
	memset(registered, 0, sizeof(registered));
	memset(registered_at, 0, sizeof(registered_at));
	world_actors[LAST].m = last;
	memset(shut_down, 0, sizeof(shut_down));
	sent = created = handed_over = ends = 0;
	ending = false;
	for (uint32_t i = 0; i < total(); i++) {
		holder[i] = NOBODY;
		chained[i] = 0;
	}
	for (uint32_t i = 0; i <= STEER_THREADS; i++)
		if (i < world_profile->threads || i == LAST)
			SAME(0, pool_bind(&world_actors[i].pool, &world_segment));
	for (uint32_t i = 0; i < world_profile->threads; i++)
		opening_pools[i] = world_actors[i].pool;
	topic_begin();
}

void world_operate(uint32_t me, enum operation what, uint32_t queue, uint32_t n,
		   struct shmpool_recovery *out)
{
	struct actor *a = &world_actors[me];
	switch (what) {
	case ALLOC:
	case TRY:
	case ALLOC_WAIT:
		world_alloc(me, n, what != ALLOC, what == TRY ? 0 : DEADLINE_NS);
		break;
	case FREE:
		world_free(me, n);
		break;
	case PUT:
	case PUT_WAIT:
		world_put(me, queue, n, what == PUT_WAIT);
		break;
	case GET:
	case GET_WAIT:
		world_get(me, queue, n, what == GET_WAIT);
		break;
	case RECOVER:
		SAME(0, recover(&a->pool, a->m, out));
		break;
	case REQUEST:
		cache_request_flush(pool_class(&a->pool, next_class(a)));
		break;
	case DRAIN:
		qmempool_drain(&a->pool, a->m);
		break;
	case TRIM:
		DEMAND(trim(&a->pool, a->m, n) >= 0);
		break;
	case REATTACH:
		world_reattach(me);
		break;
	case CREATE:
		world_create(me);
		break;
	case GIVE_UP:
		queue_release(queue_ring(&a->pool, 1 + queue), a->m);
		break;
	case NACK:
	case NACK_LATER:
		world_nack(me, what == NACK_LATER);
		break;
	case MOVE:
		world_move(me, queue);
		break;
	case PEEK:
		world_peek(me, queue);
		break;
	case SEND:
		world_send(me, queue, n);
		break;
	case HAND_OVER:
		world_hand_over(me);
		break;
	case ADOPT:
		world_adopt(me);
		break;
	case END:
		world_end_thread(me);
		break;
	case ATTACH:
		world_attach(me);
		break;
	case CHAIN:
		world_chain(me, n, queue);
		break;
	case PIN:
		if (load_relaxed(&a->pin.page))
			world_unpin(me);
		else
			world_pin(me);
		break;
	case SHUTDOWN:
		world_shutdown(me, queue);
		break;
	case PUBLISH:
	case PUBLISH_WAIT:
	case SUBSCRIBE:
	case TAKE:
	case TAKE_WAIT:
	case LET_GO:
	case LEAVE:
	case END_TOPIC:
		topic_operate(me, what, n);
		break;
	case CALL: /* only in scripts: steer_script.c */
	case OPERATIONS:
		break;
	}
}
