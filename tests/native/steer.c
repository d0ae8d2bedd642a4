/* SPDX-License-Identifier: Apache-2.0
 *
 * steer.c - see steer.h. Link with -Wl,--wrap=syscall,--wrap=sched_yield,--wrap=clock_gettime.
 */
#include "steer.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>

#include "blocking.h"
#include "process.h"

#define STACK (256u << 10)
#define BUFFERED_MAX 24
#define STEPS_MAX 1000000u /* of a run; most end after thousands */
#define STEP_NS 5000       /* of the simulated clock */
#define SUSPENDED_MAX 3000 /* steps that other threads make in that time */
#define BETWEEN 64         /* steps from one steer_between() to the next, on average */

enum state { READY, ASLEEP, ENDED, DEAD };

/* Where a thread dies or is suspended: at the nth step of this kind. */
enum event { STEP, BEFORE_CAS, CAS_WON, CAS_LOST, BEFORE_STORE, EVENTS };
struct trigger {
	enum event event;
	uint32_t left;     /* steps of the kind that are left; 0: never */
	const char *where; /* in that function only, NULL for any */
	uint32_t resumes;  /* 1 + the thread that continues then */
	uint32_t stores;   /* nonzero: not there, but before that many stores later */
};
#define TRIGGERS 2

struct buffered {
	volatile void *p;
	uint64_t value;
	uint32_t size;
	bool release;
};

static struct thread {
	ucontext_t context;
	enum state state;
	struct buffered buffer[BUFFERED_MAX];
	uint32_t buffered;
	uint64_t steps;
	struct trigger death, suspension[TRIGGERS];
	uint64_t suspended_until;
	const uint32_t *word; /* sleeps on this word */
	int64_t until_ns, most_ns;
	bool woken;
	bool holds; /* a script decides when its stores become visible */
	bool idle;  /* its blocking_idle */
} threads[STEER_THREADS];

static char *stacks;
static struct steer_run how;
static ucontext_t scheduler;
static int self = -1;
static uint32_t count, deaths, turn;
static uint64_t random_state, steps;
static int64_t now_ns;
static void (*body_of)(uint32_t);

/* The state of a script. */
static struct {
	bool on;
	struct steer_point point;
	uint32_t left; /* times that the thread has yet to reach the point */
	enum steer_stop stop;
} script;
bool steer_tracing;

uint32_t steer_random(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state * 0x2545f4914f6cdd1dull) >> 32) % n;
}

/* Returns a number from 1 to 2^bits. Each order of magnitude is as likely as any other. */
static uint32_t random_scale(uint32_t bits)
{
	return 1 + steer_random(1u << steer_random(bits + 1));
}

static void seed_with(uint64_t seed)
{
	random_state = (seed + 1) * 0x9e3779b97f4a7c15ull;
	for (int i = 0; i < 4; i++)
		steer_random(2);
}

void steer_choose(struct steer_run *run, uint64_t seed)
{
	seed_with(seed);
	*run = (struct steer_run) {
		.seed = seed,
		.mean = random_scale(6),
		.delay = steer_random(2) ? 0 : 1 + random_scale(5),
		.suspensions = steer_random(5),
	};
}

int steer_self(void)
{
	return self;
}

bool steer_died(uint32_t thread)
{
	return threads[thread].state == DEAD;
}

uint32_t steer_deaths(void)
{
	return deaths;
}

uint64_t steer_steps(void)
{
	return steps;
}

bool steer_weak(void)
{
	return how.weak || script.on;
}

void steer_time_passes(int64_t ns)
{
	now_ns += ns;
}

bool steer_buffers(void)
{
	for (uint32_t i = 0; i < STEER_THREADS; i++)
		if (threads[i].buffered)
			return true;
	return how.delay;
}

const uint32_t *steer_asleep(uint32_t thread, int64_t *most_ns)
{
	*most_ns = threads[thread].most_ns;
	return threads[thread].state == ASLEEP ? threads[thread].word : NULL;
}

/* Memory, and the store buffers in front of it. */

static uint64_t read_memory(const volatile void *p, uint32_t size)
{
	switch (size) {
	case 1:
		return *(const volatile uint8_t *)p;
	case 2:
		return *(const volatile uint16_t *)p;
	case 4:
		return *(const volatile uint32_t *)p;
	default:
		return *(const volatile uint64_t *)p;
	}
}

