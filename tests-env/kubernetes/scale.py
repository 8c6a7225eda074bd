#!/usr/bin/env python3
"""Applies graphs, waits until all are Ready, and prints what the operator took: one JSON line at the end."""
import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request

READY_SECONDS_MAX = 3600
QUIET_SECONDS = 60
# Work that an apply leaves behind (status, events) is over by then; what runs on is the steady state.
SETTLE_SECONDS = 30

parser = argparse.ArgumentParser()
for name in ["graphs", "workers", "pid"]:
    parser.add_argument(f"--{name}", type=int, required=True)
for name in ["kubectl", "namespace", "metrics"]:
    parser.add_argument(f"--{name}", required=True)
options = parser.parse_args()


def graph(number):
    def component(name, kind, replicas, resources, more):
        main = {"name": "main", "image": "registry.test/busbar:1.0.0", "resources": {"limits": resources}}
        if kind == "worker":
            main |= {"command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "org/model"]}
        pod = {"spec": {"containers": [main], **more}}
        return {"name": name, "type": kind, "replicas": replicas, "podTemplate": pod}

    tolerated = {
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        "nodeSelector": {"node.kubernetes.io/instance-type": "c5.2xlarge"},
    }
    return {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": f"graph-{number}", "namespace": options.namespace},
        "spec": {
            "components": [
                component("Frontend", "frontend", 1, {"cpu": "100m"}, tolerated),
                component("Worker", "worker", options.workers, {"nvidia.com/gpu": "1"}, {}),
            ]
        },
    }


def kubectl(*arguments, text=None):
    return subprocess.run([options.kubectl, *arguments], input=text, check=True, capture_output=True, text=True).stdout


def cpu_seconds():
    fields = open(f"/proc/{options.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb():
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{options.pid}/status").read())[1]) / 1000


peak = 0.0
running = True


def watch_memory():
    global peak
    while running:
        peak = max(peak, rss_mb())
        time.sleep(0.5)


def metrics():
    return urllib.request.urlopen(options.metrics).read().decode()


def lists_and_watches():
    """What the API server counts, of everybody: LIST requests of the kinds that the operator reads."""
    text = kubectl("get", "--raw", "/metrics")
    kinds = "dynamographdeployments|dynamocomponentdeployments|deployments|pods|services"
    pattern = rf'^apiserver_request_total{{[^}}]*resource="(?:{kinds})"[^}}]*verb="LIST"[^}}]*}} (\S+)'
    return sum(float(value) for value in re.findall(pattern, text, re.M))


def quantile(text, name, wanted):
    """The upper bound of the bucket that holds the quantile, over all label sets."""
    counts = {}
    for bound, count in re.findall(rf'^{name}_bucket{{[^}}]*le="([^"]+)"[^}}]*}} (\S+)', text, re.M):
        counts[float(bound)] = counts.get(float(bound), 0) + float(count)
    ordered = sorted(counts.items())
    if not ordered or not ordered[-1][1]:
        return None
    return next(bound for bound, count in ordered if count >= wanted * ordered[-1][1])


threading.Thread(target=watch_memory, daemon=True).start()
idle = rss_mb()
begun, cpu_begun = time.monotonic(), cpu_seconds()
items = {"apiVersion": "v1", "kind": "List", "items": [graph(number) for number in range(options.graphs)]}
kubectl("apply", "--server-side", "-f", "-", text=json.dumps(items))
applied = time.monotonic() - begun
print(f"-- {options.graphs} graphs are applied: {applied:.1f} s", flush=True)
ready = 0
while ready < options.graphs:
    if time.monotonic() - begun > READY_SECONDS_MAX:
        sys.exit(f"FAILED: {ready} of {options.graphs} graphs are Ready after {READY_SECONDS_MAX} s")
    time.sleep(2)
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    states = kubectl("-n", options.namespace, "get", "dgd", "-o", f"jsonpath={path}").split()
    if states.count("True") != ready:
        ready = states.count("True")
        print(f"-- {ready} of {options.graphs} are Ready: {time.monotonic() - begun:.0f} s", flush=True)
took, cpu_took = time.monotonic() - begun, cpu_seconds() - cpu_begun
time.sleep(SETTLE_SECONDS)
cpu_begun, lists_begun = cpu_seconds(), lists_and_watches()
time.sleep(QUIET_SECONDS)
cpu_quiet, lists_quiet = cpu_seconds() - cpu_begun, lists_and_watches() - lists_begun
running = False
print(
    json.dumps(
        {
            "graphs": options.graphs,
            "pods": options.graphs * (options.workers + 1),
            "all_ready_s": round(took, 1),
            "operator_cpu_s": round(cpu_took, 1),
            "operator_rss_mb": {"idle": round(idle), "peak": round(peak), "steady": round(rss_mb())},
            "reconcile_p99_s_at_most": quantile(metrics(), "busbar_operator_reconcile_duration_seconds", 0.99),
            "quiet_minute": {"operator_cpu_s": round(cpu_quiet, 2), "lists_of_everybody": lists_quiet},
        }
    )
)
