/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_victim.c - see kill_victim.h.
 */
#include "kill_victim.h"

#include <sys/stat.h>
#include <unistd.h>

#include <string.h>

#include "binding.h"
#include "blocking.h"
#include "check.h"
#include "device.h"
#include "lookup.h"
#include "unfinished.h"
#include "wait.h"

#define SHORT_NS 2000000 /* a sleep that ends by itself */

static int nack_one(struct scene *s, uint64_t handle)
{
	uint32_t to;
	return blocking_requeue(&s->pool, s->v, handle, WAIT_NEVER, &to);
}

/* Set-up of the victim. */

void alloc_own(struct scene *s)
{
	for (; s->owned_n < s->operation->n; s->owned_n++) {
		const uint32_t chained = s->operation->chained;
		EQUAL(0, scene_compose(s->v, FROM_VICTIM + s->owned_n, chained ? chained : 1,
				       &s->owned[s->owned_n]));
	}
}

/* The buffers of a chain, not made one yet. */
void alloc_parts(struct scene *s)
{
	while (s->owned_n < s->operation->chained)
		EQUAL(0, blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n++], 1, WAIT_NEVER));
}

/* The same, the head behind its segments. */
void alloc_parts_back(struct scene *s)
{
	alloc_parts(s);
	for (uint32_t i = 0, k = s->owned_n - 1; i < k; i++, k--) {
		const uint64_t first = s->owned[i];
		s->owned[i] = s->owned[k];
		s->owned[k] = first;
	}
}

void get_own(struct scene *s)
{
	scene_get(s->v, s->subject, s->operation->n);
}

/* No buffer can be put back before another member makes room. */
void get_own_full(struct scene *s)
{
	get_own(s);
	scene_publish(s->v, s->subject, FROM_FULLER, 1);
}

/* Messages that have failed once already. */
void get_own_again(struct scene *s)
{
	get_own(s);
	while (s->owned_n)
		EQUAL(0, nack_one(s, s->owned[--s->owned_n]));
	get_own(s);
}

void fill_letter(struct scene *s)
{
	scene_publish(s->v, s->letter, FROM_BESIDE + 1, RING);
}

void empty_cache(struct scene *s)
{
	for (uint32_t n = scene_cached(s->v); n; n--)
		EQUAL(0, blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n++], 1, WAIT_NEVER));
}

/* Makes the next allocation refill the cache. */
void use_cache_up(struct scene *s)
{
	EQUAL(0, blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n++], 1, WAIT_NEVER));
	empty_cache(s);
}

void fill_cache(struct scene *s)
{
	while (s->owned_n < CACHE + BULK)
		EQUAL(0, blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n++], 1, WAIT_NEVER));
	while (scene_cached(s->v) < CACHE)
		EQUAL(0, qmempool_free(&s->pool, s->v, s->owned[--s->owned_n]));
	CHECK(s->owned_n >= s->operation->n);
}

/* Leaves free buffers only in the survivors' caches. */
void run_dry(struct scene *s)
{
	while (pool_free_count(s->of) || scene_cached(s->v)) {
		if (blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n], 1, WAIT_NEVER))
			break; /* a companion is suspended at the head of the free ring */
		s->owned_n++;
	}
}

void run_all_dry(struct scene *s)
{
	while (blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n], 1, WAIT_NEVER) == 0)
		s->owned_n++;
	segment_shared(&s->pool.segment)->inquired = 0; /* so that it asks for dead members again */
}

void some_cached(struct scene *s)
{
	for (uint32_t i = 0; i < 6; i++)
		EQUAL(0, blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n++], 1, WAIT_NEVER));
	for (uint32_t i = 0; i < 3; i++)
		EQUAL(0, qmempool_free(&s->pool, s->v, s->owned[--s->owned_n]));
}

void asked_for(struct scene *s)
{
	some_cached(s);
	cache_request_flush(s->of);
}

void all_home(struct scene *s)
{
	some_cached(s);
	while (s->owned_n)
		EQUAL(0, qmempool_free(&s->pool, s->v, s->owned[--s->owned_n]));
}

