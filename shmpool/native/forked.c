/* SPDX-License-Identifier: Apache-2.0
 *
 * forked.c - see forked.h.
 */
#define _GNU_SOURCE
#include "forked.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "atomic.h"

#define NO_ADVICE (-1) /* no kernel has an advice of this number */
#define PAGE 4096

/* What a child's fork handler does by hand; empty where the kernel does it. */
static struct area {
	void *at;
	size_t size;
	bool absent; /* else zeros */
	struct area *next;
} *areas;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

bool forked_by_kernel(void)
{
	static uint32_t known; /* 1: the kernel, 2: by hand */
	if (!load_relaxed(&known)) {
		void *page = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		const bool heeded = page == MAP_FAILED || madvise(page, PAGE, NO_ADVICE);
		if (page == MAP_FAILED)
			return true;
		munmap(page, PAGE);
		store_relaxed(&known, heeded ? 1 : 2);
	}
	return load_relaxed(&known) == 1;
}

/* Notes an area, if it is done by hand. Returns 0, or -1 with errno. */
static int note(void *at, size_t size, bool absent)
{
	if (forked_by_kernel())
		return 0;
	struct area *a = malloc(sizeof(*a));
	if (!a) {
		errno = ENOMEM;
		return -1;
	}
	pthread_mutex_lock(&lock);
	*a = (struct area) { at, size, absent, areas };
	areas = a;
	pthread_mutex_unlock(&lock);
	return 0;
}

void *forked_zeros(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return NULL;
	if (madvise(at, size, MADV_WIPEONFORK) == 0 && note(at, size, false) == 0)
		return at;
	munmap(at, size);
	return NULL;
}

int forked_absent(void *at, size_t size)
{
	return madvise(at, size, MADV_DONTFORK) ? -1 : note(at, size, true);
}

void forked_unmap(void *at, size_t size)
{
	if (forked_by_kernel()) {
		munmap(at, size);
		return;
	}
	/* In one step: a child that is forked between has neither the mapping nor its address. */
	pthread_mutex_lock(&lock);
	munmap(at, size);
	for (struct area **link = &areas; *link; link = &(*link)->next) {
		struct area *a = *link;
		if (a->at == at) {
			*link = a->next;
			free(a);
			break;
		}
	}
	pthread_mutex_unlock(&lock);
}

void forked_before(void)
{
	pthread_mutex_lock(&lock);
}

void forked_parent(void)
{
	pthread_mutex_unlock(&lock);
}

void forked_child(void)
{
	struct area **link = &areas;
	while (*link) {
		struct area *a = *link;
		if (a->absent) {
			munmap(a->at, a->size);
			*link = a->next;
			free(a);
		} else {
			memset(a->at, 0, a->size);
			link = &a->next;
		}
	}
	pthread_mutex_unlock(&lock);
}
