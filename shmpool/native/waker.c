/* SPDX-License-Identifier: Apache-2.0
 *
 * waker.c - wakers: descriptors that are readable once what is waited for may be had. What their
 * calls do: shmpool.h. Who sleeps: helper.h.
 *
 * The descriptor is an epoll instance with one member, which is always ready, and which is asked
 * for or not. So a program that closes all its descriptors and opens others never gets bytes into
 * them: epoll_ctl(2) fails where its two numbers do not stand for these two files.
 *
 * Fork: a child knows none of its parent's wakers (-ESTALE).
 *
 * Who may call what at the same time: any thread anything, with Python's lock.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "forked.h"
#include "helper.h"

/* Waits of the ring that one shmpool_waker_take() goes through. A wait that is begun again may end
 * at once, and again. The ring stays readable. */
#define TAKE_ENDED 128

/* What a waker waits for. */
struct want {
	struct want *next, **link; /* in its place */
	struct waker *waker;
	struct place *place;
	uint32_t n;
	bool fired;
};

struct waker {
	struct waker *next;
	int number;
	struct uring *ring; /* a second member; NULL for none */
	bool readable;
	struct shown shown; /* epoll, with one member, which is always readable */
	uint32_t room, fired;
	struct want **want; /* by number - 1; NULL for a free number */
};

/* Of this process: a forked child reads zeros. */
static struct waker **wakers;
static int last_number; /* a child goes on behind those of its parent */

static struct waker *find(int number)
{
	struct waker *w = wakers ? *wakers : NULL;
	while (w && w->number != number)
		w = w->next;
	return w;
}

/* Makes a descriptor readable or not. False if the program has closed it. */
static bool show(struct waker *w, bool readable)
{
	w->readable = readable;
	struct epoll_event event = { .events = readable ? EPOLLIN : 0 };
	return !epoll_ctl(w->shown.fd, EPOLL_CTL_MOD, w->shown.always, &event);
}

static void show_later(const struct shown *of)
{
	show(&(struct waker) { .shown = *of }, true);
}

/* A get may have made the descriptor unreadable before it was shown. A waker that has ended is not
 * found, and its descriptor is not closed yet: no other one has its number. */
static void hide_unfired(const struct shown *of)
{
	struct waker *w = *wakers;
	while (w && w->shown.fd != of->fd)
		w = w->next;
	if (w && !w->fired)
		show(w, false);
}

/* Closes both, unless the program has closed them. */
static void close_shown(const struct shown *of)
{
	if (!show(&(struct waker) { .shown = *of }, false))
		return;
	close(of->fd);
	close(of->always);
}

static void settle(struct want *want, uint32_t most)
{
	const bool fires = want->n <= most;
	if (fires == want->fired)
		return;
	want->fired = fires;
	want->place->armed += fires ? -1u : 1u;
	want->waker->fired += fires ? 1u : -1u;
}

static void settle_all(struct place *place, uint32_t most, struct shown_list *out,
		       const struct uring *taking)
{
	for (struct want *want = place->wants; want; want = want->next) {
		const uint32_t before = want->waker->fired;
		settle(want, most);
		const bool readable = want->waker->fired;
		if (readable == (bool)before || (taking && want->waker->ring == taking))
			continue;
		if (!readable || !out || out->n == SHOWN_MAX) {
			show(want->waker, readable);
			continue;
		}
		out->of[out->n++] = want->waker->shown;
		want->waker->readable = true;
	}
}

static int open_descriptors(struct waker *w)
{
	struct epoll_event none = { .events = 0 };
	const int fd = epoll_create1(EPOLL_CLOEXEC);
	const int always = fd < 0 ? -1 : eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	w->shown = (struct shown) { fd, always };
	if (always >= 0 && !epoll_ctl(fd, EPOLL_CTL_ADD, always, &none))
		return 0;
	int error = errno;
	if (always >= 0)
		close(always);
	if (fd >= 0)
		close(fd);
	return error == ENFILE ? -EMFILE : -error;
}

/* Lets the ring, if there can be one, make the descriptor readable too. */
static void add_ring(struct waker *w)
{
	struct epoll_event event = { .events = EPOLLIN };
	w->ring = uring_make();
	if (w->ring && epoll_ctl(w->shown.fd, EPOLL_CTL_ADD, uring_fd(w->ring), &event)) {
		uring_close(w->ring, true);
		w->ring = NULL;
	}
}

int shmpool_waker_make(int loop)
{
	int error = helper_lock();
	if (error)
		return error;
	if (!helper_show) { /* before there is a thread */
		place_settle = settle_all;
		helper_close = close_shown;
		helper_correct = hide_unfired;
		helper_show = show_later;
	}
	struct waker *w = NULL;
	if (!wakers)
		wakers = forked_zeros(sizeof(*wakers));
	if (!wakers || !(w = calloc(1, sizeof(*w))))
		error = -ENOMEM;
	else
		error = open_descriptors(w);
	if (!error && loop)
		add_ring(w);
	if (!error) {
		w->number = ++last_number;
		w->next = *wakers;
		*wakers = w;
		error = w->number;
	} else {
		free(w);
	}
	helper_unlock();
	return error;
}