void open_locally(struct scene *s)
{
	s->opened = opening_open(&s->pool.segment, false);
	CHECK(s->opened >= 0);
	s->key = key_of((uint32_t)s->opened, s->subject);
}

void attach_locally(struct scene *s)
{
	open_locally(s);
	EQUAL(0, opening_attach((uint32_t)s->opened));
	s->v = opening_member((uint32_t)s->opened);
	scene_inflate(s->v);
	some_cached(s);
}

/* A chain, in a pool that this process has opened. */
void attach_with_chain(struct scene *s)
{
	attach_locally(s);
	EQUAL(0, scene_compose(s->v, 0, s->operation->chained, &s->owned[s->owned_n++]));
}

/* The only buffer of a thread that has ended. */
void have_last(struct scene *s)
{
	struct member *second = scene_attach();
	const uint32_t chained = s->operation->chained;
	EQUAL(0, scene_compose(second, 0, chained ? chained : 1, &s->owned[s->owned_n++]));
	qmempool_drain(&s->pool, second);
	second->ended = 1;
}

/* A message in data, for shmpool_send(). */
void have_data(struct scene *s)
{
	open_locally(s);
	EQUAL(0, opening_attach((uint32_t)s->opened));
	*(uint32_t *)s->data = FROM_VICTIM;
}

void have_two(struct scene *s)
{
	struct member *second = scene_attach();
	for (; s->owned_n < s->operation->n; s->owned_n++) {
		const uint32_t chained = s->operation->chained;
		EQUAL(0, scene_compose(second, FROM_VICTIM + s->owned_n, chained ? chained : 1,
				       &s->owned[s->owned_n]));
	}
}

/* The operations that are killed. */

int put_own(struct scene *s)
{
	return blocking_put(&s->pool, s->v, queue_in(s->v, s->ring), s->owned, s->operation->n,
			    WAIT_NEVER);
}

int put_aside(struct scene *s)
{
	return blocking_put(&s->pool, s->v, scene_ring(s->other), s->owned, s->operation->n,
			    WAIT_NEVER);
}

int nack_own(struct scene *s)
{
	return nack_one(s, s->owned[0]);
}

int nack_later(struct scene *s)
{
	uint32_t to;
	int error = blocking_requeue(&s->pool, s->v, s->owned[0], WAIT_NEVER, &to);
	if (error == -ENOBUFS) {
		requeue_abandon(&s->pool, s->v, s->owned[0]);
		return 0;
	}
	return error;
}

int nack_wait(struct scene *s)
{
	uint32_t to;
	return blocking_requeue(&s->pool, s->v, s->owned[0], wait_now() + SHORT_NS, &to);
}

/* Messages that were returned without an error came out, even if the queue frees a dead consumer's
 * buffers. */
void check_nacked(struct scene *s)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->taken; i++)
		n += s->stream[i].number >= FROM_OTHERS && s->stream[i].number < FROM_VICTIM;
	if (s->report->result == 0)
		DEMAND(n == s->operation->filled);
}

void check_grown(struct scene *s)
{
	const struct segment *of = &s->pool.segment;
	const struct alf_ring *ring = queue_part(s->ring, 0);
	const struct alf_queue *q = ring->q;
	const bool puts = s->operation->kind == PUTS;
	struct stat before, after;
	DEMAND(q->backed == ALF_PART_MIN || q->backed == GROWING);
	DEMAND(!puts || s->report->result == PENDING ||
	       (s->report->result == 0 && q->backed == GROWING));
	DEMAND(fstat(s->fd, &before) == 0);
	DEMAND(segment_reserve(of, (uint64_t)((char *)ring->slot - of->base),
			       q->backed * sizeof(*ring->slot)) == 0);
	DEMAND(fstat(s->fd, &after) == 0);
	DEMAND(after.st_blocks == before.st_blocks);
}

/* The next put adds a lane. */
void about_to_grow(struct scene *s)
{
	alloc_own(s);
	for (uint32_t i = 1; i < LANES_PUTS; i++)
		CHECK(queue_in(s->v, s->ring));
	queue_part(s->ring, 0)->q->lost += LANES_PUTS;
}

