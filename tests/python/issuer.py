"""An identity provider for the tests: serves its keys, and signs whatever it is asked to.

Prints `issuer is ready: URL`. GET /keys is its key set, GET /.well-known/openid-configuration names it. The rest is for
the test: POST /sign takes {"claims", "header", "key", "alg", "attack"} and answers a token; POST /rotate takes
{"keys": [...]} and serves these keys from then on; GET /count tells how often the keys were fetched.
"""

import base64
import hashlib
import hmac
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

KINDS = {
    "rsa": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm, "RS256"),
    "weak": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024), RSAAlgorithm, "RS256"),
    "ec": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm, "ES256"),
    "ed": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm, "EdDSA"),
}


class Keys:
    """Keys by name; a name begins with the key's kind, as in rsa-1."""

    def __init__(self):
        self.lock = threading.Lock()
        self.made = {}
        self.served = ["rsa-1", "ec-1", "ed-1"]
        self.fetched = 0

    def key(self, name):
        with self.lock:
            if name not in self.made:
                self.made[name] = KINDS[name.split("-")[0]][0]()
            return self.made[name]

    def jwk(self, name):
        if name == "oct":
            # A shared secret among public keys, as no provider should serve it.
            return {"kty": "oct", "kid": "oct", "alg": "HS256", "k": part(b"secret" * 8)}
        jwk = KINDS[name.split("-")[0]][1].to_jwk(self.key(name).public_key(), as_dict=True)
        jwk.pop("key_ops", None)
        return {**jwk, "kid": name, "use": "sig"}


KEYS = Keys()


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header, claims, secret):
    """A token that no library makes: HMAC with a key of the wrong kind, or no signature at all."""
    message = part(json.dumps(header).encode()) + "." + part(json.dumps(claims).encode())
    signature = hmac.new(secret, message.encode(), hashlib.sha256).digest() if secret else b"x"
    return message + "." + part(signature)


def sign(asked):
    name, claims = asked.get("key", "rsa-1"), asked["claims"]
    header = {"kid": name, **asked.get("header", {})}
    header = {field: value for field, value in header.items() if value is not None}
    attack = asked.get("attack")
    if attack == "none":
        return by_hand({"typ": "JWT", **header, "alg": "none"}, claims, None)
    if attack == "secret":
        return by_hand({"typ": "JWT", **header, "alg": "HS256"}, claims, b"secret" * 8)
    if attack == "public":
        pem = KEYS.key(name).public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return by_hand({"typ": "JWT", **header, "alg": "HS256"}, claims, pem)
    algorithm = asked.get("alg", KINDS[name.split("-")[0]][2])
    # As bytes: of claims the library refuses what is wrong with them, which is what the tests ask for.
    payload = json.dumps(claims).encode()
    token = jwt.PyJWS().encode(payload, KEYS.key(name), algorithm=algorithm, headers={"typ": "JWT", **header})
    if attack == "claims":
        head, _, signature = token.split(".")
        return ".".join([head, part(json.dumps({**claims, "sub": "somebody"}).encode()), signature])
    return token


class Handler(BaseHTTPRequestHandler):
    def answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        url = f"http://{self.headers['host']}"
        if self.path == "/keys":
            with KEYS.lock:
                KEYS.fetched += 1
            self.answer({"keys": [KEYS.jwk(name) for name in KEYS.served]})
        elif self.path == "/.well-known/openid-configuration":
            self.answer({"issuer": url, "jwks_uri": f"{url}/keys"})
        elif self.path == "/count":
            self.answer({"fetched": KEYS.fetched})
        else:
            self.answer({}, 404)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/rotate":
            KEYS.served = asked["keys"]
            self.answer({})
        else:
            self.answer({"token": sign(asked)})

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"issuer is ready: http://127.0.0.1:{server.server_address[1]}", flush=True)
sys.stdout.flush()
server.serve_forever()
