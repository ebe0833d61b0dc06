"""As much of the server of Weights & Biases as takes the history of runs and their tables.

The history is kept by offset, and told to who resumes a run. A table comes as an artifact: its files, a manifest of
their names, and the word that it is complete.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "manifest.json"
Json = dict[str, Any]  # Any: whatever JSON holds


class WandbServer(ThreadingHTTPServer):
    """Keeps the history of each run, by its identifier; refuses every key where it is told to.

    Attributes:
        histories: steps of each run.
        tables: complete ones, by the names of their collection and their file.
    """

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuses = refuses
        self.histories: dict[str, list[Json]] = {}
        self.tables: dict[str, Json] = {}
        self._uploaded: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def running(self) -> Iterator["WandbServer"]:
        thread = threading.Thread(target=self.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def take(self, run: str, offset: int, lines: list[str]) -> None:
        history = self.histories.setdefault(run, [])
        history[offset : offset + len(lines)] = [json.loads(line) for line in lines]

    def keep(self, name: str, content: bytes) -> None:
        self._uploaded[name] = content

    def data(self, query: str, variables: Json) -> Json:
        if "RunResumeStatus" in query:
            return {"model": {"id": "p", "name": "p", "bucket": self.bucket(variables["name"])}}
        if "UpsertBucket" in query:
            entity = {"id": "e", "name": "e"}
            name, project = variables["name"], {"id": "p", "name": "p", "entity": entity}
            return {"upsertBucket": {"bucket": {"id": name, "name": name, "displayName": name, "project": project}}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "Artifact" in query:
            return self.artifact(query, variables)
        return {"viewer": {"id": "u", "entity": "e", "username": "u"}, "serverInfo": {"features": []}}

    def artifact(self, query: str, variables: Json) -> Json:
        """Take the next part of an artifact, which goes by the name of its collection."""
        if "CreateArtifactFiles" in query:
            nodes = [self.file(file["artifactID"], file["name"]) for file in variables["input"]["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if "CreateArtifactManifest" in query:
            name = variables["artifactID"]
            return {"createArtifactManifest": {"artifactManifest": {"id": name, "file": self.file(name, MANIFEST)}}}
        if "UpdateArtifactManifest" in query:
            name = variables["artifactManifestID"]
            return {"updateArtifactManifest": {"artifactManifest": {"id": name, "file": self.file(name, MANIFEST)}}}
        if "CommitArtifact" in query:
            name = variables["artifactID"]
            files = json.loads(self._uploaded[f"{name}/{MANIFEST}"])["contents"]
            self.tables |= {f"{name}/{file}": json.loads(self._uploaded[f"{name}/{file}"]) for file in files}
            return {"commitArtifact": {"artifact": {"id": name, "digest": ""}}}
        name, sequence = variables["input"]["artifactCollectionName"], {"latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": sequence}}}

    def file(self, artifact: str, name: str) -> Json:
        """Say where a file of an artifact is to be sent."""
        url = f"{self.url}/artifact/{artifact}/{name}"
        return {"id": name, "storagePath": name, "uploadUrl": url, "uploadHeaders": [], "artifact": {"id": artifact}}

    def bucket(self, name: str) -> Json | None:
        history = self.histories.get(name)
        if not history:
            return None
        last = json.dumps(history[-1])
        counts = {"historyLineCount": len(history), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps([last]), "eventsTail": "[]", "summaryMetrics": last}
        return {"id": name, "name": name, "config": "{}", "wandbConfig": '{"t": 1}', "tags": [], **counts, **tails}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(200, {})

    def do_PUT(self) -> None:
        content = self.content()
        if self.path.startswith("/artifact/"):
            self.server.keep(self.path.removeprefix("/artifact/"), content)
        self.answer(200, {})

    def do_POST(self) -> None:
        content = self.content()
        body = json.loads(content or b"{}")
        if self.server.refuses:
            self.answer(401, {"errors": [{"message": "invalid key"}]})
        elif self.path.endswith("/file_stream"):
            history = (body.get("files") or {}).get("wandb-history.jsonl")
            if history is not None:
                self.server.take(self.path.split("/")[-2], history["offset"], history["content"])
            self.answer(200, {})
        else:
            self.answer(200, {"data": self.server.data(body.get("query", ""), body.get("variables") or {})})

    def content(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def answer(self, code: int, body: Json) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