/* The next put goes to the second lane, if the first one has no message then. */
void about_to_move(struct scene *s)
{
	const struct lane_user *u = lanes_user(s->ring->lanes, s->v);
	store_relaxed(&s->ring->lanes->table->producers, 1);
	about_to_grow(s);
	for (uint32_t i = 0; i < LANES_PUTS; i++) /* adds the lane, which it does not know yet */
		CHECK(queue_in(s->v, s->ring) == queue_part(s->ring, 0));
	EQUAL(2, lanes_active(s->ring->lanes));
	EQUAL(2, u->producer);
	EQUAL(0, u->puts);
}

int move_aside(struct scene *s)
{
	return requeue_move(&s->pool, s->v, s->ring, s->other, false);
}

int move_to_letter(struct scene *s)
{
	return requeue_move(&s->pool, s->v, s->ring, s->letter, true);
}

int put_wait(struct scene *s)
{
	return blocking_put(&s->pool, s->v, queue_in(s->v, s->ring), s->owned, s->operation->n,
			    wait_now() + SHORT_NS);
}

int get_some(struct scene *s)
{
	return blocking_get(&s->pool, s->v, s->ring, s->owned, s->operation->n, WAIT_NEVER);
}

int get_wait(struct scene *s)
{
	return blocking_get(&s->pool, s->v, s->ring, s->owned, s->operation->n,
			    wait_now() + SHORT_NS);
}

int alloc_some(struct scene *s)
{
	uint64_t *handle = &s->owned[s->owned_n];
	uint32_t n = s->operation->n;
	return blocking_alloc(&s->pool, s->v, handle, n, WAIT_NEVER);
}

int request_all(struct scene *s)
{
	cache_request_flush(s->of);
	return 0;
}

int give_back(struct scene *s)
{
	uint32_t n = s->operation->n;
	return n == 1 ? qmempool_free(&s->pool, s->v, s->owned[0]) :
			qmempool_free_bulk(&s->pool, s->v, s->owned, n);
}

/* The life of a socket's member: it gets two buffers, one is received into, and it ends. The place
 * is an interface that does not exist, so a recoverer finds the socket gone. */
static int live_device(struct scene *s, bool gone)
{
	const uint32_t number = (uint32_t)s->opened;
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	struct device place = { .interface = INT32_MAX };
	struct member *m;
	uint64_t handle[2];
	const int asker = device_asker(&place.space);
	int error = asker < 0 ? asker : opening_device(number, &m);
	if (error)
		return error;
	close(asker);
	device_set(&p->segment, m, &place, true);
	for (int i = 0; i < 2 && !error; i++) {
		error = qmempool_alloc(p, s->v, &handle[i]);
		if (!error)
			error = qmempool_adopt(p, m, handle[i]);
	}
	if (!error)
		error = qmempool_adopt(p, s->v, handle[1]);
	if (!error)
		error = qmempool_free(p, s->v, handle[1]);
	opening_device_ends(number, m, gone);
	return error;
}

int use_device(struct scene *s)
{
	return live_device(s, true);
}

int leave_device(struct scene *s)
{
	return live_device(s, false);
}

int make_chain(struct scene *s)
{
	chain_make(&s->pool, s->v, s->owned, s->owned_n);
	return 0;
}

int send_data(struct scene *s)
{
	return (int)shmpool_send(s->key, s->data, sizeof(uint32_t));
}

/* As recv_many does: gets, copies, frees. */
int receive_data(struct scene *s)
{
	uint64_t handle[BULK];
	int64_t got = shmpool_get_many_wait(s->key, handle, s->operation->n, WAIT_NEVER);
	for (int64_t i = 0; i < got; i++)
		s->report->number[i] = *scene_message(handle[i]);
	if (got > 0)
		shmpool_free_many(s->key, handle, (size_t)got);
	s->report->got = got > 0 ? (uint32_t)got : 0;
	return (int)got;
}

int attach_member(struct scene *s)
{
	return member_attach(&s->pool.segment, scene_token(), &s->v);
}

int open_and_attach(struct scene *s)
{
	open_locally(s);
	return attach(s);
}

