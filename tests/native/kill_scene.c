/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_scene.c - see kill_scene.h: the pool, and the members that work in it.
 */
#define _GNU_SOURCE
#include "kill_scene.h"

#include <sys/prctl.h>
#include <sys/wait.h>

#include "check.h"
#include "kill_topic.h"
#include "life.h"
#include "slab.h"
#include "wait.h"

struct scene scene;
bool scene_sizes;
void (*scene_failed)(const char *what);

const struct alf_ring *scene_ring(uint32_t queue)
{
	return queue_ring(&scene.pool, queue);
}

uint32_t *scene_message(uint64_t handle)
{
	return (uint32_t *)pool_data(&scene.pool, handle_index(handle));
}

struct member *scene_block(struct member *m)
{
	return pool_block(scene.of, m);
}

uint32_t scene_cached(struct member *m)
{
	return cache_length(&scene.of->segment, scene_block(m));
}

uint64_t scene_token(void)
{
	if (scene.token_of != getpid()) {
		EQUAL(0, token_take(&scene.pool.segment, &scene.token));
		scene.token_of = getpid();
	}
	return scene.token.number;
}

struct member *scene_attach(void)
{
	struct member *m = NULL;
	EQUAL(0, member_attach(&scene.pool.segment, scene_token(), &m));
	scene_inflate(m);
	return m;
}

void scene_inflate(struct member *m)
{
	const enum counter balanced[] = { COUNT_ALLOC, COUNT_FREE, COUNT_ENQUEUE, COUNT_DEQUEUE };
	for (size_t i = 0; i < sizeof(balanced) / sizeof(*balanced); i++)
		count_up(&m->counters[balanced[i]], INFLATED);
}

int scene_compose(struct member *m, uint32_t number, uint32_t buffers, uint64_t *handle)
{
	uint64_t part[CAPACITY];
	for (uint32_t i = 0; i < buffers; i++) {
		int error = blocking_alloc(&scene.pool, m, &part[i], 1, WAIT_NEVER);
		if (error) {
			while (i--)
				DEMAND(qmempool_free(&scene.pool, m, part[i]) == 0);
			return error;
		}
		struct buffer *b = pool_buffer(&scene.pool, handle_index(part[i]));
		*scene_message(part[i]) = number;
		b->length = sizeof(uint32_t);
		b->mark = buffers;
		b->failures_link = 0;
	}
	if (buffers > 1)
		chain_make(&scene.pool, m, part, buffers);
	*handle = part[0];
	return 0;
}

/* Puts a message of that number. */
static int offer(struct member *m, uint32_t queue, uint32_t number)
{
	const uint32_t chained = queue == scene.subject ? scene.operation->chained : 0;
	uint64_t handle;
	int error = scene_compose(m, number, chained ? chained : 1, &handle);
	if (error)
		return error;
	error = blocking_put(&scene.pool, m, queue_in(m, scene_ring(queue)), &handle, 1,
			     WAIT_NEVER);
	if (error)
		DEMAND(qmempool_free(&scene.pool, m, handle) == 0);
	return error;
}

void scene_publish(struct member *m, uint32_t queue, uint32_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		EQUAL(0, offer(m, queue, first + i));
	queue_release(scene_ring(queue), m);
}

void scene_get(struct member *m, uint32_t queue, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		EQUAL(1, blocking_get(&scene.pool, m, scene_ring(queue),
				      &scene.owned[scene.owned_n++], 1, WAIT_NEVER));
	queue_release(scene_ring(queue), m);
}

void scene_child(void (*run)(struct scene *))
{
	life_open();
	pid_t parent = getpid(), pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		life_begin();
		run(&scene);
		_exit(0);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	EQUAL(0, status);
	life_await(pid);
}

static void map_new(void)
{
	scene.fd = memfd_create("kill_points", MFD_CLOEXEC);
	CHECK(scene.fd >= 0 && ftruncate(scene.fd, (off_t)scene.size) == 0);
	scene.base = mmap(NULL, scene.size, PROT_READ | PROT_WRITE, MAP_SHARED, scene.fd, 0);
	CHECK(scene.base != MAP_FAILED);
}

