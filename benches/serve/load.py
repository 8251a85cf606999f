"""Load on a running server: many clients that stream, cancel, err and dawdle, every answer checked.

Usage: load.py URL MODEL [--clients 64] [--seconds 300] [--pid PID] [--requests 40] [--only stream] [--set block_length=4]

Every finished answer must equal that of the same request alone, which is asked before the load. At
the end nothing may be left: no client in the engine, all pages free, and with --pid (Linux) about as
many descriptors and as much memory as after the first tenth of the time. Standard library only.
Prints one JSON object; exit code 1 if anything was wrong.
"""

import argparse
import asyncio
import json
import os
import random
import time
from urllib.parse import urlsplit

PROMPTS = ["Once upon a time", "Lily had a", "The dog ran to", "One day, a boy named Tim", "Mom said"]
KINDS = ["stream"] * 12 + ["whole"] * 3 + ["cancel"] * 2 + ["bad"] * 2 + ["slow"]


def requests(count, more):
    """Requests of random lengths and settings; the same ones in every run."""
    draw = random.Random(1)
    for _ in range(count):
        body = {"prompt": draw.choice(PROMPTS), "max_tokens": draw.randint(4, 160)}
        body["threshold"] = draw.choice([0.5, 0.7, 0.9])
        if draw.random() < 0.4:
            body |= {"temperature": 0.9, "seed": draw.randint(0, 99)}
        yield body | more


class Server:
    def __init__(self, url, model):
        self.host, self.port, self.model = urlsplit(url).hostname, urlsplit(url).port, model

    async def send(self, method, path, body=None):
        """Sends a request on a connection of its own; returns status, reader and writer."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        data = json.dumps(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: load\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        writer.write(head.encode() + b"\r\n" + data)
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        return status, reader, writer

    async def whole(self, method, path, body=None):
        status, reader, writer = await self.send(method, path, body)
        text = (await reader.read()).decode()
        writer.close()
        return status, text

    async def answer(self, body):
        status, text = await self.whole("POST", "/v1/completions", {"model": self.model, **body})
        assert status == 200, (status, text)
        return json.loads(text)["choices"][0]["text"]

    async def metric(self, name):
        _, text = await self.whole("GET", "/metrics")
        prefix = f'{name}{{model="{self.model}"}} '
        return next(float(line[len(prefix) :]) for line in text.splitlines() if line.startswith(prefix))


class Load:
    def __init__(self, server, jobs, kinds, end):
        self.server, self.jobs, self.kinds, self.end = server, jobs, kinds, end
        self.first, self.between, self.counts, self.wrong, self.tokens = [], [], {}, [], 0

    def count(self, kind):
        self.counts[kind] = self.counts.get(kind, 0) + 1

    async def client(self, number):
        draw = random.Random(number)
        while time.monotonic() < self.end:
            body, expected = draw.choice(self.jobs)
            kind = draw.choice(self.kinds)
            try:
                await asyncio.wait_for(self.one(kind, body, expected, draw), 120)
            except Exception as error:  # whatever it is, it is a finding
                self.wrong.append(f"{kind}: {error!r}")
            self.count(kind)

    async def one(self, kind, body, expected, draw):
        if kind == "whole":
            text = await self.server.answer(body)
            if text != expected:
                self.wrong.append(f"whole: {body}")
            return
        if kind == "bad":
            bad = draw.choice([{"top_p": 9}, {"n": 0}, {"prompt": 3}, {"nonsense": 1}])
            status, _ = await self.server.whole("POST", "/v1/completions", {**body, **bad})
            if status != 400:
                self.wrong.append(f"bad: {bad} was answered with {status}")
            return
        await self.stream(kind, {**body, "stream": True}, expected, draw)

    async def stream(self, kind, body, expected, draw):
        start = last = time.monotonic()
        body = {"model": self.server.model, **body}
        status, reader, writer = await self.server.send("POST", "/v1/completions", body)
        assert status == 200, (status, await reader.read())
        text, is_first, finished = "", True, False
        async for line in reader:
            if kind == "slow":
                await asyncio.sleep(0.05)
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                finished = True
                continue
            choice = json.loads(line[6:])["choices"][0]
            if choice["text"]:
                now = time.monotonic()
                if kind == "stream":
                    (self.first if is_first else self.between).append(now - (start if is_first else last))
                last, is_first = now, False
            text += choice["text"]
            if choice.get("dllm"):
                self.tokens += choice["dllm"]["tokens"]
            if kind == "cancel" and draw.random() < 0.3:
                writer.close()
                return
        writer.close()
        if not finished or text != expected:
            self.wrong.append(f"{kind}: {body}")


def percentiles(times):
    times = sorted(times)
    pick = lambda share: round(1e3 * times[min(len(times) - 1, int(share * len(times)))], 2)
    return {f"p{int(100 * share)}_ms": pick(share) for share in (0.5, 0.95, 0.99)} if times else {}


def held(pid):
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    memory = int(fields["VmRSS"].split()[0])
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(fields["Threads"]), "rss_kib": memory}


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--requests", type=int, default=40, help="different requests; each is asked alone first")
    parser.add_argument("--only", choices=sorted(set(KINDS)), help="requests of one kind, for throughput")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=JSON", help="fields of every request")
    args = parser.parse_args()
    server = Server(args.url, args.model)
    more = {field: json.loads(value) for field, value in (pair.split("=", 1) for pair in args.set)}
    all_pages = await server.metric("llada_free_pages")
    jobs = [(body, await server.answer(body)) for body in requests(args.requests, more)]
    begin, busy = time.monotonic(), await server.metric("llada_engine_busy_seconds_total")
    load = Load(server, jobs, [args.only] if args.only else KINDS, begin + args.seconds)
    clients = [asyncio.create_task(load.client(number)) for number in range(args.clients)]
    await asyncio.sleep(args.seconds / 10)
    early = held(args.pid) if args.pid else None
    await asyncio.gather(*clients)
    elapsed = time.monotonic() - begin
    busy = await server.metric("llada_engine_busy_seconds_total") - busy
    await asyncio.sleep(2)
    left = await server.metric("llada_clients")
    free = await server.metric("llada_free_pages")
    if left or free != all_pages:
        load.wrong.append(f"{left} clients left, {all_pages - free} pages not free")
    report = {
        "clients": args.clients,
        "seconds": round(elapsed, 1),
        "requests": load.counts,
        "tokens_per_second": round(load.tokens / elapsed, 1),
        "engine_busy_share": round(busy / elapsed, 4),
        "first_text": percentiles(load.first),
        "between_texts": percentiles(load.between),
        "held_early": early,
        "held_at_the_end": held(args.pid) if args.pid else None,
        "wrong": len(load.wrong),
        "examples": load.wrong[:5],
    }
    print(json.dumps(report, indent=1))
    return 1 if load.wrong else 0


raise SystemExit(asyncio.run(main()))
