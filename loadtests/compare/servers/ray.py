"""Ray Serve: a deployment for each model, with `@serve.batch`.

python -m loadtests.compare.servers.ray --port PORT --folder FOLDER
"""

import argparse
from io import BytesIO

import ray
from ray import serve
from starlette.requests import Request

from loadtests.compare.servers.models import ALL, Answer


# A share of a core, so that three replicas find room on any machine; it limits nothing.
@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
class Peer:
    def __init__(self, name: str) -> None:
        self.model = ALL[name]()

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.01)  # type: ignore[untyped-decorator]
    async def predict(self, payloads: list[bytes]) -> list[Answer]:
        return self.model.predict([self.model.decode(BytesIO(p)) for p in payloads])

    async def __call__(self, request: Request) -> Answer:
        answer: Answer = await self.predict(await request.body())
        return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", required=True, help="where Ray keeps its sockets and logs")
    args = parser.parse_args()
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=args.folder)
    serve.start(http_options={"host": "127.0.0.1", "port": args.port})
    bind = Peer.bind  # type: ignore[attr-defined]  # the decorator makes a Deployment
    first, *others = ALL
    for name in others:
        serve.run(bind(name), name=name, route_prefix=f"/{name}")
    serve.run(bind(first), name=first, route_prefix=f"/{first}", blocking=True)
