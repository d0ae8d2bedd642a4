/* SPDX-License-Identifier: Apache-2.0
 *
 * atomic.h - the atomics layer of shmpool/native on top of the Relacy race detector, in C++.
 *
 * Include it before alf_queue.h: it has the include guard of the real atomic.h, which is then left
 * out. What it adds to Relacy:
 *
 *     delayed stores  Relacy orders a store among all stores to that word when the store runs, and
 *                     a read-modify-write by another thread always reads the last one. A relaxed
 *                     store may wait here until the thread's next store with release, seq_cst or
 *                     read-modify-write, so that other threads can see two relaxed stores in either
 *                     order.
 *     slot cells      Beside each slot is a plain word. The producer writes it when it publishes
 *                     the slot, a consumer reads it when it claims the slot, as cons moves. Relacy
 *                     reports a data race if neither happens before the other: a slot was
 *                     overwritten too early.
 *     runs            The words of a run are stored and loaded by pairs in any order, except
 *                     slot[0] of a stored one.
 *     deaths          A thread may be killed before any of its steps: killed is thrown.
 *     weakening       One kind of access at one place becomes relaxed, for the mutations.
 */
#ifndef SHMPOOL_ATOMIC_H
#define SHMPOOL_ATOMIC_H

#include <relacy/relacy.hpp>
#include <type_traits>

#define CACHE_LINE 64
#define likely(x) (x)
#define unlikely(x) (x)
#define ALWAYS_INLINE inline
#define _Static_assert(condition, why) /* the real build checks sizes */

enum place { ELSEWHERE, PROD, CONS, LIMIT, SLOT, OP, OWNER, HOLD, WAIT, DEAD, PLACES };
static const char *const place_name[PLACES] = { "",   "prod",  "cons", "limit", "slot",
						"op", "owner", "hold", "wait",  "dead" };
enum access { LOAD, STORE, CAS, ACCESSES };
static const char *const access_name[ACCESSES] = { "load", "store", "cas" };

static const char *const order_name[] = { "relaxed", "consume", "acquire", "release", "acq_rel" };

/* The access that a mutation weakens, from the command line: in all functions, or in one. */
struct weakening {
	bool any;
	enum access access;
	enum place place;
	rl::memory_order order;
	std::string function;
};
static weakening weakened;

struct killed {};

template <typename T> struct shared;
typedef shared<uint64_t> shared64;
typedef shared<uint32_t> shared32;
struct shared16; /* of other position widths, which are not modelled */
struct shared8;

/* The cells beside the slots of a ring. */
struct cells {
	rl::var<uint32_t> *cell;
	uint64_t mask;
};

template <typename T> struct shared : rl::atomic<T> {
	enum place where = ELSEWHERE;
	rl::var<uint32_t> *cell = nullptr; /* of a slot */
	cells *ring = nullptr;             /* of cons */

	void written(rl::debug_info_param info)
	{
		if (cell)
			(*cell)(info) = 1;
	}

	void claimed(T from, T to, rl::debug_info_param info)
	{
		for (; ring && from != to; from++)
			(void)ring->cell[from & ring->mask](info).load();
	}
};

#define STORES_DELAYED_MAX 3
struct delayed_store {
	shared64 *word;
	uint64_t value;
	rl::debug_info info;
};

/* The state of a thread in this layer. */
struct thread_state {
	delayed_store delayed[STORES_DELAYED_MAX];
	unsigned n;
	int steps_to_live; /* -1: the thread does not die */
};
#define THREADS 4
static thread_state threads[THREADS];

static inline void reset_threads()
{
	for (thread_state &t : threads) {
		t.n = 0;
		t.steps_to_live = -1;
	}
}

static inline thread_state &self()
{
	return threads[rl::thread_index()];
}

/* Makes the i-th delayed store visible, after any earlier one to the same word. */
static inline void settle(thread_state &t, unsigned i)
{
	for (unsigned j = 0; j < i; j++)
		if (t.delayed[j].word == t.delayed[i].word)
			i = j;
	delayed_store s = t.delayed[i];
	for (t.n--; i < t.n; i++)
		t.delayed[i] = t.delayed[i + 1];
	s.word->store(s.value, rl::mo_relaxed, s.info);
}

static inline void settle_all()
{
	for (thread_state &t = self(); t.n;)
		settle(t, 0);
}

/* Begins every step. */
static inline void step()
{
	thread_state &t = self();
	if (t.steps_to_live >= 0 && t.steps_to_live-- == 0) {
		settle_all(); /* the kernel reports no death before the thread's last stores */
		throw killed();
	}
	if (t.n && rl::rand(2))
		settle(t, rl::rand(t.n));
}

template <typename T>
static inline rl::memory_order order_of(enum access access, const shared<T> *word,
					rl::memory_order order, rl::debug_info_param info)
{
	if (!weakened.any || weakened.place != word->where || weakened.access != access ||
	    (!weakened.function.empty() && weakened.function != info.func_))
		return order;
	return weakened.order;
}

