import os

import shmpool

pool = shmpool.Pool.create(None, buffer_size=2048, capacity=4096)
work = pool.create_queue("work", capacity=1024, on_death="requeue")
work.send(b"hello")
if os.fork() == 0:  # a worker
    buf = work.get()  # takes the message
    os.kill(os.getpid(), 9)  # and is killed with it
os.wait()
with work.get(timeout=10) as buf:  # the message is back
    print(bytes(buf), "redelivered:", buf.redelivered)