static void write_memory(volatile void *p, uint64_t value, uint32_t size)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)p = (uint8_t)value;
		return;
	case 2:
		*(volatile uint16_t *)p = (uint16_t)value;
		return;
	case 4:
		*(volatile uint32_t *)p = (uint32_t)value;
		return;
	default:
		*(volatile uint64_t *)p = value;
	}
}

static void settle(struct thread *t, uint32_t i)
{
	struct buffered b = t->buffer[i];
	t->buffered--;
	memmove(&t->buffer[i], &t->buffer[i + 1], (t->buffered - i) * sizeof(b));
	write_memory(b.p, b.value, b.size);
}

static void settle_all(struct thread *t)
{
	while (t->buffered)
		settle(t, 0);
}

/* Makes one store visible: the oldest one; or with weak any store that no older one holds back, by
 * its address or by its order. */
static void settle_one(struct thread *t)
{
	uint32_t i = how.weak ? steer_random(t->buffered) : 0;
	for (uint32_t k = 0; k < i; k++)
		if (t->buffer[k].p == t->buffer[i].p)
			i = k;
	settle(t, t->buffer[i].release ? 0 : i);
}

static void settle_some(void)
{
	for (uint32_t i = 0; i < count; i++)
		while (threads[i].buffered && steer_random(how.delay) == 0)
			settle_one(&threads[i]);
}

static void everybody_settles(void)
{
	for (uint32_t i = 0; i < count; i++)
		settle_all(&threads[i]);
}

/* Steps. */

/* Runs a thread until it calls leave_to_scheduler(). */
static void let_run(int thread)
{
	struct thread *t = &threads[thread];
	self = thread;
	blocking_idle = t->idle;
	swapcontext(&scheduler, &t->context);
	t->idle = blocking_idle;
	blocking_idle = false;
	self = -1;
}

static void leave_to_scheduler(void)
{
	int me = self;
	swapcontext(&threads[me].context, &scheduler);
}

static void end_of(struct thread *t, enum state how_it_ends)
{
	settle_all(t);
	t->state = how_it_ends;
	leave_to_scheduler();
	abort(); /* no thread runs it again */
}

static void trace(const char *what, const volatile void *p, uint64_t value, const char *where)
{
	printf("%8llu  thread %d  %-6s %p  %#18llx  %s\n", (unsigned long long)steps, self, what,
	       (const void *)(uintptr_t)p, (unsigned long long)value, where);
}

static bool due(struct trigger *trigger, enum event event, const char *where)
{
	return trigger->left && trigger->event == event &&
	       (!trigger->where || !strcmp(trigger->where, where)) && --trigger->left == 0;
}

static bool happens(enum event event, const char *where)
{
	struct thread *t = &threads[self];
	bool stays = false;
	if (due(&t->death, event, where)) {
		deaths++;
		if (steer_tracing)
			printf("%8llu  thread %d dies\n", (unsigned long long)steps, self);
		end_of(t, DEAD);
	}
	for (int i = 0; i < TRIGGERS; i++)
		if (due(&t->suspension[i], event, where)) {
			if (t->suspension[i].stores) {
				t->suspension[i] =
					(struct trigger) { .event = BEFORE_STORE,
							   .left = t->suspension[i].stores,
							   .resumes = t->suspension[i].resumes };
				continue;
			}
			stays = true;
			if (t->suspension[i].resumes)
				threads[t->suspension[i].resumes - 1].suspended_until = 0;
		}
	if (!stays)
		return false;
	if (steer_tracing)
		printf("%8llu  thread %d is suspended\n", (unsigned long long)steps, self);
	t->suspended_until = steps + 1 + steer_random(SUSPENDED_MAX);
	leave_to_scheduler();
	return true;
}

/* Called before and after each step of the running thread: stops it if its script waits for
 * this. */
static void arrive(bool after, enum steer_kind kind, const volatile void *word)
{
	const struct steer_point *point = &script.point;
	if (self < 0 || point->word != word || point->kind != kind || point->after != after ||
	    --script.left)
		return;
	script.point.word = NULL;
	script.stop = STEER_REACHED;
	leave_to_scheduler();
}

static void step(enum event event, const char *where)
{
	if (++steps > STEPS_MAX)
		steer_failed("endless: thread %d makes no end", self);
	now_ns += STEP_NS;
	threads[self].steps++;
	if (script.on)
		return;
	bool left = happens(STEP, where);
	if (event != STEP)
		left |= happens(event, where);
	if (!left && turn-- == 0)
		leave_to_scheduler();
	if (how.delay)
		settle_some();
}

