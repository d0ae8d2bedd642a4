# SPDX-License-Identifier: Apache-2.0
"""An HTTP service of several processes that share one pool: python -m clients.service.

    curl --data-binary @README.md http://127.0.0.1:8080/digest

Web processes share the port. Each receives a body straight into a buffer of the pool and puts it
into the queue of jobs; a worker process computes the body's digest and puts the answer into the
queue of the web process that asked, which awaits it. Nothing is copied between the processes.

Kill any of them: a worker's job goes back to the queue, another worker answers it, and the program
starts a process in place of the dead one. Only the connections of a killed web process are lost.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import click
from aiohttp import StreamReader, web

import shmpool

from .children import Start, children

WEB_BITS = 5  # a mark says which web process asked, and which of its requests it is
LONGEST_S = 30.0  # that a request waits for its answer


async def receive(body: StreamReader, buf: shmpool.Buffer, size: int) -> None:
    """Fills a buffer, or a chain of buffers, with size bytes.

    Raises:
        aiohttp.web.HTTPBadRequest: the body ends before that.
    """
    buf.length = size
    for segment in buf.segments:
        with segment:
            at = 0
            while at < len(segment):
                chunk = await body.read(len(segment) - at)
                if not chunk:
                    raise web.HTTPBadRequest(text="The body is shorter than it says.\n")
                segment[at : at + len(chunk)] = chunk
                at += len(chunk)


class Service:
    """One web process."""

    def __init__(self, number: int, jobs: shmpool.AlfQueue, answers: shmpool.AlfQueue) -> None:
        self.number = number
        self.jobs = jobs
        self.answers = answers
        self.numbers = itertools.count(1)
        self.waiting: dict[int, asyncio.Future[bytes]] = {}

    async def digest(self, request: web.Request) -> web.Response:
        """POST /digest: the SHA-256 of the body."""
        size = request.content_length
        if size is None:
            raise web.HTTPLengthRequired(text="Say how long the body is: Content-Length.\n")
        try:
            async with asyncio.timeout(LONGEST_S):
                try:
                    buf = await self.jobs.pool.aalloc(size)
                except shmpool.PayloadTooLarge as error:
                    raise web.HTTPRequestEntityTooLarge(size, size, text=f"{error}\n") from None
                with buf:
                    await receive(request.content, buf, size)
                    mark = next(self.numbers) << WEB_BITS & 0xFFFFFFFF | self.number
                    answer = asyncio.get_running_loop().create_future()
                    buf.mark = mark
                    self.waiting[mark] = answer
                    try:
                        await self.jobs.aput(buf)
                        return web.Response(body=await answer, content_type="application/json")
                    finally:
                        del self.waiting[mark]
        except TimeoutError:
            raise web.HTTPGatewayTimeout(text=f"No answer within {LONGEST_S:g} s.\n") from None

    async def deliver(self) -> None:
        """Gives each answer to the request that waits for it, if one still does."""
        while True:
            with await self.answers.aget() as buf:
                answer = self.waiting.get(buf.mark)
                if answer is not None and not answer.done():
                    answer.set_result(bytes(buf))

    async def serve(self, host: str, port: int) -> None:
        """Serves until SIGTERM."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        app = web.Application()
        app.router.add_post("/digest", self.digest)
        runner = web.AppRunner(app)
        await runner.setup()
        delivering = loop.create_task(self.deliver())
        try:
            await web.TCPSite(runner, host, port, reuse_port=True).start()
            await ended.wait()
        finally:
            await runner.cleanup()
            delivering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await delivering


def serve(
    number: int, jobs: shmpool.AlfQueue, answers: shmpool.AlfQueue, host: str, port: int
) -> None:
    """A web process."""
    asyncio.run(Service(number, jobs, answers).serve(host, port))


def work(jobs: shmpool.AlfQueue, answers: list[shmpool.AlfQueue]) -> None:
    """A worker, until the queue of jobs has ended. A job that is delivered again is answered again:
    no request waits for the second answer."""
    with contextlib.suppress(shmpool.ShutDown):
        while True:
            with jobs.get() as job:
                digest = hashlib.sha256()
                for segment in job.segments:
                    with segment:
                        digest.update(segment)
                found = {"sha256": digest.hexdigest(), "bytes": job.length, "worker": os.getpid()}
                with jobs.pool.alloc() as answer:
                    answer.write(json.dumps(found).encode())
                    answer.mark = job.mark
                    answers[job.mark & ((1 << WEB_BITS) - 1)].put(answer)


def reserved(host: str, port: int) -> socket.socket:
    """Returns a socket that reserves the port for the web processes, and takes no connection.

    Another run of this program by the same user gets the port too: with SO_REUSEPORT the kernel
    shares a port's connections among all who listen there with that option.

    Raises:
        click.ClickException: a program listens there without SO_REUSEPORT, or is another user's; or
            the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        place.close()
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return place


def keep_running(start: Start, calls: list[tuple[Any, ...]]) -> None:
    """Starts a process for each call, and another one when it ends. Ends them at an exception."""
    running: list[BaseProcess] = []
    try:
        for call in calls:
            running.append(start(*call))  # one by one: each is known when it runs
        while True:
            ended: list[Any] = wait([process.sentinel for process in running])
            for at, process in enumerate(running):
                if process.sentinel in ended:
                    process.join()
                    click.echo(f"process {process.pid} has ended ({process.exitcode})", err=True)
                    running[at] = start(*calls[at])
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


@click.command(epilog="Example: python -m clients.service --port 8080 --web 2 --workers 4")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--web", "webs", type=click.IntRange(1, 1 << WEB_BITS), default=2, show_default=True)
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True)
@click.option("--megabytes", type=click.IntRange(1, 65536), default=64, show_default=True)
def main(host: str, port: int, webs: int, workers: int, megabytes: int) -> None:
    """Serves POST /digest until Ctrl-C. --megabytes is the size of the pool: bodies, together."""
    name = f"service-{os.getpid()}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        reserved(host, port) as place,
        shmpool.Pool.create(
            name,
            buffer_size=[1024, 65536],
            capacity=[4096, 16 * megabytes],
            queues=1 + webs,
            unlink_on_close=True,
        ) as pool,
    ):
        port = place.getsockname()[1]
        jobs = pool.create_queue("jobs", capacity=1024, on_death="requeue")
        answers = [pool.create_queue(f"answers-{i}", capacity=4096) for i in range(webs)]

        calls: list[tuple[Any, ...]] = [
            (serve, i, jobs, answers[i], host, port) for i in range(webs)
        ]
        calls += [(work, jobs, answers)] * workers
        click.echo(f"serving on http://{host}:{port}/digest")
        with contextlib.suppress(KeyboardInterrupt), children() as start:
            keep_running(start, calls)


if __name__ == "__main__":
    main()
