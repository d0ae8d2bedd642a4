/* SPDX-License-Identifier: Apache-2.0
 *
 * atomic.h - the atomics of shmpool, with the memory order in the name.
 *
 * This is the only file that names the compiler's atomics, so that a model checker can replace it.
 * All functions work on plain fixed-width words, because the words lie in memory that several
 * processes share.
 *
 * No code uses a bare thread fence, because ThreadSanitizer cannot see one. There are two
 * exceptions: barrier_asymmetric(), whose other side is the membarrier(2) system call (process.c),
 * and barrier_loads(), which nothing else can replace.
 */
#ifndef SHMPOOL_ATOMIC_H
#define SHMPOOL_ATOMIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CACHE_LINE 64

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* For functions that must be compiled once for each constant argument. gcc -O2 would keep one copy
 * out of line, in which n == 1 and the side are variables. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Types of words that several processes access; a model checker replaces them by its own. */
typedef uint64_t shared64;
typedef uint32_t shared32;
typedef uint16_t shared16;
typedef uint8_t shared8;

/* Zeroes an object that no other thread sees yet. */
#define clear_unshared(p) __builtin_memset((p), 0, sizeof(*(p)))

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_seq_cst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_seq_cst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define add_seq_cst(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)

/* True if *p was *expected and is desired now. Otherwise *expected becomes the value found, read
 * with acquire: with relaxed, a loop could act on words older than the one it found. */
#define cas_seq_cst(p, expected, desired)                                                          \
	__atomic_compare_exchange_n((p), (expected), (desired), false, __ATOMIC_SEQ_CST,           \
				    __ATOMIC_ACQUIRE)

/* Adds to a counter that one thread writes and others only read: one instruction, without a lock
 * prefix. Compilers make three of an atomic load, an addition and an atomic store. */
static ALWAYS_INLINE void count_up(uint64_t *p, uint64_t v)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
	__asm__("addq %1, %0" : "+m"(*p) : "er"(v) : "cc");
#else
	store_relaxed(p, load_relaxed(p) + v);
#endif
}

/* True if *p is v, read relaxed: one instruction. Compilers make two of an atomic load and a
 * comparison. */
static ALWAYS_INLINE bool equals_relaxed(const uint64_t *p, uint64_t v)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
	bool equal;
	__asm__("cmpq %2, %1" : "=@cce"(equal) : "m"(*p), "r"(v));
	return equal;
#else
	return load_relaxed(p) == v;
#endif
}

/* Compiler barrier. The other side's membarrier(2) is the barrier for the processor, so that this
 * side costs nothing. */
static inline void barrier_asymmetric(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* True if all other processors see one processor's stores in the order in which it makes them.
 * Where they do not, a reader that writes nothing orders the stores of others by membarrier(2)
 * (letters.c). */
#if defined(__x86_64__)
#define STORES_IN_ORDER true
#else
#define STORES_IN_ORDER false
#endif

/* Orders the loads before it before the loads after it: for a reader that copies data which others
 * may be writing and checks afterwards whether they did (a seqlock's reader; letters.c, figures.c).
 * It writes nothing, so the memory may be mapped read-only. */
static inline void barrier_loads(void)
{
#if defined(__x86_64__)
	__atomic_signal_fence(__ATOMIC_ACQUIRE); /* x86-64 does not reorder loads */
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

/* Prefetches a line for reading. Never faults, wherever p points. */
static inline void prefetch_read(const void *p)
{
	__builtin_prefetch(p, 0, 3);
}

/* Prefetches a line for writing: takes it from the cache of another core. */
static inline void prefetch_write(const void *p)
{
#if defined(__x86_64__)
	/* Without -mprfchw the compiler's builtin prefetches for reading. Every x86-64 processor
	 * since 2005 accepts this instruction, some as no operation. */
	__asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)p));
#else
	__builtin_prefetch(p, 1, 3);
#endif
}

/* On x86-64 every store is a release and every load an acquire, and each aligned 64-bit lane of a
 * vector is written and read whole. So runs of words are moved with vector instructions there.
 * Elsewhere, and under ThreadSanitizer, which must see them, each word of a run is an atomic. */
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

/* Stores slot[i] = tag | (word[i] & keep) for i in [0, n), n at least 1, each with release and
 * slot[0] last. The others may be stored in any order: nobody acts on them before slot[0]. */
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
	/* In pairs, as load_run_acquire() reads them. */
	barrier_asymmetric(); /* keeps the stores behind what the caller wrote before */
#pragma GCC unroll 4
	for (; i > 2; i -= 2)
		*(word2 *)&slot[i - 2] = tags | (*(const word2 *)&word[i - 2] & kept);
	/* The first two one by one: if a cache line ends between them, a processor splits a wide
	 * store into two, in any order, and slot[0] would become visible without slot[1]. */
	if (likely(i)) {
		store_release(&slot[1], tag | (word[1] & keep));
		store_release(&slot[0], tag | (word[0] & keep));
	}
#else
	while (i--)
		store_release(&slot[i], tag | (word[i] & keep));
#endif
}

/* Loads word[i] = slot[i] ^ tag for i in [0, n), each with acquire. Returns the bitwise OR of all
 * words: the bits in which any slot differs from tag. */
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
	/* The first two one by one, as store_run_release() stores them: a load that is wider than a
	 * store before it waits until that store is in the cache. On one core that took 7 ns. */
	if (likely(i)) {
		differs |= word[0] = load_acquire(&slot[0]) ^ tag;
		differs |= word[1] = load_acquire(&slot[1]) ^ tag;
		slot += 2;
		word += 2;
		i -= 2;
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
	barrier_asymmetric(); /* keeps the loads before what the caller does next */
#else
	while (i--)
		differs |= word[i] = load_acquire(&slot[i]) ^ tag;
#endif
	return differs;
}

#endif
