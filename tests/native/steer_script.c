/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_script.c - see steer_script.h.
 *
 * Usage: steer_script [--trace] [--list] [SCENARIO...] Plays those scenarios, or all. Exit status
 * 0, or 1 after the first failure.
 */
#include "steer_script.h"

#include <stdarg.h>

static const struct scenario *const tables[] = { recovery_scenarios, slots_scenarios,
						 caches_scenarios, waits_scenarios,
						 chains_scenarios };
#define TABLES (sizeof(tables) / sizeof(*tables))

static const struct scenario *scenario;
static struct task tasks[STEER_THREADS];
static bool busy[STEER_THREADS];
static struct shmpool_recovery recoveries[STEER_THREADS];

void steer_failed(const char *format, ...)
{
	va_list list;
	fflush(stdout);
	fprintf(stderr, "%s: ", scenario->name);
	va_start(list, format);
	vfprintf(stderr, format, list);
	va_end(list);
	fprintf(stderr, "\n");
	exit(1);
}

static void operate(uint32_t me, const struct task *task)
{
	if (task->what == CALL)
		task->call(me);
	else
		world_operate(me, task->what, task->queue, task->n ? task->n : 1, &recoveries[me]);
}

static void body(uint32_t me)
{
	for (;;) {
		busy[me] = false;
		steer_rest();
		operate(me, &tasks[me]);
	}
}

void script_start(uint32_t thread, struct task task)
{
	if (busy[thread])
		steer_failed("thread %c has not ended what it does", 'A' + (int)thread);
	tasks[thread] = task;
	busy[thread] = true;
}

void script_until(uint32_t thread, struct steer_point point, const char *said, int line)
{
	enum steer_stop stop = busy[thread] ? steer_go(thread, &point) : STEER_RESTING;
	if (stop != STEER_REACHED)
		steer_failed("line %d: thread %c %s and did not come to %s", line,
			     'A' + (int)thread, stop == STEER_RESTING ? "has ended" : "sleeps",
			     said);
}

void script_finish(uint32_t thread)
{
	if (!busy[thread] || steer_go(thread, NULL) != STEER_RESTING)
		steer_failed("thread %c %s", 'A' + (int)thread,
			     busy[thread] ? "sleeps" : "does nothing");
}

void script_sleeps(uint32_t thread)
{
	if (!busy[thread] || steer_go(thread, NULL) != STEER_SLEEPING)
		steer_failed("thread %c does not sleep", 'A' + (int)thread);
}

void script_let_pass(uint32_t thread)
{
	steer_let_pass(thread);
}

void script_kill(uint32_t thread)
{
	busy[thread] = false;
	steer_kill(thread);
}

const struct shmpool_recovery *script_recovery(uint32_t thread)
{
	return &recoveries[thread];
}

struct alf_queue *script_queue(uint32_t queue)
{
	return &segment_queue(&world_segment, queue + 1)->queue;
}

shared64 *script_slot(uint32_t queue, alf_position position)
{
	const struct alf_ring *r = queue_ring(&world_actors[LAST].pool, queue + 1);
	return &r->slot[position & r->mask];
}

struct member *script_member(uint32_t thread)
{
	return world_actors[thread].m;
}

struct buffer *script_buffer(uint32_t thread, uint32_t n)
{
	DEMAND(n < world_actors[thread].held);
	return pool_buffer(&world_actors[LAST].pool, handle_index(world_actors[thread].hand[n]));
}

static void play(const struct scenario *s)
{
	scenario = s;
	world_make(&s->pool);
	world_begin();
	memset(recoveries, 0, sizeof(recoveries));
	steer_open(s->pool.threads, body);
	for (uint32_t i = 0; i < s->pool.threads; i++) {
		steer_go(i, NULL); /* to its first rest */
		if (!(s->newcomers >> i & 1))
			DO(i, ATTACH);
	}
	s->play();
	for (uint32_t i = 0; i < s->pool.threads; i++)
		if (busy[i])
			steer_failed("thread %c has not ended what it does", 'A' + (int)i);
	uint64_t steps = steer_steps();
	steer_close();
	world_end();
	printf("%-40s %llu steps\n", s->name, (unsigned long long)steps);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	bool all = true, list = false;
	uint32_t played = 0, named = 0;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--trace"))
			steer_tracing = true;
		else if (!strcmp(argv[i], "--list"))
			list = true;
		else
			all = false, named++;
	}
	for (size_t k = 0; k < TABLES; k++)
		for (const struct scenario *s = tables[k]; s->name; s++) {
			bool chosen = all;
			for (int i = 1; i < argc; i++)
				chosen |= !strcmp(argv[i], s->name);
			if (list) {
				printf("%s\n", s->name);
			} else if (chosen) {
				play(s);
				played++;
			}
		}
	if (!list && (!played || (named && played < named))) {
		fprintf(stderr, "steer_script: no such scenario; --list shows them\n");
		return 2;
	}
	return 0;
}
