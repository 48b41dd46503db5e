"""Running the jobs of a build on a cluster: on whatever a `distributed.Client` is connected to.

Every machine of the cluster must see the store and the files of the sources under the same paths.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Client, KilledWorker, Worker, WorkerPlugin, as_completed, get_worker

from .job import Job
from .pool import WorkerDiedError, WorkerPool
from .progress import Bar
from .scheduler import run_job


@contextmanager
def open_cluster(client: Client, timeout_s: float) -> Generator[Cluster]:
    """Use the workers of a cluster, each with processes beside it for the jobs that need one.

    Args:
        client: The connection.
        timeout_s: Seconds a process may go without a sign of progress before it is killed.
    """
    plugin = _Pools(timeout_s)
    client.register_plugin(plugin)
    try:
        yield Cluster(client, plugin.name)
    finally:
        client.unregister_worker_plugin(plugin.name)


class Cluster:
    """A client, and the name of the pools of its workers."""

    def __init__(self, client: Client, pools: str) -> None:
        self._client = client
        self._pools = pools

    def map(self, function: str, jobs: Sequence[Job], bar: Bar) -> Iterator[Any]:
        """Yield results as they come; where a machine is lost, its jobs are tried elsewhere."""
        futures: dict[Any, Job] = {
            self._client.submit(_run, function, job, self._pools, pure=False): job for job in jobs
        }
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except KilledWorker as error:
                    died = WorkerDiedError.of("T0320", f"a worker of the cluster died: {error}")
                    raise futures[future].locate(died, 0) from error
                bar.advance(futures[future].rows)
        finally:
            self._client.cancel(list(futures))


class _Pools(WorkerPlugin):
    """A pool of processes beside each worker of the cluster."""

    def __init__(self, timeout_s: float) -> None:
        self.name = f"taskloom-{uuid.uuid4().hex}"
        self._timeout_s = timeout_s
        self.pool: WorkerPool | None = None

    def setup(self, worker: Worker) -> None:
        """Open the pool of ``worker``."""
        self.pool = WorkerPool(worker.state.nthreads, timeout_s=self._timeout_s)

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - given by distributed
        """Close it."""
        if self.pool is not None:
            self.pool.close()


def _run(function: str, job: Job, pools: str) -> Any:
    plugin: Any = get_worker().plugins[pools]
    return run_job(function, job, plugin.pool)
