/* SPDX-License-Identifier: Apache-2.0
 *
 * token.h - which processes are alive: a lock that the kernel drops when a process's memory ends.
 *
 * A process that opens a pool for writing takes a token: a write lock (F_OFD_SETLK) on one byte of
 * the segment's file. The number of the byte is the token. The lock belongs to an open file
 * description that only a mapping keeps: its descriptor is closed, and children do not inherit the
 * mapping (MADV_DONTFORK). So the lock ends exactly when the process's memory ends or the process
 * executes another program, in any PID namespace, and before the process is reaped:
 *
 *     the process                                              its lock is
 *     was killed, has exited, or has executed another program  free
 *     was killed, and children that it forked live on          free
 *     was in a PID namespace that was killed as a whole        free
 *     is suspended, traced, or dumping core                    held
 *     has lost its first thread, and others live               held
 *     has closed every descriptor                              held
 *
 *     steps of token_take()          a crash after it leaves
 *     open the file again            nothing: the kernel closes the descriptor
 *     count pool_shared.tokens up    a number that is never used
 *     lock the byte                  nothing: the lock ends with the descriptor
 *     map one page, MADV_DONTFORK    nothing: the lock ends with the memory
 *     close the descriptor           the same
 *
 * Numbers come from a counter in the segment and are handed out once in a pool's life. So a member
 * whose token is free stays dead. Byte 0 is locked by the process that creates the file. A process
 * that removes the file's name locks all bytes for a moment (pool_files.py).
 *
 * A process that may read the file can ask which tokens are held. It asks with a read lock, which
 * conflicts with write locks only, so the read locks of other readers never count as a live
 * process. Such a read lock can keep a process from taking a token; that process gets an error.
 *
 * A pin is a second lock of the same kind. A process takes it before it registers the pool's memory
 * with a device (pin.h), and drops it after it has unregistered that. Its byte is above
 * all tokens and above those of daemons (token.c).
 *
 * A process takes its pin, and then reads the extents' words. A member that is about to remove an
 * extent's memory changes its word, and then asks for pins. The kernel's own lock of the file's
 * list of locks orders the two calls: either the member finds the pin, or the process reads the
 * changed word. The kernel reads an empty list without that lock, but the list is never empty: the
 * member's token is in it.
 *
 * Who may call what at the same time: token_state and token_pinned any thread. The others one
 * thread of the process at a time, and no thread may fork during the call: a child would inherit
 * the descriptor that is about to be closed, and with it the lock. opening.c takes the lock that
 * its fork handlers take.
 */
#ifndef SHMPOOL_TOKEN_H
#define SHMPOOL_TOKEN_H

#include "segment.h"

#define TOKEN_BITS 62

/* A token of this process; number 0 for none. */
struct token {
	uint64_t number;
	void *page; /* the mapping that keeps the lock */
};

enum token_state {
	TOKEN_FREE, /* the process that had it is dead; the number is not used again */
	TOKEN_HELD,
	TOKEN_UNKNOWN /* the kernel could not be asked now */
};

/* Takes a token. Returns 0; -EROFS if the segment was opened for reading only; -EACCES, -EMFILE,
 * -ENOMEM, -EBADFD if the file could not be opened again; -ENOLCK if the kernel or the file system
 * has no such locks; -EDEADLK if other processes keep the whole file locked. */
int token_take(const struct segment *s, struct token *t);

void token_drop(struct token *t);

/* Takes the same lock on byte 0 of a file that is no pool yet. The creator holds it until the file
 * has its name, so that no process removes the file. Returns 0, or -EACCES, -EMFILE, -ENOMEM,
 * -EBADFD, -ENOLCK, -EDEADLK as token_take(). */
int token_hold(int fd, const char *path, void **page);
void token_let_go(void *page);

/* Returns whether a token is held. own is a token of this process, or 0. It proves that the right
 * file was asked: if the file seems to know no lock on own either, the result is TOKEN_UNKNOWN. */
enum token_state token_state(const struct segment *s, uint64_t number, uint64_t own);

/* Takes the pin of the process that has token number. Returns 0, or an error of token_take().
 * token_let_go() drops it. */
int token_pin(const struct segment *s, uint64_t number, void **page);

/* True if a live process has a pin, or if the kernel could not be asked now. own as above. */
bool token_pinned(const struct segment *s, uint64_t own);

#endif