uint64_t steer_load(const volatile void *p, uint32_t size, const char *where)
{
	if (self < 0)
		return read_memory(p, size);
	step(STEP, where);
	arrive(false, STEER_LOADS, p);
	struct thread *t = &threads[self];
	uint64_t value = read_memory(p, size);
	for (uint32_t i = t->buffered; i--;)
		if (t->buffer[i].p == p) {
			value = t->buffer[i].value;
			break;
		}
	value &= UINT64_MAX >> (64 - 8 * size);
	if (steer_tracing)
		trace("load", p, value, where);
	arrive(true, STEER_LOADS, p);
	return value;
}

void steer_store(volatile void *p, uint64_t value, uint32_t size, enum steer_order order,
		 const char *where)
{
	if (self < 0) {
		write_memory(p, value, size);
		return;
	}
	step(BEFORE_STORE, where);
	arrive(false, STEER_STORES, p);
	struct thread *t = &threads[self];
	if (steer_tracing)
		trace("store", p, value, where);
	if (t->buffered == BUFFERED_MAX)
		settle(t, 0);
	t->buffer[t->buffered++] = (struct buffered) { p, value, size, order != STEER_RELAXED };
	if ((!how.delay && !t->holds) || order == STEER_SEQ_CST)
		settle_all(t);
	arrive(true, STEER_STORES, p);
}

bool steer_cas(volatile void *p, void *expected, uint64_t desired, uint32_t size, const char *where)
{
	if (self >= 0) {
		step(BEFORE_CAS, where);
		arrive(false, STEER_SWAPS, p);
		settle_all(&threads[self]);
	}
	uint64_t found = read_memory(p, size);
	bool same = found == read_memory(expected, size);
	if (self >= 0 && steer_tracing)
		trace(same ? "cas" : "cas-no", p, same ? desired : found, where);
	if (same)
		write_memory(p, desired, size);
	else
		write_memory(expected, found, size);
	if (self >= 0)
		happens(same ? CAS_WON : CAS_LOST, where);
	arrive(true, same ? STEER_SWAPS : STEER_LOST_SWAPS, p);
	return same;
}

uint64_t steer_add(volatile void *p, uint64_t value, uint32_t size, const char *where)
{
	if (self >= 0) {
		step(STEP, where);
		arrive(false, STEER_ADDS, p);
		settle_all(&threads[self]);
		if (steer_tracing)
			trace("add", p, value, where);
	}
	uint64_t before = read_memory(p, size);
	write_memory(p, before + value, size);
	arrive(true, STEER_ADDS, p);
	return before;
}

void steer_count_up(uint64_t *p, uint64_t value, const char *where)
{
	uint64_t before = read_memory(p, sizeof(*p));
	for (uint32_t i = self < 0 ? 0 : threads[self].buffered; i--;)
		if (threads[self].buffer[i].p == p) {
			before = threads[self].buffer[i].value;
			break;
		}
	steer_store(p, before + value, sizeof(*p), STEER_RELAXED, where);
}

void steer_store_run(shared64 *slot, uint64_t tag, const uint64_t *word, uint64_t keep, uint32_t n,
		     const char *where)
{
	while (n--)
		steer_store(&slot[n], tag | (word[n] & keep), sizeof(*slot), STEER_RELEASE, where);
}

uint64_t steer_load_run(const shared64 *slot, uint64_t tag, uint64_t *word, uint32_t n,
			const char *where)
{
	uint64_t differs = 0;
	while (n--)
		differs |= word[n] = steer_load(&slot[n], sizeof(*slot), where) ^ tag;
	return differs;
}

/* The kernel. */

static long futex_wait(const uint32_t *word, uint32_t value, const struct timespec *most)
{
	struct thread *t = &threads[self];
	step(STEP, "kernel");
	arrive(false, STEER_SLEEPS, word);
	settle_all(t);
	if (steer_tracing)
		trace("sleep", word, value, "futex");
	if (*(const volatile uint32_t *)word != value) {
		errno = EAGAIN;
		return -1;
	}
	t->word = word;
	t->most_ns = most->tv_sec * 1000000000ll + most->tv_nsec;
	t->until_ns = now_ns + t->most_ns;
	t->woken = false;
	t->state = ASLEEP;
	script.stop = STEER_SLEEPING;
	leave_to_scheduler();
	if (t->woken)
		return 0;
	errno = ETIMEDOUT;
	return -1;
}