static void make_queues(const struct operation *o)
{
	const struct queue_on_death free_them = { 0 };
	struct queue_on_death subject = o->on_death;
	int letter = queue_create(&scene.pool, scene.b, "letter", RING, 0, &free_them);
	int other = queue_create(&scene.pool, scene.b, "other", RING, 0, &free_them);
	CHECK(letter > 0 && other > 0);
	scene.letter = (uint32_t)letter;
	scene.other = (uint32_t)other;
	if (subject.dead_letter)
		subject.dead_letter = scene.letter;
	const uint32_t lanes = o->flags >> LANES_SHIFT,
		       room = o->flags & ALF_ON_DEMAND ? GROWING : RING;
	int made = queue_create(&scene.pool, scene.b, "subject", lanes ? lanes * room : room,
				o->flags, &subject);
	CHECK(made > 0);
	scene.subject = (uint32_t)made;
	scene.ring = scene_ring(scene.subject);
}

#ifndef SCENE_FREE_RINGS
#define SCENE_FREE_RINGS 0 /* with more, side rings in every class that is large enough */
#endif

void scene_make(const struct operation *o)
{
	struct shmpool_geometry g = { .buffer_size = o->trims ? 1024 : 64,
				      .capacity = CAPACITY,
				      .prealloc = o->prealloc,
				      .cache_size = CACHE,
				      .bulk = CACHE,
				      .refill_multiplier = o->trims ? 1 : 2,
				      .members = MEMBERS,
				      .free_rings = SCENE_FREE_RINGS,
				      .queues = o->lanes || o->flags & ALF_LANED ? SLOTS - 1 : 5 };
	if (scene_sizes) {
		g.more[0] = (struct shmpool_class) { .buffer_size = 2 * g.buffer_size,
						     .capacity = g.capacity,
						     .prealloc = g.prealloc,
						     .cache_size = g.cache_size };
		g.capacity = g.prealloc = SMALLER;
		g.cache_size = 0;
		g.classes = 2;
	}
	struct report *report = scene.report;
	struct segment s;
	struct shmpool_refusal why;
	scene = (struct scene) { .operation = o, .report = report };
	*report = (struct report) { .result = PENDING };
	EQUAL(0, segment_plan(&s, &g, &why));
	scene.size = g.size;
	map_new();
	EQUAL(0, segment_init(&s, scene.base, scene.fd));
	for (uint32_t i = 0; i < segment_classes(&s); i++) {
		const struct segment view = segment_view(&s, i);
		EQUAL(0, slab_create(&view));
	}
	segment_ready(&s);
	s.writes = true;
	EQUAL(0, pool_bind(&scene.pool, &s));
	scene.of = pool_class(&scene.pool, scene_sizes);
	scene.a = scene_attach();
	scene.b = scene_attach();
	make_queues(o);
	/* The survivors' own work: buffers outside a cache, in a cache, in another queue. */
	EQUAL(0, blocking_alloc(&scene.pool, scene.b, scene.hand_b, 2, WAIT_NEVER));
	scene_publish(scene.b, scene.other, FROM_ASIDE, scene.aside = 3);
	for (uint32_t i = 0; i < o->turned; i++) {
		scene_publish(scene.b, scene.subject, 0, 1);
		scene_get(scene.b, scene.subject, 1);
		EQUAL(0, qmempool_free(&scene.pool, scene.b, scene.owned[--scene.owned_n]));
	}
	scene_publish(scene.b, scene.subject, FROM_OTHERS, o->filled);
	EQUAL(0, blocking_alloc(&scene.pool, scene.a, scene.hand_a, 1, WAIT_NEVER));
	*scene_message(scene.hand_a[0]) = 1;
	*scene_message(scene.hand_b[0]) = 2;
	*scene_message(scene.hand_b[1]) = 3;
	if (o->before)
		o->before(&scene);
}

void scene_discard(void)
{
	pool_unbind(&scene.pool);
	token_drop(&scene.token);
	munmap(scene.base, scene.size);
	close(scene.fd);
	if (scene.made.base) {
		munmap(scene.made.base, scene.made.size);
		close(scene.made.fd);
	}
}

/* A chain comes out whole. */
static void check_chain(uint64_t handle)
{
	const struct buffer *b = pool_buffer(&scene.pool, handle_index(handle));
	uint32_t n = 1;
	DEMAND(chain_count(&scene.pool, handle) == b->mark);
	for (uint32_t at = handle_index(handle), next;
	     n < CAPACITY && (next = chain_next(&scene.pool, handle, at)) != at; at = next, n++)
		DEMAND(*scene_message(next) == *scene_message(handle));
	DEMAND(n == b->mark);
}

