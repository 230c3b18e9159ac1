"""The RabbitMQ of the tests itself: it survives what it should, leaves nothing behind, and runs as root and as anybody."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from rabbitmq_server import Queue, RabbitmqServer, account, pika, poll

HERE = os.path.dirname(os.path.abspath(__file__))
OWNER = """
import os, signal
from rabbitmq_server import RabbitmqServer
server = RabbitmqServer()
print(server.folder, server.process.pid, server.epmd.pid, os.getuid(), flush=True)
signal.pause()
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Server(unittest.TestCase):
    def test_what_is_durable_is_back_after_every_way_to_end(self):
        with RabbitmqServer() as server:
            with Queue(server) as queue:
                name = queue.name
            for end in (server.stop, server.kill):
                with Queue(server, name=name) as queue:
                    queue.channel.confirm_delivery()
                    queue.channel.basic_publish("kv.events", "a", b"x", pika.BasicProperties(delivery_mode=2))
                end()
                self.assertFalse(server.is_running)
                server.start()
                with Queue(server, name=name) as queue:
                    self.assertEqual([body for _, _, body in queue.take()], [b"x"])
            folder, pids = server.folder, (server.process.pid, server.epmd.pid)
        poll(lambda: not any(map(is_alive, pids)) and not os.path.exists(folder), "nothing is left")


class Owner(unittest.TestCase):
    """The server of a process that is killed goes with it."""

    def check(self, python=sys.executable, **options):
        with subprocess.Popen([python, "-B", "-c", OWNER], stdout=subprocess.PIPE, text=True, **options) as owner:
            folder, *pids, user = owner.stdout.readline().split()
            self.assertTrue(all(is_alive(int(pid)) for pid in pids))
            owner.send_signal(signal.SIGKILL)
            owner.wait()
        poll(lambda: not any(is_alive(int(pid)) for pid in pids) and not os.path.exists(folder), "nothing is left")
        return int(user)

    def test_as_who_we_are(self):
        self.assertEqual(self.check(cwd=HERE), os.getuid())

    @unittest.skipUnless(account(), "we are nobody else already")
    def test_as_an_ordinary_user(self):
        user = account()
        folder = tempfile.mkdtemp(prefix="kv-rabbitmq-test-")
        self.addCleanup(shutil.rmtree, folder)
        shutil.copy(os.path.join(HERE, "rabbitmq_server.py"), folder)
        for path in (folder, os.path.join(folder, "rabbitmq_server.py")):
            os.chown(path, user["user"], user["group"])
        # Ours may be where nobody else may look.
        self.assertEqual(self.check(python="/usr/bin/python3", cwd=folder, **user), user["user"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
