"""The contract, for `queue.Queue` and `asyncio.Queue`, and for `plait.Channel` in both roles."""

from __future__ import annotations

import asyncio
import inspect
import queue
import sys

import pytest

from tests.contract.queue_contract import QueueContract, TaskQueueContract

plait = pytest.importorskip("plait")


@pytest.fixture(autouse=True)
def _only_what_there_is(request):
    if "shutdown" in request.node.name and request.cls.shut_down is None:
        pytest.skip("queues have no shutdown before 3.13")


class TestQueue(QueueContract):
    make = staticmethod(queue.Queue)
    shut_down = getattr(queue, "ShutDown", None)


class TestChannel(QueueContract):
    make = staticmethod(plait.Channel)
    shut_down = plait.ChannelShutDown


class TestAsyncioQueue(TaskQueueContract):
    make = staticmethod(asyncio.Queue)
    shut_down = getattr(asyncio, "QueueShutDown", None)


class TaskSide:
    """A channel by the names of `asyncio.Queue`."""

    def __init__(self, maxsize=0):
        self.channel = channel = plait.Channel(maxsize)
        self.get, self.put, self.join = channel.aget, channel.aput, channel.ajoin

    def __getattr__(self, name):
        return getattr(self.channel, name)


class TestChannelOfTasks(TaskQueueContract):
    make = TaskSide
    shut_down = plait.ChannelShutDown


@pytest.mark.parametrize(
    "name", ["put", "get", "put_nowait", "get_nowait", "task_done", "join", "qsize", "empty", "full"]
)
def test_signatures_are_those_of_the_standard_library(name):
    assert inspect.signature(getattr(plait.Channel(), name)) == inspect.signature(getattr(queue.Queue(), name))


def test_errors_are_those_of_both_libraries():
    assert plait.ChannelEmpty.__bases__ == (queue.Empty, asyncio.QueueEmpty)
    assert plait.ChannelFull.__bases__ == (queue.Full, asyncio.QueueFull)
    if sys.version_info >= (3, 13):
        assert plait.ChannelShutDown.__bases__ == (queue.ShutDown, asyncio.QueueShutDown)