int shmpool_waker_fd(int waker)
{
	int error = helper_lock();
	if (error)
		return error;
	const struct waker *w = find(waker);
	error = w ? w->shown.fd : -ESTALE;
	helper_unlock();
	return error;
}

/* Returns a free number of a waker, from 0 on, or -ENOMEM. */
static int free_number(struct waker *w)
{
	for (uint32_t i = 0; i < w->room; i++)
		if (!w->want[i])
			return (int)i;
	const uint32_t before = w->room, room = before ? 2 * before : 4;
	struct want **more = realloc(w->want, room * sizeof(struct want *));
	if (!more)
		return -ENOMEM;
	for (uint32_t i = before; i < room; i++)
		more[i] = NULL;
	w->want = more;
	w->room = room;
	return (int)before;
}

static void end(struct want **at)
{
	struct want *want = *at;
	if (want->fired)
		want->waker->fired--;
	else if (!--want->place->armed) {
		place_leave(want->place);
		helper_cancel(want->place);
	}
	*want->link = want->next;
	if (want->next)
		want->next->link = want->link;
	*at = NULL;
	free(want);
}

static int add(struct waker *w, struct place *place, uint32_t n, bool stay)
{
	const bool had = helper_count(place) >= n;
	if (had && !stay) {
		if (!place->armed)
			place_leave(place);
		return 0;
	}
	const int number = free_number(w);
	struct want *want = number < 0 ? NULL : malloc(sizeof(*want));
	if (!want) {
		if (!place->armed)
			place_leave(place);
		return -ENOMEM;
	}
	*want = (struct want) {
		.next = place->wants, .link = &place->wants, .waker = w, .place = place, .n = n
	};
	if (place->wants)
		place->wants->link = &want->next;
	place->wants = want;
	place->armed++;
	w->want[number] = want;
	if (had) {
		settle(want, n);
		show(w, true);
	} else {
		helper_sleep(place, w->ring);
	}
	if (!place->armed)
		place_leave(place);
	return number + 1;
}

int shmpool_waker_want(int waker, int pool, uint32_t index, enum shmpool_wanted what, uint32_t n,
		       int stay)
{
	struct place *place;
	int result = helper_lock();
	if (result)
		return result;
	struct waker *w = find(waker);
	result = w ? helper_place((uint32_t)pool, index, what, &place) : -ESTALE;
	if (!result)
		result = add(w, place, n, stay);
	helper_unlock();
	return result;
}

void shmpool_waker_drop(int waker, int want)
{
	if (helper_lock())
		return;
	struct waker *w = find(waker);
	if (w && want > 0 && (uint32_t)want <= w->room && w->want[want - 1]) {
		if (w->want[want - 1]->fired)
			place_pass_on(w->want[want - 1]->place);
		end(&w->want[want - 1]);
		if (!w->fired)
			show(w, false);
	}
	helper_unlock();
}

void shmpool_waker_close(int waker)
{
	if (helper_lock())
		return;
	struct waker **link = wakers;
	while (link && *link && (*link)->number != waker)
		link = &(*link)->next;
	struct waker *w = link ? *link : NULL;
	if (w) {
		*link = w->next;
		for (uint32_t i = 0; i < w->room; i++) {
			if (w->want[i] && w->want[i]->fired)
				place_pass_on(w->want[i]->place);
			if (w->want[i])
				end(&w->want[i]);
		}
		if (w->ring)
			helper_forget(w->ring);
		if (w->ring)
			uring_close(w->ring, show(w, false)); /* false: the program has closed it */
		helper_end(&w->shown);
		free(w->want);
		free(w);
	}
	helper_unlock();
}

int shmpool_waker_take(int waker, int *wants, size_t n)
{
	int error = helper_lock();
	if (error)
		return error;
	struct waker *w = find(waker);
	size_t taken = 0;
	struct place *place;
	for (uint32_t i = 0; w && w->ring && i < TAKE_ENDED && (place = uring_ended(w->ring)); i++)
		helper_woken(place);
	for (uint32_t i = 0; w && i < w->room && taken < n && w->fired; i++)
		if (w->want[i] && w->want[i]->fired) {
			wants[taken++] = (int)i + 1;
			end(&w->want[i]);
		}
	if (w && !w->fired && (w->readable || !taken))
		show(w, false);
	helper_unlock();
	return w ? (int)taken : -ESTALE;
}

int shmpool_waker_refresh(int waker)
{
	int error = helper_lock();
	if (error)
		return error;
	struct waker *w = find(waker);
	for (uint32_t i = 0; w && i < w->room; i++) {
		struct want *want = w->want[i];
		if (!want)
			continue;
		settle(want, helper_count(want->place));
		if (want->place->armed)
			helper_sleep(want->place, NULL);
		else
			place_leave(want->place);
	}
	error = !w ? -ESTALE : show(w, w->fired) ? (int)w->fired : -EBADF;
	helper_unlock();
	return error;
}

void shmpool_taken(int waker)
{
	shmpool_waker_refresh(waker);
}