int attach(struct scene *s)
{
	return opening_attach((uint32_t)s->opened);
}

int detach_member(struct scene *s)
{
	qmempool_drain(&s->pool, s->v);
	member_release(&s->pool.segment, s->v);
	return 0;
}

int detach(struct scene *s)
{
	return opening_close((uint32_t)s->opened);
}

static uint32_t made_capacity(const struct scene *s)
{
	return s->operation->lanes ? s->operation->lanes * RING : RING;
}

static uint32_t made_flags(const struct scene *s)
{
	return s->operation->lanes ? ALF_LANED | s->operation->lanes << LANES_SHIFT : 0;
}

int create_queue(struct scene *s)
{
	const struct queue_on_death requeue = { .what = ON_DEATH_REQUEUE };
	return queue_create(&s->pool, s->v, "made", made_capacity(s), made_flags(s), &requeue);
}

void check_queue(struct scene *s)
{
	const struct queue_on_death requeue = { .what = ON_DEATH_REQUEUE };
	int found = queue_find(&s->pool, "made");
	if (s->report->result != PENDING)
		DEMAND(found == s->report->result);
	if (found == -ENOENT)
		found = queue_create(&s->pool, s->a, "made", made_capacity(s), made_flags(s),
				     &requeue);
	DEMAND(found == 4 || (found > 4 && s->operation->before)); /* dead members have slots */
}

/* A queue that was not created leaves none of its slots. */
void check_lanes(struct scene *s)
{
	check_queue(s);
	for (uint32_t i = 4; i < SLOTS; i++)
		DEMAND((segment_queue(&s->pool.segment, i)->state != 0) ==
		       (i <= 4 + s->operation->lanes));
}

/* There are too few slots. */
int create_too_many(struct scene *s)
{
	const struct queue_on_death frees = { 0 };
	int error = queue_create(&s->pool, s->v, "made", 4 * RING,
				 ALF_LANED | s->operation->lanes << LANES_SHIFT, &frees);
	return error == -ENFILE ? 0 : -EIO;
}

void check_none(struct scene *s)
{
	DEMAND(s->report->result != -EIO);
	for (uint32_t i = 4; i < SLOTS; i++)
		DEMAND(segment_queue(&s->pool.segment, i)->state == 0);
}

static const struct alf_ring *made_ring(struct scene *s)
{
	return queue_ring(&s->pool, (uint32_t)queue_find(&s->pool, "made"));
}

void make_queue(struct scene *s)
{
	EQUAL(4, create_queue(s));
}

/* A message of the victim in a queue that was ended since. */
void get_own_ended(struct scene *s)
{
	make_queue(s);
	alloc_own(s);
	EQUAL(0, queue_put(&s->pool, s->v, queue_in(s->v, made_ring(s)), s->owned, 1));
	EQUAL(1, queue_get(&s->pool, s->v, made_ring(s), s->owned, 1));
	EQUAL(0, queue_shutdown(made_ring(s), s->v));
}

int end_queue(struct scene *s)
{
	return queue_shutdown(made_ring(s), s->v);
}

int count_unfinished(struct scene *s)
{
	return unfinished_count(&s->pool, s->ring, UNFINISHED_MESSAGES) ? 0 : -EIO;
}

/* A queue is open or ended, and says the same to both sides, once its dead member is recovered. */
void check_ended(struct scene *s)
{
	const struct alf_ring *made = made_ring(s);
	uint64_t handle;
	if (s->report->result != PENDING)
		DEMAND(alf_closed(made));
	EQUAL(0, blocking_alloc(&s->pool, s->a, &handle, 1, WAIT_NEVER));
	const int put = queue_put(&s->pool, s->a, queue_in(s->a, made), &handle, 1);
	DEMAND(put == (alf_closed(made) ? -EPIPE : 0));
	if (!put)
		EQUAL(1, queue_get(&s->pool, s->a, made, &handle, 1));
	uint64_t none;
	DEMAND(queue_get(&s->pool, s->a, made, &none, 1) == (put ? -EPIPE : -EAGAIN));
	const int got = blocking_get(&s->pool, s->a, made, &none, 1, wait_now() + SHORT_NS);
	DEMAND(got == (put ? -EPIPE : -EAGAIN));
	EQUAL(0, qmempool_free(&s->pool, s->a, handle));
}

