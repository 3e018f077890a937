"""When shadow requests have to wait: what a metrics page says, and what was spent."""

import pytest

from gateway.evaluate.load import Load, TokenBucket, read_load

PAGE = """# HELP vllm:num_requests_waiting Number of requests waiting.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a b"} 2.0
vllm:num_requests_waiting{engine="1",model_name="a b"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:num_requests_running{engine="0"} 4.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.95
process_resident_memory_bytes 1.0e9
"""


def test_a_metrics_page_tells_what_runs_and_waits_in_all_parts_and_the_fullest_cache() -> None:
    assert read_load(PAGE) == Load(running=4.0, waiting=3.0, kv_cache_share=0.95)


@pytest.mark.parametrize("page", ["", "vllm:num_requests_waiting", "vllm:num_requests_waiting{} x", "<html>", "vllm:{"])
def test_a_page_that_tells_nothing_is_of_an_engine_that_is_not_busy(page: str) -> None:
    assert read_load(page) == Load()


def test_what_waits_comes_before_a_full_cache_and_that_before_what_runs() -> None:
    assert Load(waiting=1, kv_cache_share=1, running=9).reason_to_wait(0.9, 0) == "queue"
    assert Load(kv_cache_share=1, running=9).reason_to_wait(0.9, 0) == "kv_cache"
    assert Load(running=9).reason_to_wait(0.9, 0) == "running"
    assert Load(running=9).reason_to_wait(0.9) == ""
    assert Load(kv_cache_share=0.9).reason_to_wait(0.9, 0) == ""


def test_a_bucket_may_be_overdrawn_once_and_fills_again() -> None:
    bucket = TokenBucket(100)
    assert bucket.has_some(0.0)
    bucket.spend(1_500, 0.0)  # ten seconds' worth are 1,000
    assert not bucket.has_some(0.0)
    assert not bucket.has_some(5.0)
    assert bucket.has_some(5.1)
    assert bucket.has_some(1e6)
    bucket.spend(1_000, 1e6)  # it never holds more
    assert not bucket.has_some(1e6)


def test_a_bucket_without_a_rate_is_never_empty() -> None:
    bucket = TokenBucket(None)
    bucket.spend(1e12, 0.0)
    assert bucket.has_some(0.0)
