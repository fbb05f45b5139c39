"""What is made of the errors that providers send, in the words and places that each of them has for it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from job_builders import KEY, label_all, make_job
from relabel.cli.app import run_app
from relabel.errors import ProviderError
from relabel.labelling import runner
from relabel.labelling.collector import shared_answers
from relabel.labelling.engine import OnlineEngine
from relabel.labelling.limits import Budget, Limiter
from relabel.labelling.provider_errors import ErrorMeaning, NoAnswerError, read_error
from relabel.labelling.providers import UNKNOWN, Price, provider_of
from relabel.labelling.request import Endpoint, host_of
from relabel.labelling.runner import run_job
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection, key_for
from relabel.labelling.wire import body
from relabel.labels import Label
from relabel.manifest import read_manifest
from relabel.run import open_run
from relabel.settings import Settings
from server import Reply, Seen, chat, judged, provider, responses


def google(status: int, message: str, word: str, **details: Any) -> list[dict[str, Any]]:
    more = [{"@type": f"type.googleapis.com/google.rpc.{name}", **fields} for name, fields in details.items()]
    return [{"error": {"code": status, "message": message, "status": word, "details": more}}]


def quota(period: str) -> dict[str, Any]:
    return {"violations": [{"quotaId": f"GenerateRequests{period}PerProjectPerModel-FreeTier", "quotaValue": "10"}]}


SPENT = "You exceeded your current quota, please check your plan and billing details."
LATER = {"retryDelay": "41s"}


@pytest.mark.parametrize(
    ("status", "body", "meaning", "wait_s"),
    [
        # Out of quota or credit, whatever the code.
        (429, {"error": {"message": SPENT, "code": "insufficient_quota"}}, "quota", None),
        (429, {"error": {"message": f"litellm.RateLimitError: OpenAIException - {SPENT}", "code": "429"}}, "quota", None),
        (402, {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}, "quota", None),
        (402, {"error": {"message": "Payment Required", "code": 402}}, "quota", None),
        (400, {"error": {"message": "Your credit balance is too low to access the Anthropic API."}}, "quota", None),
        (403, {"error": {"message": "Key limit exceeded (total limit). Add more credits"}}, "quota", None),
        (429, {"error": {"message": "Project spending limit reached"}}, "quota", None),
        (429, google(429, SPENT, "RESOURCE_EXHAUSTED", QuotaFailure=quota("PerDay")), "quota", None),
        (200, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": None}, "quota", None),
        # https://help.openai.com/en/articles/5955604-troubleshooting-api-rate-limits-and-429-errors
        (429, {"error": {"message": "x", "type": None, "code": "credit_balance_exhausted"}}, "quota", None),
        (429, {"error": {"message": "x", "type": None, "code": "organization_usage_limit_exceeded"}}, "quota", None),
        (429, {"error": {"message": "Try later.", "type": "rate_limit_error", "code": "slow_down"}}, "wait", None),
        # Anthropic's cap of a tier, until the next month
        (429, {"error": {"type": "rate_limit_error", "message": "x", "details": {"error_code": "enforced_spend_limit_reached"}}},
         "quota", None),
        # Limits that pass, with the wait wherever it stands.
        (429, google(429, SPENT, "RESOURCE_EXHAUSTED", QuotaFailure=quota("PerMinute"), RetryInfo=LATER), "wait", 41),
        (429, google(429, f"{SPENT}\nPlease retry in 58.25s.", "RESOURCE_EXHAUSTED"), "wait", 58.25),
        (429, google(429, f"{SPENT} Please retry in 11h59m0s.", "RESOURCE_EXHAUSTED"), "wait", 43140),
        (429, {"error": {"message": "Rate limit reached (TPM). Please try again in 250ms."}}, "wait", 0.25),
        (429, {"error": {"message": "on tokens per day (TPD). Please try again in 1h30m0s."}}, "wait", 5400),
        (429, {"error": {"code": "429", "message": "Please retry after 86400 seconds."}}, "wait", 86400),
        (429, {"error": {"message": "Retry after 2 minutes and 5 seconds"}}, "wait", 125),
        (429, {"error": {"message": "slow down", "metadata": {"headers": {"X-RateLimit-Reset": "1000000012"}}}}, "wait", 12),
        (429, {"message": "Requests rate limit exceeded", "object": "error", "code": "1300"}, "wait", None),
        (200, {"error": {"message": "Rate limit exceeded: free-models-per-min.", "code": 429}}, "wait", None),
        (200, {"base_resp": {"status_code": 1002, "status_msg": "rate limit exceeded(RPM)"}, "choices": None}, "wait", None),
        (200, {"base_resp": {"status_code": 2045, "status_msg": "rate growth limit"}, "choices": None}, "wait", None),
        (200, {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "TPM"}}, "wait", None),
        (200, {"error": {"message": "Rate limit reached", "type": "rate_limit_error", "code": None}}, "wait", None),
        (429, {"error": {"message": "Request too large for m on tokens per min (TPM): Limit 300, Requested 1100."}}, "request", None),
        # Waits and fields in odd forms.
        (503, {"error": {"message": "Please wait 2 minutes and try again"}}, "passing", 120),
        (429, {"error": {"message": "Please retry after 99999999999999 seconds"}}, "wait", None),
        (429, {"error": {"message": "slow", "retryDelay": f"{'9' * 400}s"}}, "wait", None),
        (429, {"error": {"message": "slow", "metadata": {"headers": {"X-RateLimit-Reset": "\u00b2"}}}}, "wait", None),
        (429, {"error": {"message": "slow", "details": 1}}, "wait", None),
        (200, {"error": {"message": "x", "code": 502}, "base_resp": {"status_code": {}}}, "passing", None),
        # Filters refuse one request, by any status.
        (400, {"error": {"code": "content_filter", "message": "The response was filtered", "param": "prompt"}}, "content-filter", None),
        (400, {"error": {"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, "content-filter", None),
        (403, {"error": {"code": 403, "message": "requires moderation. Your input was flagged. No credits were charged.",
                         "metadata": {"reasons": ["violence"], "flagged_input": "..."}}}, "content-filter", None),
        (400, {"error": {"code": "invalid_prompt", "message": "flagged as potentially violating our usage policy"}}, "content-filter", None),
        (400, {"error": {"message": "Content Exists Risk", "code": "invalid_request_error"}}, "content-filter", None),
        (200, {"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}, "choices": None}, "content-filter", None),
        (403, {"code": "permission-denied", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"},
         "content-filter", None),
        (498, {"message": "Unsafe request: the request is blocked"}, "content-filter", None),
        (400, {"error": {"message": "The answer was blocked by a content guardrail"}}, "content-filter", None),
        # Quotas by other words and codes, and a day's whose wait is only that of the minute.
        (400, {"error": {"message": "Budget has been exceeded! Current cost: 26.07, Max budget: 0.25", "code": "400"}}, "quota", None),
        (429, {"error": {"message": "No deployments available - crossed budget", "code": "429"}}, "quota", None),
        *[(403, {"error": {"message": message}}, "quota", None) for message in
          ("Budget limit reached", "The monthly budget of this key was exceeded", "Budget exhausted", "You have reached your budget")],
        (412, {"status": "failure", "message": "Portkey Error: usage limit exceeded for the api key"}, "quota", None),
        (200, {"object": "response", "status": "cancelled", "error": None, "output": []}, "passing", None),
        (412, {"error": {"message": "Account x is suspended, possibly due to reaching the monthly spending limit",
                         "code": "PRECONDITION_FAILED"}}, "quota", None),
        (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month."}, "quota", None),
        (429, {"message": "You are using a Trial key, which is limited to 20 API calls / minute."}, "wait", None),
        (429, {"errors": [{"code": 3036, "message": "You have used up your daily free allocation of 10,000 neurons"}]}, "quota", None),
        (429, google(429, SPENT, "RESOURCE_EXHAUSTED", QuotaFailure=quota("PerDay"), RetryInfo={"retryDelay": "34s"}), "quota", 34),
        (429, google(429, SPENT, "RESOURCE_EXHAUSTED", QuotaFailure=quota("PerMinute"), RetryInfo={"retryDelay": "34s"}), "wait", 34),
        # The same behind gateways that rewrite codes and put the provider's error into a message.
        (500, {"error": {"message": f"litellm.RateLimitError: OpenAIException - {SPENT}"}}, "quota", None),
        (502, {"error": {"message": "Quota exceeded for metric: generate_requests_per_model_per_day, limit: 250"}}, "quota", None),
        (500, {"error": {"message": "AnthropicException - Your credit balance is too low to access the API."}}, "quota", None),
        (502, {"error": {"message": "upstream error: insufficient_quota"}}, "quota", None),
        (500, {"error": {"message": f"x {json.dumps(google(429, SPENT, 'y', QuotaFailure=quota('PerDay')))}"}}, "quota", None),
        (400, {"error": {"message": "You have reached your specified API usage limits. You will regain access on 2026-12-01"}}, "quota", None),
        (403, {"error": {"message": "Account balance is negative, please recharge"}}, "quota", None),
        (429, {"error": {"message": "Out of call volume quota. Quota will be replenished in 05:12:11."}}, "quota", None),
        (429, {"message": "Requests quota for this month exceeded"}, "quota", None),
        (429, {"error": "you've reached your weekly usage limit"}, "quota", None),
        (503, {"error": {"message": "litellm.RateLimitError: rate limit reached, try again in 2s"}}, "wait", 2),
        (429, {"error": {"message": "Provider returned error", "metadata": {"raw": json.dumps(google(429, "z", "y", RetryInfo=LATER))}}}, "wait", 41),
        (429, {"error": {"message": "slow", "details": [{"retryInfo": {"retryDelay": {"seconds": "20"}}}]}}, "wait", 20),
        (429, {"error": {"message": "slow", "retry_after_ms": 7000}}, "wait", 7),
        (429, {"message": "slow", "retryAfter": 7}, "wait", 7),
        (429, {"error": {"message": "slow", "retry_after": "2026-11-27"}}, "wait", None),
        (400, {"error": {"message": "Violated moderation policy"}}, "content-filter", None),
        (451, {"error": {"message": "harmful content"}}, "content-filter", None),
        (403, {"error": {"message": "Guardrail triggered: pii"}}, "content-filter", None),
        (403, {"code": "denied", "error": "Your newly created team doesn't have any credits or licenses yet."}, "quota", None),
        (403, {"error": {"code": "AccountOverdueError", "message": "your account has an overdue balance."}}, "quota", None),
        (429, {"error": {"message": "Your account 21 has exhausted its free trial quota for the model."}}, "quota", None),
        (200, {"error": {"message": "You have exhausted your monthly quota", "code": "quota_exceeded"}}, "quota", None),
        (429, {"error": {"message": "Your account [21] has reached the set inference limit for the model"}}, "quota", None),
        (412, {"error": {"message": "Portkey Error: API key usage limit exceeded"}, "status": "failure"}, "quota", None),
        (403, {"errors": [{"message": "the token quota for the month was reached"}]}, "quota", None),
        (403, google(403, "This API method requires billing to be enabled.", "PERMISSION_DENIED"), "quota", None),
        (403, {"error": {"message": "Credit limit exceeded, see billing", "type": "credit_limit", "code": None}}, "quota", None),
        (403, {"error": {"message": "用户额度不足", "code": "insufficient_user_quota"}}, "quota", None),
        (401, {"error": {"message": "该令牌额度已用尽", "type": "new_api_error", "code": ""}}, "quota", None),
        (403, {"error": {"message": "Your account has run out of funds."}}, "quota", None),
        (403, {"error": {"message": "Your trial has expired. Please upgrade."}}, "quota", None),
        (409, {"error": {"code": "ReadOnlyDisabledSubscription", "message": "The subscription is disabled"}}, "quota", None),
        (429, {"error": {"code": "1308", "message": "Usage limit reached for 5 hour. It will reset at 09:00."}}, "quota", None),
        # https://docs.z.ai/api-reference/api-code
        (429, {"error": {"code": "1304", "message": "该 API 已达今日调用次数限额"}}, "quota", None),
        (429, {"error": {"code": "1302", "message": "您当前使用该 API 的并发数过高"}}, "wait", None),
        (200, {"base_resp": {"status_code": 2056, "status_msg": "usage limit exceeded"}, "choices": None}, "quota", None),
        (446, {"error": {"message": "The guardrail checks defined in the config failed.", "type": "hooks_failed"}}, "content-filter", None),
        # https://developers.cloudflare.com/ai-gateway/features/guardrails/set-up-guardrail/
        (424, {"success": False, "error": [{"code": 2016, "message": "Prompt blocked due to security rules"}]}, "content-filter", None),
        (424, {"success": False, "error": [{"code": 2017, "message": "Response blocked due to security rules"}]}, "content-filter", None),
        (400, {"error": {"message": "litellm.ContentPolicyViolationError: the response was stopped", "code": "400"}}, "content-filter", None),
        (400, {"error_code": "BAD_REQUEST", "message": '{"finishReason": "input_guardrail_triggered"}'}, "content-filter", None),  # Databricks
        # https://apim.docs.wso2.com/en/4.5.0/ai-gateway/ai-guardrails/guardrail-error-response/
        (446, {"code": "900514", "message": "Runtime Error", "description": "Violation of x detected."}, "content-filter", None),
        # Limits per minute whose words are those of a quota, and capacity that comes back.
        (429, {"error": {"code": "Throttling.AllocationQuota", "message": "Allocated quota exceeded, please increase it."}}, "wait", None),
        # https://www.alibabacloud.com/help/en/model-studio/rate-limit
        (429, {"error": {"message": f"{SPENT} For details, see: https://help.aliyun.com/zh/model-studio/error-code#token-limit",
                         "type": "insufficient_quota", "code": "insufficient_quota"}}, "wait", None),
        (498, {"error": {"message": "Flex tier capacity exceeded, please try again later", "code": "capacity_exceeded"}}, "passing", None),
        # https://github.com/GoogleCloudPlatform/Open_Data_QnA/issues/61
        (429, google(429, "Quota exceeded for x.com/requests_per_minute_per_project_per_base_model with base model: g.", "y"), "wait", None),
        (429, google(429, "Quota exceeded for x.com/requests_per_day_per_project_per_base_model with base model: g.", "y"), "quota", None),
        # Errors with a good status, without an object for them.
        (200, {"code": "rate_limit_daily", "message": "Error code: 429 - rate limit, slow down"}, "wait", None),
        (200, {"code": 429, "message": "busy"}, "wait", None),
        (200, {"detail": "Rate limit exceeded: 60 per 1 minute"}, "wait", None),
        (200, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}, "quota", None),
        (200, {"code": 40301, "msg": "insufficient balance", "data": None}, "quota", None),
        (200, {"error_code": 18, "error_msg": "Open api qps request limit reached: too many requests"}, "wait", None),
        (200, {"error": "model overloaded, try later"}, "passing", None),
        (200, {"error": "rate limit exceeded"}, "wait", None),
        (200, {"error": "invalid api key"}, "key", None),
        (200, {"error": "insufficient credits"}, "quota", None),
        (200, {"error": {"message": "Internal server error"}}, "passing", None),
        (200, {"choices": [{"finish_reason": "error", "error": {"message": "upstream timeout"}}]}, "passing", None),
        # Words of quotas and filters that are said of something else.
        (422, {"detail": [{"msg": "bad", "input": f"Contact customers with insufficient funds. {SPENT}"}]}, "request", None),
        (400, google(400, 'Unknown name "safety_settings": Cannot find field.', "INVALID_ARGUMENT"), "request", None),
        (403, {"error": {"message": "Your API key does not have permission for the moderation endpoint"}}, "access", None),
        (403, {"error": {"message": "Your account was suspended for violating our usage policies"}}, "quota", None),
        # https://learn.microsoft.com/azure/foundry/openai/how-to/troubleshoot-errors
        (403, {"error": {"code": "Forbidden", "message": "Your resource has been temporarily blocked because we detected "
                                                         "behavior that may violate our content policy."}}, "access", None),
        # Keys, rights, models.
        (403, {"code": "permission-denied", "error": "Access to the chat endpoint is denied"}, "access", None),
        (401, {"detail": "Unauthorized"}, "key", None),
        (400, google(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT"), "key", None),
        (403, {"error": {"message": "Country, region, or territory not supported"}}, "access", None),
        (404, {"error": {"message": "The model `x` does not exist.", "code": 404}}, "model", None),
        (404, google(404, "models/x is not found for API version v1main", "NOT_FOUND"), "model", None),
        (400, {"error": {"message": "x is not a valid model ID", "code": 400}}, "model", None),
        (400, {"error": {"message": "Model Not Exist", "code": "invalid_request_error"}}, "model", None),
        (400, {"error": {"message": "`x` is no longer supported", "code": "model_decommissioned"}}, "model", None),
        (400, {"error": {"message": "No models loaded. Please load a model"}}, "model", None),
        (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}, "model", None),
        # The form of the answer, and answers that the model spoiled.
        (400, {"error": {"message": "This model does not support response format `json_schema`."}}, "form", None),
        (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}, "form", None),
        (400, {"error": {"message": "Invalid value", "param": "response_format.type"}}, "form", None),
        (400, google(400, "Unknown name \"additionalProperties\" at 'generation_config.response_schema'", "INVALID_ARGUMENT"), "form", None),
        (400, {"error": {"code": 400, "message": "JSON schema conversion failed:\nUnrecognized schema"}}, "form", None),
        (500, {"error": {"message": "failed to load model vocabulary required for format"}}, "form", None),
        (500, {"error": {"message": "invalid JSON schema in format", "type": "api_error"}}, "form", None),
        (400, {"message": "output_config.format: Extra inputs are not permitted"}, "form", None),  # Claude on Bedrock
        (500, {"error": {"message": "the server had an error"}}, "passing", None),
        (400, {"error": {"message": "Invalid model name passed in model=gpt-9.", "code": "400"}}, "model", None),
        (400, {"error": {"message": "Generated JSON does not match the expected schema.", "code": "json_validate_failed"}}, "bad-answer", None),
        # What passes by itself, and what is about this request alone.
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "passing", None),
        (503, google(503, "The model is overloaded.", "UNAVAILABLE"), "passing", None),
        (200, {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "stream broke"}}]}, "passing", None),
        (200, {"status": "failed", "error": {"code": "server_error", "message": "retry"}}, "passing", None),
        (200, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "passing", None),
        (200, {"choices": [{"finish_reason": None, "error": {"code": 502, "message": "x"}, "message": {"content": ""}}]}, "passing", None),
        (200, {"choices": [{"finish_reason": "network_error", "message": {"content": ""}}]}, "passing", None),
        # https://github.com/vllm-project/vllm/issues/57082
        (200, {"choices": [{"finish_reason": "abort", "message": {"content": "{"}}]}, "passing", None),
        (424, {"error": "Request failed during generation", "error_type": "generation"}, "passing", None),
        (425, "Too Early", "passing", None),
        (499, google(499, "The operation was cancelled.", "CANCELLED"), "passing", None),
        (400, {"error": {"message": "maximum context length is 1024 tokens", "code": "context_length_exceeded"}}, "request", None),
        (200, {"error": "Unexpected endpoint or method. (POST /v1/batches)"}, "request", None),
    ],
)  # fmt: skip
def test_an_error_is_understood(status: int, body: Any, meaning: ErrorMeaning, wait_s: float | None) -> None:
    found = read_error(status, {}, json.dumps(body).encode(), now=lambda: 1_000_000_000.0)
    assert found is not None
    assert (found.meaning, found.wait_s) == (meaning, wait_s)


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"finish_reason": "stop", "message": {"content": '"base_resp" "finish_reason":"error"'}}]},
        {"choices": [], "base_resp": {"status_code": 0, "status_msg": "success"}},
        {"code": 200, "message": "success", "data": {"choices": []}},
        {"code": 0, "msg": "ok", "data": {"choices": []}},
        {"message": {"role": "assistant", "content": "The balance is insufficient."}, "done": True},
        {"error": {"message": "odd"}},
        {"status": "completed", "error": None, "output": []},
        {"status": "completed", "error": {}, "output": []},
        {
            "choices": [
                {"finish_reason": "stop", "error": {"code": None, "message": None}, "message": {"content": "{}"}}
            ]
        },
    ],
)
def test_an_answer_is_not_taken_for_an_error(body: Any) -> None:
    assert read_error(200, {}, json.dumps(body).encode()) is None


def test_a_body_that_is_no_json_still_has_a_meaning() -> None:
    for status, meaning in ((502, "passing"), (401, "key"), (429, "wait"), (400, "request")):
        found = read_error(status, {}, b"<html>oh</html>")
        assert found is not None
        assert (found.meaning, found.message) == (meaning, "<html>oh</html>")


def test_a_proxys_page_is_told_by_its_title_and_a_missing_message_by_the_status_alone() -> None:
    page = "<!DOCTYPE html>" + "<!-- long -->" * 40 + "<title lang=en>\n502 Bad\n Gateway </title><body>nginx</body>"
    found = read_error(502, {}, page.encode())
    assert found is not None
    assert found.with_status == "HTTP 502: 502 Bad Gateway"
    for text, said in (("", "HTTP 404"), ("<title></title>", "HTTP 404: <title></title>")):
        found = read_error(404, {}, text)
        assert found is not None
        assert found.with_status == said


@pytest.mark.parametrize(("used", "charged"), [(None, 0), ({"input_tokens": 0}, 0), ({"input_tokens": 9}, 12)])
async def test_a_failed_response_that_counts_tokens_may_have_been_charged(
    used: dict[str, int] | None, charged: int, store: Store, tmp_path: Path
) -> None:
    details = {"output_tokens": 0, "input_tokens_details": {"cached_tokens": 0}}
    body = responses(None, status="failed", usage=used and {**used, **details})
    with provider(lambda seen: Reply(body=body)) as fake:
        job = make_job(fake.base_url, 1, price=PRICE)
        endpoint = job.endpoint.model_copy(update={"api": "responses", "params": {"max_output_tokens": 50}})
        outcome = await label_all(replace(job, endpoint=endpoint), store, tmp_path / "run")
    assert {failure.message for failure in outcome.failures} == {"HTTP 500: the response failed"}
    perhaps = outcome.manifest.perhaps_charged
    assert (perhaps.requests, bool(perhaps.usd)) == (charged, charged > 0)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            402,
            {"error": {"message": "Insufficient credits", "code": 402}},
            "the quota is used up (Insufficient credits)",
        ),
        (400, {"error": {"message": "Your credit balance is too low"}}, "the quota is used up"),
        (429, google(429, SPENT, "RESOURCE_EXHAUSTED", QuotaFailure=quota("PerDay")), "the quota is used up"),
        (429, {"error": {"message": "Please try again in 1h30m0s."}}, "accepts no requests for 90 min"),
        (503, {"error": {"message": "Maintenance, please retry after 3600 seconds"}}, "accepts no requests for 60 min"),
    ],
)
async def test_a_run_ends_when_credit_does_and_no_more_is_sent_than_was_in_flight(
    status: int, body: Any, said: str, store: Store, tmp_path: Path
) -> None:
    def script(seen: Seen) -> Reply:
        return judged() if len(fake.seen) <= 14 else Reply(status, json.dumps(body))

    with provider(script) as fake:
        with pytest.raises(ProviderError) as caught:
            await label_all(make_job(fake.base_url, 100), store, tmp_path / "run", concurrency=8)
        assert len(fake.seen) <= 14 + 8
    assert said in str(caught.value)
    assert caught.value.exit_code == 4
    assert store.stats().answers == 14


async def test_a_wait_in_the_body_is_waited_for_and_loses_no_label(store: Store, tmp_path: Path) -> None:
    """A provider that grants five requests a window and says in the body alone when the next one opens."""
    granted = 0

    def script(seen: Seen) -> Reply:
        nonlocal granted
        granted += 1
        if granted % 9 < 5:
            return judged()
        return Reply(429, json.dumps(google(429, f"{SPENT} Please retry in 0.01s.", "RESOURCE_EXHAUSTED")))

    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 40), store, tmp_path / "run", concurrency=16)
    assert outcome.complete
    assert granted > 100


# https://openrouter.ai/docs/api_reference/limits
HELD = {"code": 402, "message": "Your credits are held by requests in flight. Retry after they settle, or add credits.",
        "metadata": {"reason": "in_flight_budget_exhausted", "limit_source": "openrouter_in_flight_budget"}}  # fmt: skip
SLOW = {"code": 429, "message": "Rate limit exceeded"}


@pytest.mark.parametrize(
    ("status", "headers", "error", "meaning", "wait_s"),
    [
        (402, {"retry-after": "120"}, HELD, "wait", 120),
        (402, {}, HELD, "wait", None),
        (200, {"retry-after": "2"}, HELD, "wait", 2),
        (402, {}, {"code": 402, "metadata": {"limit_source": "openrouter_credits"}}, "quota", None),
        (403, {}, {"code": 403, "message": "x", "metadata": {"limit_source": "openrouter_workspace_budget"}}, "quota", None),
        # https://openrouter.ai/docs/api_reference/errors-and-debugging
        (403, {}, {"code": 403, "message": "Request blocked", "metadata": {"patterns": ["x"]}}, "content-filter", None),
        (400, {}, {"message": "x", "metadata": {"error_type": "content_policy_violation"}}, "content-filter", None),
        (400, {}, {"message": "Provider returned error", "metadata": {"error_type": "refusal"}}, "content-filter", None),
        (400, {}, {"message": "unsupported role", "metadata": {"error_type": "invalid_prompt"}}, "request", None),
        (429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000000030000"}, SLOW, "wait", 30),
        (429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000000030"}, SLOW, "wait", 30),
        (429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "7"}, SLOW, "wait", 7),
        (429, {"x-ratelimit-remaining": "9", "x-ratelimit-reset": "1000086400"}, SLOW, "wait", None),
    ],
)  # fmt: skip
def test_what_a_router_says_beside_an_error_is_read(
    status: int, headers: dict[str, str], error: dict[str, Any], meaning: ErrorMeaning, wait_s: float | None
) -> None:
    found = read_error(status, headers, json.dumps({"error": error}).encode(), now=lambda: 1_000_000_000.0)
    assert found is not None
    assert (found.meaning, found.wait_s) == (meaning, wait_s)


async def test_credit_that_requests_in_flight_hold_is_waited_for(store: Store, tmp_path: Path) -> None:
    held = Reply(402, {"error": HELD}, {"retry-after": "0.1"})
    with provider(lambda seen: held if len(fake.seen) in range(5, 9) else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 10), store, tmp_path / "run", concurrency=8)
    assert outcome.complete
    assert len(fake.seen) == 24


async def test_a_filtered_task_is_that_labels_failure_alone(store: Store, tmp_path: Path) -> None:
    body = {
        "error": {
            "code": 403,
            "message": "Your input was flagged. No credits were charged.",
            "metadata": {"reasons": ["x"]},
        }
    }
    with provider(lambda seen: Reply(403, body) if "number 3." in seen.prompt else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 6), store, tmp_path / "run")
    assert [(f.task_id, f.kind) for f in outcome.failures] == [("3", "content-filter")] * 2
    assert len(outcome.labels) == 10


@pytest.mark.parametrize("page", [Reply(403, "<html><h1>403 Forbidden</h1></html>"), Reply(404, "no healthy upstream")])
async def test_a_firewall_that_dislikes_a_task_does_not_end_any_start(
    page: Reply, store: Store, tmp_path: Path
) -> None:

    def script(seen: Seen) -> Reply:
        return page if "number 0." in seen.prompt and len(fake.seen) > 1 else judged()

    with provider(script) as fake:
        for _ in range(2):
            outcome = await label_all(make_job(fake.base_url, 3), store, tmp_path / "run", concurrency=1)
            assert [(f.task_id, f.setting, f.kind) for f in outcome.failures] == [("0", "with-tools", "provider")]
            assert len(outcome.labels) == 5


async def test_a_resource_that_is_blocked_during_a_run_ends_it(store: Store, tmp_path: Path) -> None:
    said = (
        "Your resource has been temporarily blocked because we detected behavior that may violate our content policy."
    )
    with provider(lambda seen: judged() if len(fake.seen) <= 4 else Reply(403, {"error": {"message": said}})) as fake:
        with pytest.raises(ProviderError, match="denies access"):
            await label_all(make_job(fake.base_url, 20), store, tmp_path / "run", concurrency=1)
        assert len(fake.seen) == 5


async def test_an_answer_that_the_model_spoiled_is_asked_for_again(store: Store, tmp_path: Path) -> None:
    spoiled = Reply(400, {"error": {"message": "Failed to generate JSON.", "code": "json_validate_failed"}})
    with provider(lambda seen: spoiled if len(fake.seen) % 4 == 1 else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 10), store, tmp_path / "run", concurrency=1)
        spoiled_answers = len(fake.seen) - len(fake.answered)
    assert outcome.complete
    assert outcome.manifest.perhaps_charged.requests == spoiled_answers == 7


def test_a_question_that_xai_blocks_may_have_been_charged() -> None:
    blocked = read_error(403, {}, json.dumps({"error": "Content violates usage guidelines. Failed check: SAFETY"}))
    assert blocked is not None
    assert (blocked.meaning, blocked.may_have_been_charged) == ("content-filter", True)


@pytest.mark.parametrize(("status", "charged"), [(520, True), (521, False), (522, False), (524, True), (529, False)])
def test_a_gateway_that_cannot_use_a_reply_may_have_been_charged_for_it(status: int, charged: bool) -> None:
    found = read_error(status, {}, b"<html>gateway</html>")
    assert found is not None
    assert (found.meaning, found.may_have_been_charged) == ("passing", charged)


LABEL = {"rationale": "Because.", "label": "exposed"}
JSON = json.dumps(LABEL)


@pytest.mark.parametrize(
    "content",
    [
        f"<think>\nIs {{this}} exposed? {json.dumps({**LABEL, 'label': 'not-exposed'})}\n</think>\n\n{JSON}",
        f"Okay, the user wants a label.\n</think>\n{JSON}",
        f"```json\n{JSON}\n```",
        f"Here is my assessment:\n\n```json\n{JSON}\n```\nOversight is needed.",
        f'About {{"occupation": "x", "task": "y"}}: {JSON}',
        f"{JSON}\n\nAgain: {JSON}",
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": f"So: {JSON}"}],
        # Around the answer: a list, quotes, the schema's name, a tool's call, or the schema.
        f"[{JSON}]",
        json.dumps(JSON),
        json.dumps({"answer": LABEL}),  # https://github.com/lennartpollvogt/ollama-instructor/issues/6
        json.dumps({"name": "answer", "parameters": LABEL}),
        json.dumps({"type": "object", "properties": LABEL}),  # https://github.com/cloudwego/eino/issues/385
        f'{{"properties": {{"label": {{"type": "string"}}}}}} {JSON}',
        # Other marks of thinking: https://docs.vllm.ai/en/latest/api/vllm/reasoning/index.html
        *(
            f"{begins} {json.dumps({**LABEL, 'label': 'not-exposed'})}? No. {ends}{JSON}"
            for begins, ends in (
                ("<seed:think>", "</seed:think>"),
                ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
                ("<|channel>thought", "<channel|>"),
                ("<THINK>", "</THINK>"),
                ("<|channel|>analysis<|message|>", "<|end|><|channel|>final <|constrain|>json<|message|>"),
            )
        ),
    ],
)
async def test_one_answer_within_other_text_is_read_and_counted(content: Any, store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=chat(content))) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
        assert len(fake.seen) == 2
    assert [(row.label, row.unwrapped, row.repaired) for row in outcome.labels] == [("exposed", True, False)] * 2
    assert outcome.manifest.counts.unwrapped == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"<think>\nOne draft is {JSON} but wait", "is not one JSON object"),
        (f"{JSON} or {json.dumps({**LABEL, 'label': 'not-exposed'})}", "holds 2 different JSON objects"),
        ("I would say exposed.", "it reads 'I would say exposed.'"),
        (json.dumps([LABEL, {**LABEL, "label": "not-exposed"}]), "holds 2 different JSON objects"),
        (json.dumps({"first": LABEL, "second": {**LABEL, "rationale": "No."}}), "holds 2 different JSON objects"),
        ('{"properties": {"rationale": {"type": "string"}, "label": {"type": "string"}}}', "rationale: Field required"),
        ("<|channel>thought\n" + JSON, "is not one JSON object"),
        ("[]", "is not one JSON object; it reads '[]'"),
        ('So: {"rationale": "x", "label": "perhaps"}', "perhaps"),
    ],
)
async def test_what_is_not_one_answer_is_repaired_and_shown(
    content: str, said: str, store: Store, tmp_path: Path
) -> None:
    with provider(lambda seen: Reply(body=chat(content)) if len(seen.messages) == 2 else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
        assert said in fake.seen[-1].messages[-1]["content"]
    assert [(row.unwrapped, row.repaired) for row in outcome.labels] == [(False, True)] * 2
    assert outcome.manifest.counts.repaired == 2


async def test_an_answer_that_the_server_has_parsed_already_is_read(store: Store, tmp_path: Path) -> None:
    body = chat(None)
    body["choices"][0]["message"]["content"] = LABEL
    with provider(lambda seen: Reply(body=body)) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
    assert [(row.label, row.repaired) for row in outcome.labels] == [("exposed", False)] * 2


async def test_line_breaks_that_a_model_did_not_escape_are_read(store: Store, tmp_path: Path) -> None:
    written = '{"rationale": "First.\n\tSecond.", "label": "exposed"}'
    with provider(lambda seen: Reply(body=chat(written))) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
    assert [(row.rationale, row.repaired, row.unwrapped) for row in outcome.labels] == [
        ("First.\n\tSecond.", False, False)
    ] * 2


async def test_an_answer_that_ran_away_is_not_sent_back_whole(store: Store, tmp_path: Path) -> None:
    endless = '{"rationale": "x", "label": ' + " " * 200_000
    with provider(lambda seen: Reply(body=chat(endless)) if len(seen.messages) == 2 else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
        assert max(len(message["content"]) for seen in fake.seen for message in seen.messages[2:]) < 5000
    assert [row.repaired for row in outcome.labels] == [True] * 2


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_an_answer_that_the_server_took_for_thinking_is_read(field: str, store: Store, tmp_path: Path) -> None:
    body = chat(None)
    body["choices"][0]["message"][field] = f"\n{JSON}\n"
    with provider(lambda seen: Reply(body=body)) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
        assert len(fake.seen) == 2
    assert [(row.label, row.unwrapped, row.repaired) for row in outcome.labels] == [("exposed", True, False)] * 2


async def test_where_an_empty_answer_went_is_said(store: Store, tmp_path: Path) -> None:
    body = chat(None)
    body["choices"][0]["message"]["reasoning_content"] = f"One draft is {JSON}, but it may be wrong."
    with provider(lambda seen: Reply(body=body)) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
    assert {f.message for f in outcome.failures} == {
        "the answer is empty: all that came is reasoning_content; a setting of the server puts it there"
    }


async def test_an_empty_answer_is_repaired_without_an_empty_turn(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=chat("")) if len(seen.messages) == 2 else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 2), store, tmp_path / "run")
        assert all(message["content"] for seen in fake.seen for message in seen.messages)
    assert outcome.complete


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"finish_reason": "content_filter: PROHIBITED_CONTENT"}, "content-filter"),
        ({"finish_reason": "SAFETY"}, "content-filter"),
        ({"finish_reason": "refusal"}, "refusal"),
        ({"finish_reason": "model_length"}, "length"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"finish_reason": "model_context_window_exceeded"}, "length"),
        ({"finish_reason": "guardrail_intervened"}, "content-filter"),
        ({"finish_reason": "Length"}, "length"),
        ({"finish_reason": "MaxTokens"}, "length"),
        ({"finish_reason": "max-output-tokens"}, "length"),
        ({"finish_reason": "ContentFilter"}, "content-filter"),
        ({"finish_reason": "Content filtered"}, "content-filter"),
        ({"choices": []}, "content-filter"),
    ],
)
async def test_every_providers_word_for_a_refusal_or_a_cut_is_known(
    changes: dict[str, Any], kind: str, store: Store, tmp_path: Path
) -> None:
    body = chat(None, **changes)
    body |= {name: value for name, value in changes.items() if name == "choices"}
    with provider(lambda seen: Reply(body=body) if "number 0." in seen.prompt else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 2), store, tmp_path / "run")
    assert [failure.kind for failure in outcome.failures] == [kind] * 2


PRICE = Price(input=1, cached=1, output=10, source="the test")


@pytest.mark.parametrize("how", [{"total_tokens": 1240}, {"completion_tokens_details": {"reasoning_tokens": 500}}])
async def test_thinking_outside_of_the_completion_is_billed(how: dict[str, Any], store: Store, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 700, "completion_tokens": 40, "total_tokens": 740, **how}
    with provider(lambda seen: Reply(body=chat(JSON, usage=usage))) as fake:
        outcome = await label_all(make_job(fake.base_url, 1, price=PRICE), store, tmp_path / "run")
    tokens = outcome.manifest.tokens
    assert (tokens.completion, tokens.reasoning) == (2 * 540, 2 * 500)
    assert outcome.manifest.cost_usd == pytest.approx(2 * (700 + 10 * 540) / 1e6)
    assert [(row.completion_tokens, row.reasoning_tokens) for row in outcome.labels] == [(540, 500)] * 2


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("This API key has been disabled.", "denies access"),
        ("The security token included in the request is expired", "denies access"),
        ("Key limit exceeded (total limit).", "quota"),
    ],
)
async def test_a_key_that_is_refused_after_answers_ends_the_run(
    message: str, told: str, store: Store, tmp_path: Path
) -> None:
    said = {"error": {"message": message, "type": "permission_error"}}
    with provider(lambda seen: judged() if len(fake.seen) <= 2 else Reply(403, said)) as fake:
        with pytest.raises(ProviderError, match=told):
            await label_all(make_job(fake.base_url, 9), store, tmp_path / "run", concurrency=1)
        assert len(fake.seen) == 3


@pytest.mark.parametrize(
    ("share", "fingerprint", "told"), [(0.7, "fp_ollama", True), (0.8, "fp_ollama", False), (0.7, "fp_other", False)]
)
async def test_prompts_that_ollama_cuts_are_told_by_its_count_of_tokens(
    share: float, fingerprint: str, told: bool, store: Store, tmp_path: Path
) -> None:
    def script(seen: Seen) -> Reply:
        words = sum(len(message["content"].split()) for message in seen.messages)
        usage = {"prompt_tokens": int(share * words), "completion_tokens": 20}
        return Reply(body={**chat(JSON, usage=usage), "system_fingerprint": fingerprint})

    with provider(script) as fake:
        for out in ("fresh", "stored"):
            outcome = await label_all(make_job(fake.base_url, 2), store, tmp_path / out)
            assert ("4 labels come from prompts that Ollama seems to have cut" in (outcome.manifest.note or "")) is told
        assert len(fake.seen) == 4


@pytest.mark.parametrize("old", [True, False])
async def test_answers_that_a_cache_gives_to_other_questions_are_said(old: bool, store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        return Reply(body=json.dumps(kept))

    long_json = json.dumps({"rationale": "A chat window halves the time, checking included.", "label": "exposed"})

    kept = {**chat(long_json), "created": 1_700_000_000 if old else int(time.time())}
    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 3), store, tmp_path / "run", concurrency=1)
    assert len(outcome.labels) == 6
    note = outcome.manifest.note or ""
    assert note.startswith("5 labels come from a completion that another question got before") is old


async def test_a_server_with_one_short_id_for_all_replies_is_not_asked_twice(store: Store, tmp_path: Path) -> None:
    same = json.dumps({**chat(JSON), "id": "msg_01"})
    with provider(lambda seen: Reply(body=same)) as fake:
        outcome = await label_all(make_job(fake.base_url, 3), store, tmp_path / "run", concurrency=1)
        assert len(fake.seen) == 6
    assert outcome.complete
    assert outcome.manifest.perhaps_charged.requests == 0


def test_only_completions_older_than_their_question_come_from_a_cache() -> None:
    def label(number: int, rationale: str, answer_id: str) -> Label:
        task, key = str(number), f"key {number}"
        return Label(task, "11-1011.00", "s", 0, "exposed", rationale, request_key=key, answer_id=answer_id)

    assert shared_answers([label(number, "why", "id") for number in range(3)]) == 0
    assert shared_answers([label(number, "why", f"id-time{number}") for number in range(3)]) == 0
    assert shared_answers([label(number, "why", "id-time-old" if number else "id-time") for number in range(3)]) == 2


@pytest.mark.parametrize(
    ("left", "reset", "wait_s"), [("0", "3h0m0s", 10800.0), ("0", "20s", None), ("5", "3h", None), ("0", "?", None)]
)
def test_a_refusal_by_a_used_up_limit_of_hours_says_when_it_opens(left: str, reset: str, wait_s: float | None) -> None:
    headers = {"x-ratelimit-remaining-requests": left, "x-ratelimit-reset-requests": reset}
    found = read_error(429, headers, b'{"error": {"message": "Rate limit reached"}}')
    assert found is not None
    assert (found.meaning, found.wait_s) == ("wait", wait_s)


@pytest.mark.parametrize(
    ("tier", "source", "cost", "note"),
    [
        ("priority", "genai-prices 1", None, "2 labels come from answers in the tier priority, whose price"),
        ("ultrafast", "genai-prices 1", None, "2 labels come from answers in the tier ultrafast, whose price"),
        ("flex", "genai-prices 1", 2 * 1100 / 1e6, "2 labels come from answers in the tier flex, whose price"),
        ("priority", "given with --price", 2 * 1100 / 1e6, None),
        ("default", "genai-prices 1", 2 * 1100 / 1e6, None),
    ],
)
async def test_a_tier_that_the_public_price_is_not_of_is_said(
    tier: str, source: str, cost: float | None, note: str | None, store: Store, tmp_path: Path
) -> None:
    body = {**chat(JSON, usage={"prompt_tokens": 700, "completion_tokens": 40}), "service_tier": tier}
    price = PRICE.model_copy(update={"source": source})
    with provider(lambda seen: Reply(body=body)) as fake:
        outcome = await label_all(make_job(fake.base_url, 1, price=price), store, tmp_path / "run")
    assert outcome.manifest.cost_usd == (None if cost is None else pytest.approx(cost))
    assert (outcome.manifest.note or "").startswith(note or "")
    assert (outcome.manifest.note is None) == (note is None)


async def test_the_cost_that_a_provider_states_counts_and_its_upstream_is_kept(store: Store, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 700, "completion_tokens": 40, "total_tokens": 740, "cost": 0.0123}
    with provider(lambda seen: Reply(body={**chat(JSON, usage=usage), "provider": "Together"})) as fake:
        outcome = await label_all(make_job(fake.base_url, 1, price=PRICE), store, tmp_path / "run")
    assert (
        outcome.manifest.cost_usd
        == pytest.approx(0.0246)
        == pytest.approx(sum(r.cost_usd or 0 for r in outcome.labels))
    )
    assert outcome.manifest.table_cost_usd == pytest.approx(2 * 1100 / 1e6)
    assert (outcome.manifest.upstreams, outcome.labels[0].upstream) == (("Together",), "Together")


async def test_a_router_whose_answer_breaks_off_is_asked_again(store: Store, tmp_path: Path) -> None:
    broken = {"id": "gen-1", "model": "m", "error": {"message": "Provider disconnected", "code": 502}}
    with provider(lambda seen: Reply(body=broken) if len(fake.seen) % 2 else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 3), store, tmp_path / "run", concurrency=1)
    assert outcome.complete


async def test_an_answer_that_the_server_aborted_is_asked_for_again_and_not_repaired(
    store: Store, tmp_path: Path
) -> None:
    cut = chat('{"rationale": "Because', finish_reason="abort")
    with provider(lambda seen: Reply(body=cut) if len(fake.seen) % 2 else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 2), store, tmp_path / "run", concurrency=1)
        assert all(len(seen.messages) == 2 for seen in fake.seen)
    assert [(row.label, row.repaired) for row in outcome.labels] == [("exposed", False)] * 4
    assert outcome.manifest.perhaps_charged.requests == 4


async def test_a_model_that_is_retired_during_a_run_ends_it(store: Store, tmp_path: Path) -> None:
    gone = Reply(410, {"title": "Gone", "status": 410, "detail": "The model has reached its end of life."})
    with provider(lambda seen: judged() if len(fake.seen) <= 4 else gone) as fake:
        with pytest.raises(ProviderError, match="end of life"):
            await label_all(make_job(fake.base_url, 20), store, tmp_path / "run", concurrency=1)
        assert len(fake.seen) == 5


async def test_a_run_whose_last_requests_fail_alike_pauses_tries_one_and_ends_with_the_reason(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.runner.PAUSE_S", 0.0)
    with provider(lambda seen: judged() if len(fake.seen) <= 30 else Reply(400, "the upstream is gone")) as fake:
        with pytest.raises(ProviderError, match=r"another one after a pause: HTTP 400: the upstream is gone"):
            await label_all(make_job(fake.base_url, 200), store, tmp_path / "run", concurrency=4)
        assert len(fake.seen) < 30 + 20 + 2 * 4
    assert store.stats().answers == 30


async def test_an_address_that_is_gone_at_a_later_start_ends_it_before_all_is_asked(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.runner.PAUSE_S", 0.0)
    with provider(lambda seen: judged() if len(fake.seen) <= 4 else Reply(404, "Not Found")) as fake:
        for asked in (4 + 20 + 2 * 4, 2 * (20 + 2 * 4)):
            with pytest.raises(ProviderError, match="another one after a pause: HTTP 404: Not Found"):
                await label_all(make_job(fake.base_url, 100), store, tmp_path / "run", concurrency=4)
            assert len(fake.seen) <= asked


async def test_a_run_goes_on_when_the_one_that_is_tried_in_a_pause_comes_through(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.runner.PAUSE_S", 0.05)
    with provider(lambda seen: Reply(400, "hiccup") if 30 < len(fake.seen) <= 48 else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 60), store, tmp_path / "run", concurrency=1)
    assert len(outcome.labels) == 120 - 18
    assert [failure.message for failure in outcome.failures] == ["HTTP 400: hiccup"] * 18


async def test_a_pause_that_an_answer_ends_keeps_nobody_waiting_for_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "PAUSE_S", 0.05)
    breaker = runner._CircuitBreaker(has_earlier_labels=True)  # pyright: ignore[reportPrivateUsage]  two turns must overlap
    for _ in range(18):
        breaker.failed(NoAnswerError("provider", "x", 1, status=500), trial=False)
    second_has_its_turn = asyncio.Event()

    async def first() -> None:
        async with breaker.turn() as trial:
            assert not trial
            await asyncio.wait_for(second_has_its_turn.wait(), 60)

    async def second() -> None:
        async with breaker.turn():
            second_has_its_turn.set()

    turns = [asyncio.create_task(first()), asyncio.create_task(second())]
    await asyncio.sleep(0)  # the first one sleeps now
    breaker.succeeded()
    await asyncio.gather(*turns)


async def test_failures_now_and_then_pause_nothing(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged() if len(fake.seen) % 3 else Reply(400, "odd")) as fake:
        outcome = await label_all(make_job(fake.base_url, 40), store, tmp_path / "run", concurrency=4)
        assert len(fake.seen) == 80
    assert len(outcome.failures) == 26


async def test_a_server_that_ignores_the_bound_of_answers_ends_a_run_with_a_cap(store: Store, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 700, "completion_tokens": 3000, "total_tokens": 3700}
    with provider(lambda seen: Reply(body=chat(JSON, usage=usage), delay=0.02)) as fake:
        endpoint = Endpoint(host=host_of(fake.base_url), model="m", params={"max_completion_tokens": 100})
        budget = Budget(1.0, PRICE)
        engine = OnlineEngine(Connection(fake.base_url, price=PRICE), limiter=Limiter(4), budget=budget)
        job = make_job(fake.base_url, 100, price=PRICE, endpoint=endpoint)
        with pytest.raises(ProviderError, match="wrote 3,000 tokens although at most 100 were allowed"):
            await run_job(job, engine, store, tmp_path / "run")
        await engine.close()
        assert len(fake.seen) <= 1 + 4  # the first, and what was in flight when it was read
    assert read_manifest(tmp_path / "run").cost_usd == pytest.approx(len(fake.seen) * (700 + 30000) / 1e6)


async def test_thinking_beyond_the_bound_is_reserved_for(store: Store, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 700, "completion_tokens": 40, "total_tokens": 1740}
    cap = 0.15
    with provider(lambda seen: Reply(body=chat(JSON, usage=usage))) as fake:
        endpoint = Endpoint(host=host_of(fake.base_url), model="m", params={"max_completion_tokens": 100})
        budget = Budget(cap, PRICE)
        engine = OnlineEngine(Connection(fake.base_url, price=PRICE), limiter=Limiter(1), budget=budget)
        job = make_job(fake.base_url, 100, price=PRICE, endpoint=endpoint)
        outcome = await run_job(job, engine, store, tmp_path / "run")
        await engine.close()
    assert cap / 2 < (outcome.manifest.cost_usd or 0) <= cap
    assert {failure.kind for failure in outcome.failures} == {"budget"}


@pytest.mark.parametrize(
    "given", ["messages=[]", "input=x", "response_format={}", 'text={"format": {}}', "text=plain", "background=true"]
)
def test_what_makes_the_request_is_not_a_parameter(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "sample", "--dry-run"]
    assert run_app([*words, "--api", "responses", "--param", given]) == 2
    assert "--param" in capsys.readouterr().err


def test_other_text_parameters_stand_beside_the_format() -> None:
    messages = [{"role": "user", "content": "x"}]
    made = body("responses", "m", messages, "json_schema", {"type": "object"}, {"text": {"verbosity": "low"}})
    assert made["text"]["verbosity"] == "low"
    assert made["text"]["format"]["schema"] == {"type": "object"}


def test_every_provider_that_researchers_use_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [
        "openai",
        "azure",
        "anthropic",
        "google",
        "xai",
        "openrouter",
        "deepseek",
        "groq",
        "mistral",
        "together",
        "fireworks",
        "vllm",
        "ollama",
        "lmstudio",
        "llamacpp",
        "litellm",
    ]
    assert run_app(["providers", "--json"]) == 0
    listed = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
    assert sorted(listed) == sorted(wanted)
    for one in listed.values():
        assert one["sources"]
        assert one["as_of"]
    for name in wanted:
        assert run_app(["providers", name]) == 0
        assert f"({name})" in capsys.readouterr().out
    assert run_app(["providers", "nobody"]) == 2


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://x.openai.azure.com/openai/v1", "azure"),
        ("https://gateway.campus.edu/openai/deployments/gpt-5?api-version=2024-10-21", "azure"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "google"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://localhost:8000/v1", "unknown"),
        ("https://api.openai.com.evil.example/v1", "unknown"),
        ("http://[", "unknown"),
    ],
)
def test_a_provider_is_recognised_by_its_address(url: str, name: str) -> None:
    assert provider_of(url).id == name


def test_a_key_goes_to_its_own_provider_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: provider_of("", name) for name in ("openai", "anthropic", "google", "xai", "vllm")}
    for variable in (variable for of in known.values() for variable in of.key_env):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")
    monkeypatch.setenv("GOOGLE_API_KEY", "AIza")
    given = Settings.model_construct(openai_api_key=SecretStr("sk-openai"))
    keys = {name: key_for(of, given) for name, of in {**known, "unknown": UNKNOWN}.items()}
    assert {name: key and key.get_secret_value() for name, key in keys.items()} == {
        "openai": None,
        "anthropic": "sk-ant",
        "google": "AIza",
        "xai": None,
        "vllm": "sk-openai",
        "unknown": "sk-openai",
    }


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("option", ["--base-url", "--provider"])
def test_an_address_from_a_variable_that_is_not_set_is_not_openai(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["run", "--model", "m", option, value, "--tasks", "sample", "--dry-run"]) == 2
    assert f"{option} is empty" in capsys.readouterr().err


def test_a_provider_without_one_address_for_all_is_not_openai(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    assert run_app(["run", "--model", "m", "--provider", "azure", "--tasks", "sample", "--dry-run"]) == 2
    assert "Azure OpenAI has a different address for each user; give yours with --base-url" in capsys.readouterr().err


def test_space_around_an_address_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with provider(lambda seen: judged()) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", f" {fake.base_url} ")
        words = ["run", "--model", "m", "--tasks", "sample", "--sample", "2", "--out", "r", "--quiet"]
        assert run_app(words) == 0
        assert {seen.path for seen in fake.seen} == {"/v1/chat/completions"}
    assert open_run("r").manifest.base_url == fake.base_url


def test_a_missing_key_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    words = [
        "run",
        "--model",
        "m",
        "--provider",
        "xai",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--tasks",
        "sample",
        "--quiet",
    ]
    assert run_app([*words, "--out", str(tmp_path / "a")]) == 4
    assert "no key for xAI: set XAI_API_KEY" in capsys.readouterr().err
    assert run_app([*words, "--key-env", "NOT_THERE", "--out", str(tmp_path / "b")]) == 2
    assert "--key-env names NOT_THERE, which is not set" in capsys.readouterr().err


def test_a_key_by_name_and_the_bound_by_the_providers_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_KEY", "my-very-own-key-0123")
    with provider(lambda seen: judged()) as fake:
        words = [
            "run",
            "--model",
            "m",
            "--provider",
            "ollama",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--sample",
            "1",
        ]
        words += [
            "--setting",
            "strict",
            "--quiet",
            "--max-tokens",
            "99",
            "--key-env",
            "MY_KEY",
            "--out",
            str(tmp_path / "run"),
        ]
        assert run_app(words) == 0
        assert fake.seen[0].headers["authorization"] == "Bearer my-very-own-key-0123"
        assert fake.seen[0].body["max_tokens"] == 99
        assert "max_completion_tokens" not in fake.seen[0].body


def test_raw_answers_are_shown_rejected_ones_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home"))
    with provider(lambda seen: Reply(body=chat("I would say so.")) if len(seen.messages) == 2 else judged()) as fake:
        words = [
            "run",
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--sample",
            "2",
            "--setting",
            "strict",
        ]
        assert run_app([*words, "--quiet", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert run_app(["answers", str(tmp_path / "run"), "--json"]) == 0
    good = json.loads(capsys.readouterr().out)
    assert [(one["repaired"], one["raw"]["object"]) for one in good] == [(True, "chat.completion")] * 2
    task = good[0]["task_id"]
    assert run_app(["answers", str(tmp_path / "run"), "--rejected", "--task", task]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{task} strict sample 0  test-model-2026, 100 tokens in, 20 out, finish reason stop")
    assert "rejected as invalid-json" in said
    assert "  I would say so.\n" in said
    assert run_app(["answers", str(tmp_path / "run"), "--task", "none"]) == 0
    assert capsys.readouterr().out == ""