/* Wakes any n of the sleepers, not those that have slept longest. */
static long futex_wake(const uint32_t *word, uint32_t n)
{
	long woken = 0;
	if (self >= 0) {
		step(STEP, "kernel");
		arrive(false, STEER_WAKES, word);
		settle_all(&threads[self]);
		if (steer_tracing)
			trace("wake", word, n, "futex");
	}
	uint32_t first = count ? steer_random(count) : 0;
	for (uint32_t i = 0; i < count && (uint32_t)woken < n; i++) {
		struct thread *t = &threads[(first + i) % count];
		if (t->state != ASLEEP || t->word != word)
			continue;
		t->state = READY;
		t->woken = true;
		woken++;
	}
	arrive(true, STEER_WAKES, word);
	return woken;
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
	va_list list;
	va_start(list, number);
	const uint32_t *word = number == SYS_futex ? va_arg(list, const uint32_t *) : NULL;
	int what = number == SYS_futex ? va_arg(list, int) : 0;
	uint32_t value = number == SYS_futex ? va_arg(list, uint32_t) : 0;
	const struct timespec *most =
		number == SYS_futex ? va_arg(list, const struct timespec *) : NULL;
	va_end(list);
	if (number == SYS_gettid)
		return self < 0 ? 1 : STEER_PID((uint32_t)self);
	if (number != SYS_futex)
		steer_failed("the core makes system call %ld, which is not steered", number);
	if (what == FUTEX_WAKE)
		return futex_wake(word, value);
	if (self < 0)
		steer_failed("a sleep outside the run");
	return futex_wait(word, value, most);
}

int __wrap_sched_yield(void);
int __wrap_sched_yield(void)
{
	if (self >= 0) {
		turn = 0;
		step(STEP, "kernel");
	}
	return 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
	(void)clock;
	*t = (struct timespec) { .tv_sec = now_ns / 1000000000, .tv_nsec = now_ns % 1000000000 };
	return 0;
}

bool process_barrier_register(void)
{
	return true;
}

bool process_barrier(void)
{
	if (self >= 0)
		step(STEP, "kernel");
	everybody_settles();
	return true;
}

/* The scheduler. */

static void enter(uint32_t i)
{
	body_of(i);
	end_of(&threads[i], ENDED);
}

static bool can_run(const struct thread *t, bool even_suspended)
{
	return t->state == READY && (even_suspended || t->suspended_until <= steps);
}

static int pick(bool even_suspended)
{
	uint32_t n = 0;
	int chosen = -1;
	for (uint32_t i = 0; i < count; i++)
		if (can_run(&threads[i], even_suspended) && steer_random(++n) == 0)
			chosen = (int)i;
	return chosen;
}

static struct thread *first_to_wake(void)
{
	struct thread *first = NULL;
	for (uint32_t i = 0; i < count; i++)
		if (threads[i].state == ASLEEP && (!first || threads[i].until_ns < first->until_ns))
			first = &threads[i];
	return first;
}

static struct trigger random_trigger(void)
{
	enum event event = steer_random(EVENTS);
	return (struct trigger) { .event = event,
				  .left = random_scale(event == STEP         ? 10 :
						       event == BEFORE_STORE ? 8 :
									       5) };
}

/* Suspends one thread before a compare-and-swap in a function, until another thread has succeeded
 * there and is suspended right after it. The first thread may die after its compare-and-swap has
 * failed. */
static void arrange_duel(const char *where, uint32_t mortal)
{
	uint32_t first = steer_random(count), second = steer_random(count - 1);
	second += second >= first;
	threads[first].suspension[0] =
		(struct trigger) { .event = BEFORE_CAS, .left = random_scale(2), .where = where };
	threads[second].suspension[0] = (struct trigger) { .event = CAS_WON,
							   .left = random_scale(2),
							   .where = where,
							   .resumes = 1 + first,
							   .stores = steer_random(6) };
	if (mortal >> first & 1 && steer_random(2))
		threads[first].death = (struct trigger) {
			.event = steer_random(3) ? CAS_LOST : CAS_WON, .left = 1, .where = where
		};
}

