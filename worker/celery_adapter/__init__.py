"""Everything that adapts Celery and gevent to calls that last for minutes, in one place.

- `restart`: `celery -A worker.main worker` starts itself again, as gevent has to patch before anything is imported.
- `command`: Celery's worker command without Celery's other commands, which cost memory.
- `patches`: what is replaced in kombu, gevent and Celery.
- `options`: the options a worker always has, and those it refuses, as it would take no work with them.
- `lifecycle`: starts and stops our parts with Celery's. Its own handlers wait where gevent allows no waiting.
- `shutdown`: ends the process once it holds nothing. Celery would wait for a broker that is away.
- `pool`: a pool without time limits and termination, which would lose calls that are billed.
- `consumer`: takes the next message as soon as a slot is free, and survives malformed ones.
- `subscribed_queues`: whether the consumer takes messages, for the heartbeat.
- `remote_control`: refuses commands that anybody with access to the broker could send.
- `resolver`: spares a thread where gevent is asked to resolve an IP address.
- `flower_auth`: asks for Flower's password on its metrics page too.
"""
