"""plain objects and a clock -> what a publisher uses: actors, their pending calls, an object store, staging"""

from concurrent.futures import Future

from discreteness.checkpoint.layout import CheckpointLayout


class Clock:
    """Time that passes only where somebody waits; `later` futures are answered when theirs has come."""

    def __init__(self):
        self.now_s = 0.0
        self._due = []
        self._last_look = (0.0, 0)

    def monotonic(self):
        since_s, looks = self._last_look
        self._last_look = (self.now_s, looks + 1 if since_s == self.now_s else 0)
        assert looks < 10_000, "somebody looks for ever, without waiting"
        return self.now_s

    def later(self, seconds, answer):
        """A future with this result in so many seconds."""
        future = Future()
        self._due.append((self.now_s + seconds, future, answer))
        return future

    def sleep(self, seconds):
        assert self.now_s < 1e5, "somebody waits for ever"
        self.now_s += seconds
        for due in [due for due in self._due if due[0] <= self.now_s]:
            self._due.remove(due)
            due[1].set_result(due[2])

    def wait(self, futures, timeout_s):
        """Until one of them is done, at most so long."""
        if any(future.done() for future in futures):
            return
        moments = [moment for moment, future, _ in self._due if future in futures]
        self.sleep(min([timeout_s, *(moment - self.now_s for moment in moments)]))


class Reference:
    """An object in the store: a copy, as Ray's is."""

    def __init__(self, data):
        self.data = data.copy()


class Actor:
    """An object whose methods are called as an actor's. One that returns a future is answered with that."""

    def __init__(self, plain):
        self._plain = plain

    def __getattr__(self, name):
        return _Method(getattr(self._plain, name))


class _Method:
    def __init__(self, method):
        self.method = method

    def remote(self, *arguments):
        call = Future()
        try:
            answer = self.method(*arguments)
        except Exception as error:
            call.set_exception(error)
            return call
        if isinstance(answer, Future):
            return answer
        call.set_result(answer)
        return call


class PlainRay:
    """put, get and wait, as the module `ray` has them."""

    def __init__(self, clock):
        self.clock = clock

    def put(self, data):
        return Reference(data)

    def get(self, call, timeout=None):
        self.clock.wait([call], timeout or 1e9)
        return call.result(0)

    def wait(self, calls, *, num_returns=1, timeout=None):
        """At most `num_returns` of those that are done, and the others."""
        self.clock.wait(calls, timeout)
        done = [call for call in calls if call.done()][:num_returns]
        return done, [call for call in calls if call not in done]


class AtOnce:
    """Staging whose copies take no time. No buffer is free for the first `looks` looks; `full`: nothing ever leaves."""

    def __init__(self, model, clock, looks=0, full=False):
        self.model, self.layout = model, CheckpointLayout.from_model(model)
        self.clock, self.looks, self.full = clock, looks, full
        self.sent_s = []

    def ready(self, timeout_s):
        if self.looks:
            self.looks -= 1
            self.clock.sleep(timeout_s)
            return False
        return True

    def send(self, tied, use):
        self.sent_s.append(self.clock.now_s)
        sent = Future()
        if not self.full:
            try:
                sent.set_result(use(self.layout.pack(self.model, tied)))
            except Exception as error:
                sent.set_exception(error)
        return sent
