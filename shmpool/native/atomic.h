/* SPDX-License-Identifier: Apache-2.0
 *
 * atomic.h - the atomics of shmpool, with the memory order in the name.
 *
 * Only here stands __ATOMIC_: a model checker or a sanitizer swaps this one file. Everything works
 * on plain fixed-width words, because they lie in memory that several processes share.
 *
 * There is no bare thread fence: ThreadSanitizer cannot see one. The exceptions are
 * barrier_asymmetric(), whose other half is the membarrier(2) system call (member.c), and
 * barrier_loads(), in whose place nothing else can stand.
 */
#ifndef SHMPOOL_ATOMIC_H
#define SHMPOOL_ATOMIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CACHE_LINE 64

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* For what is to be compiled anew for each constant argument: gcc -O2 would keep one copy of it out
 * of line, where n == 1 and single are variables. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Words that several processes work on at once: their types in atomic.h, so that a model checker
 * can put its own in their place. */
typedef uint64_t shared64;
typedef uint16_t shared16;
typedef uint8_t shared8;

/* Zeroes an object that nobody else sees yet. */
#define clear_unshared(p) __builtin_memset((p), 0, sizeof(*(p)))

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_seq_cst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_seq_cst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define add_seq_cst(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)

/* On failure *expected becomes the value found, read with acquire (relaxed would let a loop act on
 * words older than the one it found). */
#define cas_seq_cst(p, expected, desired)                                                          \
	__atomic_compare_exchange_n((p), (expected), (desired), false, __ATOMIC_SEQ_CST,           \
				    __ATOMIC_ACQUIRE)

/* A counter that one thread writes and others only read: a plain increment, no locked instruction.
 * Compilers make three instructions of an atomic load, an addition and an atomic store. */
static ALWAYS_INLINE void count_up(uint64_t *p, uint64_t v)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
	__asm__("addq %1, %0" : "+m"(*p) : "er"(v) : "cc");
#else
	store_relaxed(p, load_relaxed(p) + v);
#endif
}

/* Keeps the compiler from moving memory accesses across; the processor is held by the other side's
 * membarrier(2). Costs nothing where it stands. */
static inline void barrier_asymmetric(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Whether all others see a processor's stores in the order in which it makes them. Where they do
 * not, a reader that writes nothing orders the stores of others by membarrier(2) (letters.c). */
#if defined(__x86_64__)
#define STORES_IN_ORDER true
#else
#define STORES_IN_ORDER false
#endif

/* Keeps the loads before it before those after it: for a reader that copies what others may be
 * writing and asks afterwards whether they were (letters.c). It changes nothing in memory, which
 * may be mapped read-only. */
static inline void barrier_loads(void)
{
#if defined(__x86_64__)
	__atomic_signal_fence(__ATOMIC_ACQUIRE); /* the processor keeps loads in order */
#elif defined(__aarch64__)
	__asm__ __volatile__("dmb ishld" : : : "memory");
#else
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__asm__ __volatile__("pause");
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

/* Fetches a line before it is needed. Does not fault, wherever p points. */
static inline void prefetch_read(const void *p)
{
	__builtin_prefetch(p, 0, 3);
}

/* The same, and takes it from whoever else has it. */
static inline void prefetch_write(const void *p)
{
#if defined(__x86_64__)
	/* The compiler's own is a prefetch to read without -mprfchw. Every x86-64 processor since
	 * 2005 takes it, some as no operation. */
	__asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)p));
#else
	__builtin_prefetch(p, 1, 3);
#endif
}

/* Where every store already is a release and every load an acquire, a run of words may be moved
 * with vector instructions: each aligned 64-bit lane is still written and read whole. Elsewhere,
 * and under ThreadSanitizer, which must see them, the words of a run are atomics one by one. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(SHMPOOL_ATOMIC_RUNS)
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHMPOOL_ATOMIC_RUNS 1
#endif
#endif
#else
#define SHMPOOL_ATOMIC_RUNS 1
#endif

#ifndef SHMPOOL_ATOMIC_RUNS
typedef uint64_t word2 __attribute__((vector_size(16), aligned(8), may_alias));
#endif

/* slot[i] = tag | (word[i] & keep) for i in [0, n), n at least 1, slot[0] last, each with release. What comes
 * before slot[0] may come in any order: nobody acts on it before slot[0] is there. */
static inline void store_run_release(shared64 *slot, uint64_t tag, const uint64_t *word,
				     uint64_t keep, uint32_t n)
{
	uint32_t i = n;
#ifndef SHMPOOL_ATOMIC_RUNS
	const word2 tags = { tag, tag }, kept = { keep, keep };
	if (i & 1) {
		i--;
		store_release(&slot[i], tag | (word[i] & keep));
	}
	/* In pairs as load_run_acquire() reads them: a wider load of words just stored one by one
	 * would wait for the store buffer to drain. */
	barrier_asymmetric(); /* the stores stay behind whatever the caller wrote before */
#pragma GCC unroll 4
	for (; i > 2; i -= 2)
		*(word2 *)&slot[i - 2] = tags | (*(const word2 *)&word[i - 2] & kept);
	/* The first two one by one: where a cache line ends between them, a processor makes two
	 * stores of one to both, in any order, and slot[0] would be seen without slot[1]. */
	if (likely(i)) {
		store_release(&slot[1], tag | (word[1] & keep));
		store_release(&slot[0], tag | (word[0] & keep));
	}
#else
	while (i--)
		store_release(&slot[i], tag | (word[i] & keep));
#endif
}

/* word[i] = slot[i] ^ tag for i in [0, n), each with acquire. Returns the bits, OR-ed over the run,
 * in which any slot differs from tag. */
static inline uint64_t load_run_acquire(const shared64 *slot, uint64_t tag, uint64_t *word,
					uint32_t n)
{
	uint64_t differs = 0;
	uint32_t i = n;
#ifndef SHMPOOL_ATOMIC_RUNS
	const word2 tags = { tag, tag };
	word2 wide = { 0, 0 };
	if (i & 1) {
		i--;
		differs = word[i] = load_acquire(&slot[i]) ^ tag;
	}
	if (i & 2) {
		i -= 2;
		word2 pair = *(const word2 *)&slot[i] ^ tags;
		*(word2 *)&word[i] = pair;
		wide |= pair;
	}
#pragma GCC unroll 2
	for (const shared64 *end = slot + i; slot != end; slot += 4, word += 4) {
		word2 low = *(const word2 *)&slot[0] ^ tags;
		word2 high = *(const word2 *)&slot[2] ^ tags;
		*(word2 *)&word[0] = low;
		*(word2 *)&word[2] = high;
		wide |= low | high;
	}
	differs |= wide[0] | wide[1];
	barrier_asymmetric(); /* the loads stay before whatever the caller does next */
#else
	while (i--)
		differs |= word[i] = load_acquire(&slot[i]) ^ tag;
#endif
	return differs;
}

#endif
