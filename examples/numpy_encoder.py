"""A text encoder for modiff without torch, and without a line of modiff: the micro UMT5 in NumPy, over HTTP.

    python examples/numpy_encoder.py [FOLDER with text_encoder.safetensors and tokenizer.json]

It speaks the contract of docs/remote.md; `modiff serve --check URL` says so. Needs numpy and tokenizers.
"""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

MICRO = Path(__file__).resolve().parents[1] / "engine" / "micro" / "weights"
MAX_TOKENS, MAX_BYTES, SECONDS = 512, 256 * 1024, 30.0
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Encoder:
    def __init__(self, folder: Path) -> None:
        data = (folder / "text_encoder.safetensors").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        self.weights = {}
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = (start + offset for offset in entry["data_offsets"])
            raw = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            if entry["dtype"] == "BF16":  # the upper half of an fp32
                raw = (raw.astype(np.uint32) << 16).view(np.float32)
            self.weights[name] = raw.astype(np.float32)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        files = hashlib.sha256(data + (folder / "tokenizer.json").read_bytes()).hexdigest()
        self.identity = {"name": "numpy-umt5", "version": 1, "files": files}

    def encode(self, prompt: str) -> np.ndarray:
        w = self.weights
        x = w["token_embedding.weight"][self.tokenizer.encode(prompt).ids]
        for i in range(sum(name.endswith("attn.q.weight") for name in w)):
            x = x + self._attention(_norm(x, w[f"blocks.{i}.norm1.weight"]), f"blocks.{i}.")
            h, ffn = _norm(x, w[f"blocks.{i}.norm2.weight"]), f"blocks.{i}.ffn."
            gate = _gelu(h @ w[f"{ffn}gate.0.weight"].T)
            x = x + (gate * (h @ w[f"{ffn}fc1.weight"].T)) @ w[f"{ffn}fc2.weight"].T
        return _norm(x, w["norm.weight"])  # [L, dim], a row for each token, its end among them

    def _attention(self, x: np.ndarray, block: str) -> np.ndarray:
        table = self.weights[f"{block}pos_embedding.embedding.weight"]  # of each block its own
        num_buckets, num_heads = table.shape
        q, k, v = (x @ self.weights[f"{block}attn.{name}.weight"].T for name in "qkv")
        q, k, v = (each.reshape(len(x), num_heads, -1) for each in (q, k, v))
        places = np.arange(len(x))
        scores = np.einsum("qhd,khd->hqk", q, k)  # not scaled
        scores += table[_buckets(places[None] - places[:, None], num_buckets)].transpose(2, 0, 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        seen = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v)
        return seen.reshape(len(x), -1) @ self.weights[f"{block}attn.o.weight"].T


def _norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * (x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-6)))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + 0.044715 * x**3)))


def _buckets(distance: np.ndarray, num_buckets: int, furthest: int = 128) -> np.ndarray:
    """Of distances [L,L]: half for each direction, single ones near by, ever longer ranges further away."""
    half, exact = num_buckets // 2, num_buckets // 4
    away = np.abs(distance)
    ratio = np.log(np.maximum(away, 1) / np.float32(exact)) / np.log(furthest / exact)
    far = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
    return np.where(distance > 0, half, 0) + np.where(away < exact, away, far)


class Handler(BaseHTTPRequestHandler):
    protocol_version, timeout = "HTTP/1.1", SECONDS
    encoder: Encoder
    turn, places = threading.Lock(), threading.BoundedSemaphore(8)

    def do_GET(self) -> None:
        facts = {"text_dim": len(self.encoder.weights["norm.weight"])}
        of = json.dumps([self.encoder.identity, facts], sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(of.encode()).hexdigest()
        has = {"identity": self.encoder.identity, "facts": facts, "dtype": "F32", "digest": digest}
        load = {"busy": self.turn.locked(), "waiting": 0, "answered": 0, "seconds": 0.0}
        answers: dict[str, dict[str, object]] = {
            "/fingerprint": {"components": {"text_encoder": has}, "max_body_bytes": MAX_BYTES},
            "/health": {"version": "1", "components": {"text_encoder": load}},
        }
        said = self.headers.get("Content-Length", "0")
        length = int(said) if said.isdecimal() else MAX_BYTES + 1
        host = self.headers.get("Host", "").rpartition(":")[0]
        if "Origin" in self.headers or host not in ("127.0.0.1", "localhost"):
            self.refuse(403, "this is for programs of this machine")
        elif self.path == "/encode-text" and self.command == "POST":
            if length > MAX_BYTES:
                self.refuse(413, f"expected at most {MAX_BYTES} bytes")
            elif (data := self.rfile.read(length)) and self.headers["X-Modiff-Expects"] != digest:
                self.refuse(412, "serves another text encoder than the request is for")
            elif not self.places.acquire(blocking=False):
                self.refuse(429, "too many requests wait; try again")
            else:
                self.encode(data)
        elif self.path in answers and self.command == "GET":
            self.answer(200, json.dumps({"contract": 1, **answers[self.path]}).encode())
        else:
            self.refuse(404, "there is no such operation here")

    do_POST = do_PUT = do_GET

    def encode(self, data: bytes) -> None:
        try:
            prompt = json.loads(data)["prompt"]
            with self.turn:
                states = self.encoder.encode(prompt)
        except (ValueError, TypeError, KeyError, RecursionError):
            self.refuse(400, 'expected {"prompt": "..."}')
        else:
            entry = {"dtype": "F32", "shape": states.shape, "data_offsets": [0, states.nbytes]}
            header = json.dumps({"states": entry}).encode()
            body = len(header).to_bytes(8, "little") + header + states.astype("<f4").tobytes()
            self.answer(200, body, "application/octet-stream")
        finally:
            self.places.release()

    def refuse(self, status: int, why: str) -> None:
        self.answer(status, json.dumps({"error": why}).encode())

    def answer(self, status: int, data: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        if status >= 400:  # of which the body was perhaps not read
            self.send_header("Connection", "close")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    Handler.encoder = Encoder(Path(sys.argv[1]) if len(sys.argv) > 1 else MICRO)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
