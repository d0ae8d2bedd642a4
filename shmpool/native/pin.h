/* SPDX-License-Identifier: Apache-2.0
 *
 * pin.h - a pool's data registered with a device's driver in this process, so that the device
 * copies from and to it directly (cuMemHostRegister).
 *
 * The data is registered in units. A unit is the smallest run of extents that begins and ends on a
 * page's border: one extent in most pools. A page can be registered once, and a device copies
 * nothing that is registered in part or spans two registrations, so every buffer is whole in one
 * registration or in none. A unit is registered when all of its extents are present. Neighbouring
 * units are registered together, up to PIN_PIECE at a time.
 *
 * The process has a pin as long as anything is registered (token.h), so that no extent's memory is
 * removed. Dead processes have none: their end ends the device's accesses too.
 *
 *     state         by, in                    a crash then leaves
 *     not pinned
 *     pin taken     pin_begin()               nothing: the kernel drops the pin
 *     registered    pin_more()                the same; the driver ends the registrations
 *     not pinned    pin_end(): unregisters,   the same
 *                   then drops the pin
 *
 * A forked child has no pin and no registrations. struct pin lies in memory that it reads as zeros.
 *
 * Who may call what at the same time: any thread anything, but pin_begin one thread; a pool's last
 * pin_end comes after all others have returned, and before the mapping ends. pin_more and
 * pin_end wait for each other.
 */
#ifndef SHMPOOL_PIN_H
#define SHMPOOL_PIN_H

#include <pthread.h>

#include "pool.h"

#define PIN_PIECE (16ull << 20) /* bytes: some milliseconds of the driver */

struct pin {
	pthread_mutex_t lock; /* all zeros: unlocked */
	void *page;           /* of token_pin(); NULL: not pinned */
	struct shmpool_driver driver;
	struct pin_unit *unit;
	uint64_t units;
	uint64_t bytes;  /* registered */
	uint32_t behind; /* nonzero: a unit is present and not registered, or none was read yet */
	uint32_t stop;   /* nonzero: pin_end() waits for pin_more() */
	int error;       /* of the driver, when it refused last; 0: it did not */
};

/* Begins to pin the pool, which is not pinned. page is of token_pin(). Returns 0, or -ENOMEM; then
 * the caller lets the page go. */
int pin_begin(struct pin *pin, struct qmempool *p, const struct shmpool_driver *driver, void *page);

/* Lets pin_more() try again what the driver refused. */
void pin_retry(struct pin *pin);

/* Registers one piece of what is present and not registered. Returns 1 if there may be more, 0 if
 * there is nothing to do, -ENOENT if the pool is not pinned. If the driver refuses, keeps what is
 * registered, stores the driver's error and returns 0, now and until pin_retry(). */
int pin_more(struct pin *pin, struct qmempool *p);

/* Unregisters all and drops the pin. Does nothing if the pool is not pinned. */
void pin_end(struct pin *pin, const struct qmempool *p);

void pin_read(const struct pin *pin, struct qmempool *p, struct shmpool_pinned *out);

#endif
