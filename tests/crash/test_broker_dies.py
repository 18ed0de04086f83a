"""What a dying broker does to the connection of a worker."""

from jobs.dispatch import EXECUTE, QUEUE_NAME, create_celery
from jobs.settings import load_settings
from tests.support.valkey import ValkeyServer


def test_a_worker_outlives_a_broker_that_dies_while_a_message_is_in_hand(valkey: ValkeyServer) -> None:
    app = create_celery(load_settings(redis_url=valkey.url, data_dir="unused"))
    app.send_task(EXECUTE, args=("resp_1",), ignore_result=True)
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.basic_get(QUEUE_NAME)
        assert message is not None
        assert channel.qos._delivered
        valkey.kill()
        channel._pool = None
        channel.connection.client = None  # as Celery's consumer finds it
        channel.close()  # raised AttributeError, and the worker ended
    app.close()
