"""A commit that the standby has not confirmed is not called done, whatever becomes of the wait for it.

Broken on purpose, and noticed: what the server warned of was overlooked; a commit without an answer was called done.
"""

import concurrent.futures
import contextlib

from cluster_away import ANSWER, REFUSED, UNKNOWN, Away
from harness import PATIENCE, main, until


class Unconfirmed(Away):
    """The standby is not there: what is committed on the primary alone may be lost with it."""

    nodes, standby = 1, True

    @contextlib.contextmanager
    def waiting(self, key):
        """A PUT that waits for the standby; its answer in a future. The standby is back afterwards."""
        standby = self.cluster.standby
        standby.stop()
        try:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                future = pool.submit(self.put, key)
                until(self.waiters, "the commit waits for the standby", PATIENCE)
                yield future
                future.result(PATIENCE)
        finally:
            if not standby.is_running:
                standby.start()

    def waiters(self):
        return [pid for pid, in self.cluster.primary.ask("select pid from pg_stat_activity where wait_event = 'SyncRep'")]

    def check_not_done(self, future, what):
        answer = future.result(ANSWER)
        self.assertEqual(self.told(answer), UNKNOWN, f"{what}: {answer}")

    def test_a_commit_that_nobody_confirms_is_unknown(self):
        with self.waiting("lonely") as future:
            self.check_not_done(future, "not confirmed")
        self.check_back("after the standby is back")

    def test_a_wait_that_is_cancelled_is_unknown(self):
        with self.waiting("cancelled") as future:
            for pid in self.waiters():
                self.cluster.primary.ask("select pg_cancel_backend(?)", (pid,))
            self.check_not_done(future, "the wait was cancelled")
        self.check_back("after the standby is back")

    def test_a_wait_that_is_cut_is_unknown(self):
        with self.waiting("cut") as future:
            self.cluster.terminate(self.waiters())
            self.check_not_done(future, "the connection was cut")
        self.check_back("after the standby is back")

    def test_what_a_primary_kept_to_itself_is_not_called_done_when_it_is_asked_again(self):
        with self.waiting("kept") as future:
            # The wait ends with the server, and after the start everything is there to be read: on the primary alone.
            self.cluster.primary.restart("fast")
            answer = future.result(ANSWER)
            self.cluster.primary.kill()
        self.assertIn(self.told(answer), REFUSED | {UNKNOWN})
        self.cluster.promote()
        self.check_back("after the standby took over")
        self.assertEqual(self.get("kept").status, 404)


if __name__ == "__main__":
    main()
