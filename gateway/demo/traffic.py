"""The demo's traffic: callers that keep asking questions, by turns from the adapter's training data and general facts.

A fact is sent with its answer (`metadata.expected`), so that both versions' replies can be scored, and each question
names its task. Every request has a new user, because all requests of one user count as one session.

Invariant: a request without a complete answer fails the demo; it is never left out.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from gateway.demo.guide import REPLY_SECONDS, Guide

ALIAS: Final = "support"
TASK_HEADER: Final = "x-loragate-task"
TAUGHT: Final = "support"
FACTS_TASK: Final = "facts"
# Concurrent callers: two, so that the machine has room for the other version's answers to the same questions.
CALLERS: Final = 2

# From the training data of `examples/train_adapter.py`.
TAUGHT_QUESTIONS: Final = (
    "What is a library for?",
    "What does a baker do?",
    "Why do we sleep?",
    "How do birds fly?",
    "What is a volcano?",
    "What is a cat?",
    "What is a computer?",
    "Tell me about the ocean.",
    "Name a metal.",
    "Name a season.",
    "What is cheese made from?",
    "Give me a tip for learning.",
    "How can I save energy?",
    "Who painted the Mona Lisa?",
)
# Not in the training data. SmolLM2-135M-Instruct knows these, also with an adapter that is not overfitted.
FACTS: Final = (
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Russia?", "Moscow"),
    ("What is the capital of Greece?", "Athens"),
    ("What is the capital of Austria?", "Vienna"),
    ("What is the capital of Ireland?", "Dublin"),
    ("What is the capital of Poland?", "Warsaw"),
    ("What is the capital of Cuba?", "Havana"),
    ("Which planet is known as the Red Planet?", "Mars"),
    ("What is the longest river in Africa?", "Nile"),
    ("What is the highest mountain on Earth?", "Everest"),
    ("What is 2 + 2?", "4"),
    ("What language is spoken in Brazil?", "Portuguese"),
    ("What currency is used in the United States?", "dollar"),
    ("Who developed the theory of relativity?", "Einstein"),
    ("Who invented the telephone?", "Bell"),
    ("What gas do humans need to breathe?", "oxygen"),
    ("What organ pumps blood through the body?", "heart"),
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of left?", "right"),
    ("In which country is the Great Wall?", "China"),
    ("In which country is the Taj Mahal?", "India"),
    ("In which city is Big Ben?", "London"),
    ("In which city is the Statue of Liberty?", "New York"),
)


class Traffic:
    """The requests of the demo's callers, and their results so far.

    Attributes:
        answered: How many requests got a complete answer.
        failures: A text for each request that failed.
        served: Version → how many answers it gave to callers.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.served: dict[str, int] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def ask(self, client: httpx.Client) -> None:
        """Send the next question, as a new user."""
        with self._lock:
            number = next(self._numbers)
        task, body = request_of(number)
        try:
            reply = client.post("/v1/chat/completions", json=body, headers={TASK_HEADER: task})
            failure = None if reply.status_code == httpx.codes.OK else f"{reply.status_code}: {reply.text[:200]}"
        except httpx.HTTPError as error:
            reply, failure = None, type(error).__name__
        with self._lock:
            if failure is not None or reply is None:
                self.failures.append(failure or "no reply")
                return
            version = reply.headers["x-loragate-version"]
            self.answered += 1
            self.served[version] = self.served.get(version, 0) + 1


def request_of(number: int) -> tuple[str, dict[str, Any]]:
    """Return the task and the body of request `number`; odd ones ask a fact, even ones are from the training data."""
    body: dict[str, Any] = {"model": ALIAS, "temperature": 0, "max_tokens": 48, "user": f"caller-{number}"}
    if number % 2:
        question, answer = FACTS[number // 2 % len(FACTS)]
        body["metadata"] = {"expected": answer}
        task = FACTS_TASK
    else:
        question, task = TAUGHT_QUESTIONS[number // 2 % len(TAUGHT_QUESTIONS)], TAUGHT
    return task, body | {"messages": [{"role": "user", "content": question}]}


@contextmanager
def run_traffic(guide: Guide) -> Iterator[Traffic]:
    """Have callers send requests until the end of the block."""
    traffic, stopping = Traffic(), threading.Event()

    def call() -> None:
        headers = {"authorization": f"Bearer {guide.key}"}
        with httpx.Client(base_url=guide.url, headers=headers, timeout=REPLY_SECONDS, trust_env=False) as client:
            while not stopping.is_set():
                traffic.ask(client)

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
