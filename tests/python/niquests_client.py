"""niquests over HTTP/3 (its QUIC is qh3), for the tests in tests/real_clients.rs."""

import niquests

import scenarios

HTTP3 = {30: "h3", 20: "h2", 11: "http/1.1"}


async def main(given):
    if given.move:
        session = niquests.AsyncSession()
    else:
        # The other versions are off, and the cache of alternative services says where HTTP/3 is.
        session = niquests.AsyncSession(disable_http1=True, disable_http2=True)
        session.quic_cache_layer.add_domain("localhost", given.port)

    async def request(method, path, fields, body):
        response = await session.request(
            method,
            f"https://localhost:{given.port}{path}",
            headers=fields,
            data=body,
            timeout=60,
            verify=given.ca,
        )
        protocol = HTTP3.get(response.http_version, str(response.http_version))
        return scenarios.Answer(protocol, response.status_code, dict(response.headers), response.content or b"")

    async with session:
        report = await (scenarios.move(request) if given.move else scenarios.run(given.key, request))
    return {"client": f"niquests {niquests.__version__}", **report}


if __name__ == "__main__":
    scenarios.tell(main(scenarios.arguments()))
