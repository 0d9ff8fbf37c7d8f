"""Celery's settings: data only. URLs come from DATASHUNT_*; datashunt.broker.configure fills them in."""

from kombu import Exchange, Queue

task_default_queue = "intake"
task_queues = [
    Queue(name, Exchange("datashunt", type="direct"), routing_key=name, durable=True)
    for name in ("score", "llm", "distil", "intake")
]
task_default_exchange = "datashunt"
task_default_routing_key = "intake"
task_routes = {
    "datashunt.score": {"queue": "score"},
    "datashunt.ask": {"queue": "llm"},
    "datashunt.batch": {"queue": "llm"},
    "datashunt.distil": {"queue": "distil"},
    "datashunt.certify": {"queue": "distil"},
    "datashunt.submit": {"queue": "intake"},
    "datashunt.tick": {"queue": "intake"},
}
task_create_missing_queues = False

# JSON only, both ways; results live in PostgreSQL, not in a result backend
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
task_ignore_result = True

# a wake-up is acknowledged before it is worked on: the row is the truth, and tick the redelivery.
# Only datashunt.submit acknowledges late (workers/intake.py).
task_acks_late = False
worker_prefetch_multiplier = 1

broker_connection_retry_on_startup = True
broker_transport_options = {
    # an unacknowledged submit is redelivered after a minute; it takes well under a second
    "visibility_timeout": 60,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_timeout": 30,
    "socket_connect_timeout": 10,
    "socket_keepalive": True,
    "health_check_interval": 10,
}
worker_cancel_long_running_tasks_on_connection_loss = False
# after a lost connection Celery would lower the prefetch, and raise it again from the threads of the pool. Over AMQP
# each of these waits for an answer on the connection that the worker's loop reads: they take each other's bytes, and
# the worker stands still until its heartbeat
worker_enable_prefetch_count_reduction = False
# Celery's default is an exclusive queue. While a RabbitMQ does not know yet that a connection is dead (a host without
# power, a broken line), a worker of the same name could not start, nor the same worker connect anew
control_queue_exclusive = False
control_queue_durable = True  # newer ones refuse queues that are neither; it expires when nobody listens
worker_hijack_root_logger = False
worker_send_task_events = False
worker_soft_shutdown_timeout = 0

# due rows in PostgreSQL are the memory, so beat needs no file (the default one is a pickle)
beat_scheduler = "celery.beat:Scheduler"
beat_schedule = {
    "tick": {
        "task": "datashunt.tick",
        "schedule": 5.0,
        "options": {"expires": 30, "confirm_timeout": 10},  # seconds; RabbitMQ alone confirms
    }
}
