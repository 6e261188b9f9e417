"""A user of the platform, on the laptop: starts a Dask cluster, computes, and says what it saw as lines of JSON.

Usage: client.py ADDRESS [--user NAME] [--set OPTION=VALUE ...] [--import MODULE] [--workers N]
After the line with "workers" it waits for a line on standard input, so that the test can look at the pods; then it shuts down.
"""
import argparse
import json
import sys

import dask.array as da
from dask_gateway import BasicAuth, Gateway


def say(**what):
    print(json.dumps(what), flush=True)


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("--user")
parser.add_argument("--set", action="append", default=[])
parser.add_argument("--import", dest="module")
parser.add_argument("--workers", type=int, default=4)
args = parser.parse_args()

gateway = Gateway(args.address, auth=BasicAuth(args.user) if args.user else None)
options = gateway.cluster_options()
say(options={name: options[name] for name in options})
for assignment in args.set:
    name, value = assignment.split("=", 1)
    options[name] = number(value)

cluster = gateway.new_cluster(options) if args.set else gateway.new_cluster()
try:
    cluster.scale(args.workers)
    client = cluster.get_client()
    client.wait_for_workers(args.workers, timeout=450)
    x = da.arange(1_000_000, chunks=50_000)
    answer = int((x * 2).sum().compute())
    say(answer=answer, expected=999_999 * 1_000_000)
    if args.module:
        def version(module):
            import importlib
            import importlib.metadata
            importlib.import_module(module)
            return importlib.metadata.version(module)
        say(versions=sorted(set(client.run(version, args.module).values())))
    skew = client.get_versions(check=True)  # raises where client, scheduler and workers hold other libraries
    say(cluster=cluster.name, workers=len(skew["workers"]))
    sys.stdin.readline()
    client.close()
finally:
    cluster.shutdown()
say(done=True)