void check_unfinished(struct scene *s)
{
	DEMAND(s->report->result != -EIO);
}

/* The victim's message came back, whatever became of the victim. */
void check_returned(struct scene *s)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->taken; i++)
		n += s->stream[i].number == FROM_VICTIM;
	DEMAND(n == 1);
}

int create_segment(struct scene *s)
{
	struct shmpool_geometry g = s->made.geometry;
	return shmpool_create_wait(s->made.base, s->made.fd, &g);
}

/* A segment that was not finished is recognised as such; a finished one is whole. */
void check_segment(struct scene *s)
{
	struct segment made;
	struct qmempool pool;
	struct shmpool_audit audit;
	struct shmpool_refusal why;
	int error = segment_check(&made, s->made.base, s->made.size, s->made.fd, &why);
	DEMAND(error || segment_check_rings(&made, &why) == 0);
	DEMAND(error == 0 || error == -EAGAIN);
	DEMAND(error == 0 || s->report->result == PENDING);
	if (error)
		return;
	DEMAND(pool_bind(&pool, &made) == 0);
	DEMAND(audit_count(&pool, &audit, NULL, 0, NULL, 0) == 0);
	DEMAND(audit.free == (uint64_t)made.geometry.prealloc && audit.free == audit.total);
	pool_unbind(&pool);
}

int recover_dead(struct scene *s)
{
	struct shmpool_recovery out;
	return recover(&s->pool, s->v, &out);
}

void scene_companion_prepare(struct scene *s)
{
	some_cached(s);
	for (uint32_t i = 0; i < s->owned_n; i++)
		*scene_message(s->owned[i]) = FROM_VICTIM + i;
	s->marked = s->owned_n;
}

/* Checks that the companion's buffers are its own and unchanged, frees them and detaches. */
void scene_companion_leave(struct scene *s)
{
	for (uint32_t i = 0; i < s->owned_n; i++) {
		CHECK(i >= s->marked || *scene_message(s->owned[i]) == FROM_VICTIM + i);
		EQUAL(0, qmempool_free(&s->pool, s->v, s->owned[i]));
	}
	detach_member(s);
}

int alloc_beside(struct scene *s)
{
	int error = blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n], 1, WAIT_NEVER);
	s->owned_n += !error;
	return error;
}

int alloc_many_beside(struct scene *s)
{
	int error = blocking_alloc(&s->pool, s->v, &s->owned[s->owned_n], BULK, WAIT_NEVER);
	s->owned_n += error ? 0 : BULK;
	return error;
}

int free_beside(struct scene *s)
{
	return qmempool_free(&s->pool, s->v, s->owned[--s->owned_n]);
}

int flush_beside(struct scene *s)
{
	cache_request_flush(s->of);
	return free_beside(s);
}

int put_beside(struct scene *s)
{
	uint64_t handle = s->owned[--s->owned_n];
	*scene_message(handle) = FROM_BESIDE;
	pool_buffer(&s->pool, handle_index(handle))->redelivered = 0;
	pool_buffer(&s->pool, handle_index(handle))->mark = 1; /* buffers of the message */
	int error = blocking_put(&s->pool, s->v, queue_in(s->v, s->ring), &handle, 1, WAIT_NEVER);
	/* The queue is full, or another member is the single producer: the victim keeps its
	 * buffer. */
	if (error)
		*scene_message(handle) = FROM_VICTIM + s->owned_n++;
	return error;
}

int recover_beside(struct scene *s)
{
	return recover_dead(s);
}

static uint32_t came_out(const struct scene *s, uint32_t number)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->taken; i++)
		n += s->stream[i].number == number;
	return n;
}

void check_beside(struct scene *s)
{
	DEMAND(came_out(s, FROM_BESIDE) == 1);
}

void check_fuller(struct scene *s)
{
	DEMAND(came_out(s, FROM_FULLER) == 1);
}
