"""For the container of a Dask scheduler: the cluster loads its modules again. Prints how many workers it has then."""
import asyncio
import sys

import dask.config
from distributed import Client, Security

TIMEOUT = 60  # seconds, for the workers to end and to come back


def forget_modules():
    """Make the scheduler import the user's modules again: it looks up the functions in the graphs that it unpacks."""
    import sys
    import sysconfig

    standard = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        installed = path.startswith(standard) or "/site-packages/" in path or "/dist-packages/" in path
        if path.endswith(".py") and not installed and name != "__main__":
            del sys.modules[name]


async def main():
    # A gateway gives its pods one certificate, for all sides, and names it for schedulers and workers.
    certificate, key = (dask.config.get("distributed.comm.tls.scheduler." + name) for name in ("cert", "key"))
    security = Security(tls_client_cert=certificate, tls_client_key=key, require_encryption=bool(certificate))
    address = ("tls" if certificate else "tcp") + "://localhost:8786"
    async with Client(address, security=security, asynchronous=True, set_as_default=False) as client:
        await client.run_on_scheduler(forget_modules)
        await client.restart(timeout=TIMEOUT)
        print(len(await client.nthreads()))


try:
    asyncio.run(main())
except Exception as error:
    sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))  # one line
