"""No connection to a server that takes no writes any more is kept."""

from jobs.store.database import Database
from tests.support.postgres import Databases, Primary, Standby, either
from tests.support.waiting import await_until


def test_connections_go_to_the_successor() -> None:
    with Primary() as primary:
        url = Databases(primary.url).empty()
        with Standby(primary) as standby:
            database = Database(either(primary, standby, url))
            with database.read() as one, database.read() as other:
                ports = {each.exec_driver_sql("SHOW port").scalar_one() for each in (one, other)}
            assert ports == {str(primary.port)}
            await_until(standby.follows, 10, "the standby does not follow")
            primary.demote()
            standby.promote()
            await_until(lambda: _is_written(database), 10, "nothing is written")
            with database.read() as one, database.read() as other:
                ports = {each.exec_driver_sql("SHOW port").scalar_one() for each in (one, other)}
            assert ports == {str(standby.port)}
            database.close()


def _is_written(database: Database) -> bool:
    try:
        with database.begin() as tx:
            tx.exec_driver_sql("CREATE TABLE IF NOT EXISTS written (id int)")
    except Exception as error:
        if "read-only" not in str(error):
            raise
        return False
    return True
