/* SPDX-License-Identifier: Apache-2.0
 *
 * guard.c - see guard.h. The handler makes one mmap(2) call and takes no lock.
 */
#define _GNU_SOURCE
#include "guard.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

struct mapping {
	char *base;
	uint64_t size;
};

static _Thread_local struct mapping watched __attribute__((tls_model("initial-exec")));
static _Thread_local bool gone __attribute__((tls_model("initial-exec")));
static struct sigaction before;
static uint32_t installed;

static bool zeros_instead(struct mapping m, const char *at)
{
	if (!m.base || at < m.base || at >= m.base + m.size)
		return false;
	return mmap(m.base, m.size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static bool caught(const char *at)
{
	if (zeros_instead(watched, at))
		return gone = true;
	for (uint32_t i = 0; i < OPENING_POOLS_MAX; i++) {
		struct qmempool *p = &opening_pools[i];
		struct mapping m = { p->segment.base, p->segment.size };
		if (!p->buffers || !zeros_instead(m, at))
			continue;
		store_relaxed(&p->serial, load_relaxed(&p->serial) | OPENING_GONE);
		store_relaxed(&p->closing, 1);
		return true;
	}
	return false;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	int saved = errno;
	if (!caught(info->si_addr)) {
		if (before.sa_flags & SA_SIGINFO)
			before.sa_sigaction(number, info, context);
		else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
			before.sa_handler(number);
		else
			/* The access faults again, and the default action ends the process. */
			sigaction(number, &before, NULL);
	}
	errno = saved;
}

/* Installs the handler. Further calls do nothing. */
static void install(void)
{
	struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
	uint32_t no = 0;
	if (!cas_seq_cst(&installed, &no, 1)) /* pairs with itself: one thread installs */
		return;
	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, &before); /* cannot fail */
}

void guard_watch(char *base, uint64_t size)
{
	install();
	gone = false;
	watched = (struct mapping) { base, size };
}

int guard_watched(int result)
{
	watched.base = NULL;
	return gone ? -EBADMSG : result;
}

bool guard_intact(uint32_t number)
{
	const struct qmempool *p = opening_pool(number);
	return p && load_relaxed(&segment_header(&p->segment)->magic) == LAYOUT_MAGIC;
}
