"""A user of the platform, on the laptop: starts a Dask cluster, computes, and says what it saw as lines of JSON.

Usage: client.py ADDRESS [--user NAME] [--refused OPTION=VALUE ...] [--set OPTION=VALUE ...] [--import MODULE] [--workers N] [--loose]
After the line with "workers" it waits for a line on standard input, so that the test can look at the pods; then it shuts down.
With --loose it waits for no worker and computes nothing: each line is a number of workers to scale to, an empty one ends it. The
line "restart" restarts the workers' processes, MODULE:EXPRESSION says what an expression is on each of them, and "submit FOLDER
MODULE FUNCTION" what a function of a module in a folder returns.
"""
import argparse
import importlib
import json
import sys

import dask.array as da
from dask_gateway import BasicAuth, Gateway


def say(**what):
    print(json.dumps(what), flush=True)


def assigned(text):
    name, value = text.split("=", 1)
    for number in int, float:
        try:
            return {name: number(value)}
        except ValueError:
            pass
    return {name: value}


parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("--user")
parser.add_argument("--refused", action="append", default=[])
parser.add_argument("--set", action="append", default=[])
parser.add_argument("--import", dest="module")
parser.add_argument("--workers", type=int, default=4)
parser.add_argument("--loose", action="store_true")
args = parser.parse_args()

gateway = Gateway(args.address, auth=BasicAuth(args.user) if args.user else None)
options = gateway.cluster_options()
say(options={name: options[name] for name in options})
for wrong in args.refused:
    try:
        cluster = gateway.submit(**assigned(wrong))
    except ValueError as error:
        say(refused=str(error))
    else:
        say(refused=f"nothing: {wrong} is taken")
        gateway.stop_cluster(cluster)
for assignment in args.set:
    options.update(assigned(assignment))

cluster = gateway.new_cluster(options) if args.set else gateway.new_cluster()
try:
    cluster.scale(args.workers)
    if args.loose:
        say(cluster=cluster.name)
        for line in sys.stdin:
            if not line.strip():
                break
            if line.strip() == "restart":
                client = cluster.get_client()
                client.restart()
                say(restarted=True)
            elif line.startswith("submit "):  # a function by its name, which the scheduler looks up, too
                folder, module, function = line.split()[1:]
                sys.path.insert(0, folder)
                module = importlib.reload(importlib.import_module(module))
                future = cluster.get_client().submit(getattr(module, function), [1, 2, 3, 400], pure=False)
                try:
                    say(result=future.result(timeout=450))
                except Exception as error:
                    say(result=str(error))
            elif ":" in line:
                def evaluate(module, expression):
                    import importlib
                    return eval(expression, vars(importlib.import_module(module)))
                client = cluster.get_client()
                client.wait_for_workers(args.workers, timeout=450)
                say(answers=list(client.run(evaluate, *line.strip().split(":", 1)).values()))
            else:
                args.workers = int(line)
                cluster.scale(args.workers)
                say(scaled=args.workers)
        cluster.shutdown()
        say(done=True)
        sys.exit()
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