template <typename T>
static inline T do_load(const shared<T> *word, rl::memory_order order, rl::debug_info_param info)
{
	step();
	thread_state &t = self();
	for (unsigned i = t.n; i-- > 0;)
		if ((const void *)t.delayed[i].word == word) {
			settle_all();
			break;
		}
	return word->load(order_of(LOAD, word, order, info), info);
}

static inline void do_store(shared64 *word, uint64_t value, rl::memory_order order,
			    rl::debug_info_param info)
{
	step();
	order = order_of(STORE, word, order, info);
	word->written(info);
	if (word->ring)
		word->claimed(word->debug_value(), value, info);
	thread_state &t = self();
	if (order == rl::mo_relaxed && t.n < STORES_DELAYED_MAX && rl::rand(2)) {
		t.delayed[t.n++] = { word, value, info };
		return;
	}
	if (order != rl::mo_relaxed)
		settle_all();
	else
		for (unsigned i = t.n; i-- > 0;)
			if (t.delayed[i].word == word) {
				settle_all();
				break;
			}
	word->store(value, order, info);
}

/* Accesses the cells in the same step, and only if the compare-and-swap will succeed. */
static inline bool do_cas(shared64 *word, uint64_t *expected, uint64_t desired,
			  rl::debug_info_param info)
{
	rl::memory_order order = order_of(CAS, word, rl::mo_seq_cst, info);
	step();
	settle_all();
	rl::ctx().sched();
	rl::ctx().disable_preemption();
	if (word->debug_value() == *expected) {
		word->written(info);
		if (word->ring)
			word->claimed(*expected, desired, info);
	}
	uint64_t found = *expected;
	bool done = word->compare_exchange(rl::bool_t<false>(), found, desired, order,
					   order == rl::mo_relaxed || order == rl::mo_release ?
						   rl::mo_relaxed :
						   rl::mo_acquire,
					   info);
	rl::ctx().enable_preemption();
	*expected = found;
	return done;
}

template <typename T>
static inline T do_add(shared<T> *word, T value, rl::memory_order order, rl::debug_info_param info)
{
	step();
	settle_all();
	return word->fetch_add(value, order_of(CAS, word, order, info), info);
}

/* Hints, and words of one process: no step depends on the order of their accesses, so they are none
 * here. */
template <typename T>
static inline typename std::enable_if<std::is_integral<T>::value, T>::type
do_load(const T *word, rl::memory_order, rl::debug_info_param)
{
	return *word;
}

static inline void do_store(uint32_t *word, uint32_t value, rl::memory_order, rl::debug_info_param)
{
	*word = value;
}

#define load_relaxed(p) do_load((p), rl::mo_relaxed, $)
#define load_acquire(p) do_load((p), rl::mo_acquire, $)
#define load_seq_cst(p) do_load((p), rl::mo_seq_cst, $)
#define store_relaxed(p, v) do_store((p), (v), rl::mo_relaxed, $)
#define store_release(p, v) do_store((p), (v), rl::mo_release, $)
#define store_seq_cst(p, v) do_store((p), (v), rl::mo_seq_cst, $)
#define cas_seq_cst(p, expected, desired) do_cas((p), (expected), (desired), $)
#define add_seq_cst(p, v) do_add((p), (v), rl::mo_seq_cst, $)

#define clear_unshared(p) ((void)(p)) /* the scenarios create new ones */

/* A hint to the processor; without effect here. */
static inline void prefetch_read(const void *)
{
}

static inline void prefetch_write(const void *)
{
}

static inline void cpu_relax()
{
}

/* The real function stores pairs of words with one instruction. The halves of a pair may become
 * visible in either order. */
static inline void store_run_release(shared64 *slot, uint64_t tag, const uint64_t *word,
				     uint64_t keep, uint32_t n)
{
	for (uint32_t i = n; i > 0; i -= i > 1 ? 2 : 1) {
		uint32_t swap = i > 1 ? rl::rand(2) : 0;
		store_release(&slot[i - 1 - swap], tag | (word[i - 1 - swap] & keep));
		if (i > 1)
			store_release(&slot[i - 2 + swap], tag | (word[i - 2 + swap] & keep));
	}
}

/* The vector loads of the real function are plain and may run in any order. */
static inline uint64_t load_run_acquire(const shared64 *slot, uint64_t tag, uint64_t *word,
					uint32_t n)
{
	uint64_t differs = 0;
	uint32_t backwards = rl::rand(2);
	for (uint32_t k = 0; k < n; k++) {
		uint32_t i = backwards ? n - 1 - k : k;
		word[i] = load_acquire(&slot[i]) ^ tag;
		differs |= word[i];
	}
	return differs;
}

#endif