static void time_passes(struct thread *t)
{
	if (now_ns < t->until_ns)
		now_ns = t->until_ns;
	t->state = READY;
}

static void begin(const struct steer_run *run, uint32_t n, void (*body)(uint32_t))
{
	if (!stacks)
		stacks = mmap(NULL, STACK * STEER_THREADS, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	how = *run;
	seed_with(run->seed ^ 0x5eed);
	count = n;
	body_of = body;
	steps = deaths = 0;
	now_ns = 1000000000000;
	for (uint32_t i = 0; i < n; i++) {
		struct thread *t = &threads[i];
		memset(t, 0, sizeof(*t));
		getcontext(&t->context);
		t->context.uc_stack.ss_sp = stacks + i * STACK;
		t->context.uc_stack.ss_size = STACK;
		t->context.uc_link = NULL;
		makecontext(&t->context, (void (*)(void))enter, 1, i);
	}
}

void steer_threads(const struct steer_run *run, uint32_t n, uint32_t mortal, void (*body)(uint32_t))
{
	begin(run, n, body);
	for (uint32_t i = 0; mortal && i < run->deaths; i++) {
		uint32_t who;
		do
			who = steer_random(n);
		while (!(mortal >> who & 1));
		threads[who].death = random_trigger();
		if (run->grave && i == 0)
			threads[who].death = (struct trigger) { .event = STEP,
								.left = random_scale(5),
								.where = run->grave };
	}
	for (uint32_t i = 0; i < run->suspensions; i++) {
		struct thread *t = &threads[steer_random(n)];
		t->suspension[steer_random(TRIGGERS)] = random_trigger();
	}
	if (run->haunt)
		threads[steer_random(n)].suspension[1] = (struct trigger) { .event = STEP,
									    .left = random_scale(5),
									    .where = run->haunt };
	if (run->duel && n > 1)
		arrange_duel(run->duel, mortal);
	for (;;) {
		int next = pick(false);
		if (next < 0)
			next = pick(true);
		if (next < 0) {
			struct thread *t = first_to_wake();
			everybody_settles();
			if (!t)
				break;
			steer_idle();
			time_passes(t);
			continue;
		}
		struct thread *sleeper = steer_random(512) ? NULL : first_to_wake();
		if (sleeper)
			time_passes(sleeper);
		if (steer_random(BETWEEN) == 0)
			steer_between();
		turn = steer_random(2 * how.mean);
		threads[next].suspended_until = 0;
		let_run(next);
		if (how.delay)
			settle_some();
	}
	count = 0;
}

/* Scripts. */

void steer_open(uint32_t n, void (*body)(uint32_t))
{
	const struct steer_run run = { .seed = 0 };
	begin(&run, n, body);
	script.on = true;
}

void steer_close(void)
{
	script.on = false;
	count = 0;
}

void steer_rest(void)
{
	settle_all(&threads[self]);
	script.stop = STEER_RESTING;
	leave_to_scheduler();
}

enum steer_stop steer_go(uint32_t thread, const struct steer_point *point)
{
	static const struct steer_point nowhere;
	struct thread *t = &threads[thread];
	if (t->state == ASLEEP)
		return STEER_SLEEPING;
	if (t->state != READY)
		steer_failed("thread %u is dead and has to make a step", thread);
	script.point = point ? *point : nowhere;
	script.left = script.point.nth;
	let_run((int)thread);
	steer_between();
	return script.stop;
}

void steer_kill(uint32_t thread)
{
	struct thread *t = &threads[thread];
	if (steer_tracing)
		printf("%8llu  thread %u dies\n", (unsigned long long)steps, thread);
	settle_all(t);
	t->state = DEAD;
	deaths++;
}

void steer_hold(uint32_t thread)
{
	threads[thread].holds = true;
}

void steer_settle(uint32_t thread, const volatile void *word)
{
	struct thread *t = &threads[thread];
	uint32_t i = 0;
	while (i < t->buffered && t->buffer[i].p != word)
		i++;
	if (i == t->buffered)
		steer_failed("thread %u holds no store to that word", thread);
	for (; t->buffer[i].release && i; i--)
		settle(t, 0);
	settle(t, i);
}

void steer_let_pass(uint32_t thread)
{
	if (threads[thread].state != ASLEEP)
		steer_failed("thread %u does not sleep", thread);
	time_passes(&threads[thread]);
}