bool scene_settled(uint32_t number)
{
	const uint64_t state = segment_queue(&scene.pool.segment, number)->state;
	return state == 0 || state == QUEUE_READY ||
	       (state & QUEUE_LANE && queue_listed(&scene.pool, number));
}

/* Records a message that a survivor got, and frees it. */
static void note(struct member *m, uint32_t queue, uint64_t handle)
{
	uint32_t number = *scene_message(handle), at = scene.taken;
	const struct buffer *b = pool_buffer(&scene.pool, handle_index(handle));
	DEMAND(number < NUMBERS && at < NUMBERS);
	if (scene.operation->chained)
		check_chain(handle);
	if (number < NUMBERS && at < NUMBERS) {
		scene.stream[at].number = number;
		scene.stream[at].queue = queue;
		scene.stream[at].again = b->redelivered != 0;
		scene.taken++;
	}
	DEMAND(qmempool_free(&scene.pool, m, handle) == 0);
}

/* Gets up to n messages, as long as there are some. */
static void take(struct member *m, uint32_t queue, uint32_t n)
{
	uint64_t handle;
	int got = 1;
	for (uint32_t i = 0; i < n; i++) {
		got = blocking_get(&scene.pool, m, scene_ring(queue), &handle, 1, WAIT_NEVER);
		if (got != 1)
			break;
		note(m, queue, handle);
	}
	DEMAND(got == 1 || got == -EAGAIN || got == -EPIPE || got == -EBUSY);
}

void scene_work(void)
{
	struct qmempool *p = &scene.pool;
	uint64_t handle[CACHE + 4];
	struct shmpool_recovery out;
	uint32_t n = 0;
	int error = 0;
	DEMAND(recover(p, scene.a, &out) == 0);
	for (uint32_t i = 0; i < 2 && !error; i++) {
		error = offer(scene.b, scene.other, FROM_ASIDE + scene.aside);
		scene.aside += !error;
	}
	DEMAND(error == 0 || error == -EAGAIN);
	take(scene.a, scene.other, 2);
	while (n < CACHE + 4 && blocking_alloc(p, scene.b, &handle[n], 1, WAIT_NEVER) == 0)
		n++;
	for (uint32_t i = 0; i < n; i++)
		DEMAND(qmempool_free(p, i % 2 ? scene.a : scene.b, handle[i]) == 0);
	error = 0;
	for (uint32_t i = 0; i < 3 && !error; i++) {
		error = offer(scene.a, scene.subject, FROM_LATER + scene.later);
		scene.later += !error;
	}
	DEMAND(error == 0 || error == -EAGAIN || error == -ENOBUFS || error == -EBUSY);
	take(scene.b, scene.subject, 3);
	queue_release(scene_ring(scene.subject), scene.a);
	queue_release(scene_ring(scene.subject), scene.b);
	topic_work(&scene);
	scene_audit();
}

void scene_recover(void)
{
	struct shmpool_recovery out;
	DEMAND(recover(&scene.pool, scene.a, &out) == 0);
	DEMAND(out.unknown == 0);
	scene_audit();
}

void scene_drain(void)
{
	take(scene.a, scene.subject, 2 * RING + 1);
	take(scene.b, scene.other, RING + 1);
	take(scene.a, scene.letter, RING + 1);
	if (queue_find(&scene.pool, "made") > 0)
		take(scene.a, (uint32_t)queue_find(&scene.pool, "made"), RING + 1);
	queue_release(scene_ring(scene.subject), scene.a);
}

void scene_audit(void)
{
	struct shmpool_audit audit;
	struct shmpool_held held[MEMBERS];
	uint64_t queued[SLOTS] = { 0 }, sum = 0;
	DEMAND(audit_count(&scene.pool, &audit, held, MEMBERS, queued, SLOTS) == 0);
	for (uint32_t i = 0; i < MEMBERS; i++)
		sum += held[i].buffers;
	for (uint32_t i = 0; i < SLOTS; i++)
		sum += queued[i];
	DEMAND(audit.unaccounted == 0);
	DEMAND(audit.doubled == 0);
	DEMAND(sum + audit.free + audit.cached + audit.chained == audit.total);
	DEMAND(audit.total >= scene.operation->prealloc);
}
