"""What a server counts, as the text that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import psutil

from engine.serve.served import Served


class Metrics:
    """For the thread of the server alone."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, int]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._received = 0
        self._sent = 0

    def answered(self, path: str, status: int, seconds: float) -> None:
        """path: of the operation, of which there are few; "" where what was asked for is none."""
        self._answers[path, status] += 1
        self._seconds[path] += seconds  # type: ignore[assignment]

    def received(self, num_bytes: int) -> None:
        self._received += num_bytes

    def sent(self, num_bytes: int) -> None:
        self._sent += num_bytes

    def text(self, served: Mapping[str, Served]) -> str:
        """In the text format 0.0.4."""
        rows: list[tuple[str, str, str, list[tuple[dict[str, str], float]]]] = [
            ("requests_total", "counter", "Answers by path and status.", [
                ({"path": path, "status": str(status)}, count)
                for (path, status), count in sorted(self._answers.items())
            ]),
            ("request_seconds_total", "counter", "Seconds until the status was said, by path.", [
                ({"path": path}, seconds) for path, seconds in sorted(self._seconds.items())
            ]),
            ("received_bytes_total", "counter", "Bytes of bodies of requests.", [({}, self._received)]),
            ("sent_bytes_total", "counter", "Bytes of bodies of tensors.", [({}, self._sent)]),
            ("busy", "gauge", "Whether a component works.", [
                ({"component": kind}, int(each.busy)) for kind, each in served.items()
            ]),
            ("waiting", "gauge", "Requests that wait for a component.", [
                ({"component": kind}, each.waiting) for kind, each in served.items()
            ]),
            ("work_seconds_total", "counter", "Seconds that a component has worked.", [
                ({"component": kind}, each.seconds) for kind, each in served.items()
            ]),
            ("resident_bytes", "gauge", "Resident memory of the process.", [
                ({}, psutil.Process().memory_info().rss)
            ]),
        ]  # fmt: skip
        lines = []
        for name, kind, about, samples in rows:
            lines += [f"# HELP modiff_{name} {about}", f"# TYPE modiff_{name} {kind}"]
            for labels, value in samples:
                text = ",".join(f'{key}="{value}"' for key, value in labels.items())
                lines.append(
                    f"modiff_{name}{{{text}}} {value}" if text else f"modiff_{name} {value}"
                )
        return "\n".join(lines) + "\n"
