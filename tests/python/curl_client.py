"""curl_cffi, which is curl with BoringSSL and ngtcp2, for the tests in tests/real_clients.rs: allowed HTTP/3 only, or
with a file for what it learns from Alt-Svc."""

import os
import tempfile

import curl_cffi
from curl_cffi import AsyncSession, CurlHttpVersion, CurlOpt

import scenarios

PROTOCOLS = {CurlHttpVersion.V3: "h3", CurlHttpVersion.V2_0: "h2", CurlHttpVersion.V1_1: "http/1.1"}
# CURLALTSVC_H1, _H2 and _H3: which alternatives are believed.
ALTERNATIVES = (1 << 3) | (1 << 4) | (1 << 5)


async def main(given):
    return await (move(given) if given.move else run(given))


def told(report):
    return {"client": f"curl_cffi {curl_cffi.__version__}", **report}


async def move(given):
    """Looks for alternatives only when it connects: so each request has a connection of its own, as with the command."""
    with tempfile.TemporaryDirectory() as directory:
        options = {CurlOpt.ALTSVC: os.path.join(directory, "alternatives").encode(), CurlOpt.ALTSVC_CTRL: ALTERNATIVES}

        async def request(method, path, fields, body):
            async with AsyncSession(verify=given.ca, curl_options=options) as session:
                return await send(session, given, method, path, fields, body)

        return told(await scenarios.move(request))


async def send(session, given, method, path, fields, body):
    response = await session.request(
        method, f"https://localhost:{given.port}{path}", headers=fields, data=body, timeout=60
    )
    protocol = PROTOCOLS.get(response.http_version, str(response.http_version))
    return scenarios.Answer(protocol, response.status_code, dict(response.headers), response.content)


async def run(given):
    async def request(method, path, fields, body):
        return await send(session, given, method, path, fields, body)

    async with AsyncSession(http_version=CurlHttpVersion.V3ONLY, verify=given.ca) as session:
        report = await scenarios.run(given.key, request)
    return told(report)


if __name__ == "__main__":
    scenarios.tell(main(scenarios.arguments()))
