"""curl_cffi, which is curl with BoringSSL and ngtcp2, allowed HTTP/3 only; for the test in tests/real_clients.rs."""

import curl_cffi
from curl_cffi import AsyncSession, CurlHttpVersion

import scenarios

PROTOCOLS = {CurlHttpVersion.V3: "h3", CurlHttpVersion.V2_0: "h2", CurlHttpVersion.V1_1: "http/1.1"}


async def main(given):
    async def request(method, path, fields, body):
        response = await session.request(
            method, f"https://localhost:{given.port}{path}", headers=fields, data=body, timeout=60
        )
        protocol = PROTOCOLS.get(response.http_version, str(response.http_version))
        return scenarios.Answer(protocol, response.status_code, dict(response.headers), response.content)

    async with AsyncSession(http_version=CurlHttpVersion.V3ONLY, verify=given.ca) as session:
        report = await scenarios.run(given.key, request)
    return {"client": f"curl_cffi {curl_cffi.__version__}", **report}


if __name__ == "__main__":
    scenarios.tell(main(scenarios.arguments()))
