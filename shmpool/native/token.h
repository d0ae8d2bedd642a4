/* SPDX-License-Identifier: Apache-2.0
 *
 * token.h - who is alive: a lock that the kernel drops when a process's memory ends.
 *
 * A process that opens a pool to change it takes a token: a write lock on one byte of the segment's
 * file (F_OFD_SETLK), held by an open file description that only a mapping keeps: its descriptor is
 * closed, and no child inherits the mapping (MADV_DONTFORK). The lock ends exactly when the
 * process's memory ends or when it executes another program, in whatever namespace it lives, and
 * before it is reaped:
 *
 *     killed, exited, or executed another program         free
 *     its children live on, however they were made        free
 *     its PID namespace was killed as a whole             free
 *     suspended, being traced, dumping its core           held
 *     its first thread has ended and others live          held
 *     it has closed every descriptor                      held
 *
 * The byte's number is the token. Numbers are handed out once in the life of a pool, from a counter
 * in the segment, so that a member whose token is free stays dead. Byte 0 and the range as a whole
 * stand for the file's name (segment.py): who removes it locks all bytes at once.
 *
 * Who may read the file can ask, with a read lock as the question, which only meets write locks: a
 * reader's own locks are never taken for life. They can keep somebody from taking a token, who is
 * told.
 *
 * Who may call what at the same time: token_state any thread; token_take and token_drop one thread
 * of the process at a time, and no fork meanwhile (opening.c holds the lock that its fork handlers
 * take): a child would inherit the descriptor that is about to be closed, and with it the lock.
 */
#ifndef SHMPOOL_TOKEN_H
#define SHMPOOL_TOKEN_H

#include "segment.h"

#define TOKEN_BITS 62

/* A token of this process; number 0 is none. */
struct token {
	uint64_t number;
	void *page; /* the mapping that keeps the lock */
};

enum token_state {
	TOKEN_FREE, /* whoever had it is dead; the number is not used again */
	TOKEN_HELD,
	TOKEN_UNKNOWN /* the question could not be asked, now */
};

/* Takes a token. 0, or: -EROFS the segment was opened to read it only; -EACCES, -EMFILE, -ENOMEM,
 * -EBADFD the file could not be opened once more; -ENOLCK there are no such locks; -EDEADLK others
 * keep the whole file locked. */
int token_take(const struct segment *s, struct token *t);

void token_drop(struct token *t);

/* The same lock on byte 0, of a file that has no pool in it yet: whoever makes it holds it until it
 * has its name. 0, and as token_take(). */
int token_hold(int fd, const char *path, void **page);
void token_let_go(void *page);

/* Whether a token is held. own is one that this process holds, or 0: it shows that the question
 * went to the right file, whatever has become of the program's descriptors. */
enum token_state token_state(const struct segment *s, uint64_t number, uint64_t own);

#endif
